// Where the ragged kernel finds its keys: flat in memory, or in pages of the index cache that a
// list lays end to end. A policy says how the producer loads a stage of 128 keys and where a math
// lane finds the scale of its key.
//
// Both halves of a stage are 64 keys: the keys of a math warpgroup, and of a page.
#pragma once
#include <cstdint>

#include "device/ptx/copy.cuh"
#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/indexer/args.h"
#include "kernels/indexer/traits.h"

namespace dsa_ops::indexer {

// A unit of work as every lane of a warp sees it, and the range of the tile's row `lane`.
struct RaggedWork {
  int32_t first_row;
  int32_t scan_begin, tiles, store_end;
  RowRange row;
};

// Of the key of a math lane in one stage.
struct LaneKey {
  float scale;
  bool present;
};

__device__ __forceinline__ int32_t clamp_key(int32_t key, int32_t num_keys) {
  return min(max(key, 0), num_keys);
}

// The keys that a row scores, of num_keys.
__device__ __forceinline__ RowRange row_range(RaggedArgs const& args, int32_t num_keys,
                                              int32_t row) {
  RowRange const range{clamp_key(__ldg(args.row_starts + row), num_keys),
                       clamp_key(__ldg(args.row_ends + row), num_keys)};
  return range.end - range.begin > args.unscored_length ? range : RowRange{0, 0};
}

struct FlatKeys {
  using Args = RaggedArgs;
  template <class Tile>
  using Storage = RaggedStorage<Tile>;

  // Stores of 16 keys start on a 64-byte boundary where the row itself does.
  static constexpr int32_t kScanAlignment = 16;

  static __device__ __forceinline__ bool any(Args const&) { return true; }
  static __device__ __forceinline__ RowRange range(Args const& args, int32_t row) {
    return row_range(args, args.num_keys, row);
  }

  // Loads the stages of a unit, in order; for a whole warp.
  template <class Storage>
  class Feed {
   public:
    __device__ Feed(Args const& args, Storage& shared, RaggedWork const& unit, int)
        : args_(args), shared_(shared), next_key_(unit.scan_begin) {}

    __device__ __forceinline__ void load(uint32_t stage) {
      if (ptx::elect_one()) {
        uint64_t* full = &shared_.key_full[stage];
        ptx::mbarrier_arrive_expect_tx(full, kStageBytes);
        ptx::tma_load_2d(shared_.keys[stage], &args_.key_map, full, 0, next_key_);
      }
      next_key_ += kStageKeys;
    }

   private:
    Args const& args_;
    Storage& shared_;
    int32_t next_key_;
  };

  // What a lane reads from global memory ahead of key n's stage, and of those that follow. The
  // scales: their address need not be aligned as a copy would want it.
  static constexpr int32_t kAheadPerStage = kStageKeys;
  static __device__ __forceinline__ float const* ahead_at(Args const& args, int32_t n) {
    return args.k_scale + n;
  }
  template <class Storage>
  static __device__ __forceinline__ LaneKey lane_key(Args const&, Storage const&, uint32_t, int,
                                                     float scale) {
    return LaneKey{scale, true};
  }
  // Lanes of a warp that tell the producer when a stage has been read: wgmma alone reads it.
  static constexpr int kReleasingLanes = 1;
};

struct CachedKeys {
  using Args = CachedArgs;
  template <class Tile>
  using Storage = CachedStorage<Tile>;

  static constexpr int32_t kScanAlignment = kPageKeys;

  static __device__ __forceinline__ bool any(Args const& args) { return args.num_pages > 0; }
  static __device__ __forceinline__ RowRange range(Args const& args, int32_t row) {
    return row_range(args, args.num_keys, row);
  }
  static __device__ __forceinline__ bool present(Args const& args, int32_t page) {
    return page >= 0 && page < args.num_pages;
  }

  // A page that is not in the cache is never read; what its half of a stage holds is scored and
  // then ignored.
  template <class Storage>
  class Feed {
   public:
    __device__ Feed(Args const& args, Storage& shared, RaggedWork const& unit, int lane)
        : args_(args), shared_(shared), lane_(lane) {
      next_ = unit.scan_begin / kPageKeys;
      end_ = (unit.store_end + kPageKeys - 1) / kPageKeys;
      ahead_ = page_of_lane(next_);
    }

    __device__ __forceinline__ void load(uint32_t stage) {
      if (turn_ % 32 == 0) {
        lane_page_ = ahead_;
        ahead_ = page_of_lane(next_ + 32);
      }
      int32_t const page_0 = __shfl_sync(~0u, lane_page_, turn_ % 32);
      int32_t const page_1 = __shfl_sync(~0u, lane_page_, turn_ % 32 + 1);
      bool const present_0 = present(args_, page_0);
      bool const present_1 = present(args_, page_1);
      if (ptx::elect_one()) {
        ptx::mbarrier_arrive_expect_tx(&shared_.key_full[stage],
                                       (present_0 + present_1) * kPageBytes);
        if (present_0) load_page(stage, 0, page_0);
        if (present_1) load_page(stage, 1, page_1);
      }
      next_ += 2;
      turn_ += 2;
    }

   private:
    // Of the 32 pages from `first` on; -1 past the unit's last.
    __device__ __forceinline__ int32_t page_of_lane(int32_t first) const {
      return first + lane_ < end_ ? __ldg(args_.page_ids + first + lane_) : -1;
    }
    __device__ __forceinline__ void load_page(uint32_t stage, int half, int32_t page) {
      uint64_t* full = &shared_.key_full[stage];
      ptx::tma_load_3d(shared_.keys[stage] + half * kWarpgroupKeys * kHeadDim, &args_.key_map, full,
                       0, 0, page);
      ptx::bulk_copy(shared_.scales[stage] + half * kPageKeys,
                     args_.index_cache + page * args_.page_stride_bytes + kPageScalesOffset,
                     kPageKeys * sizeof(float), full);
    }

    Args const& args_;
    Storage& shared_;
    int const lane_;
    int32_t next_;      // place in the list of the next page
    int32_t end_;       // and of the first that the unit does not need
    int32_t turn_ = 0;  // pages loaded
    int32_t lane_page_ = -1;
    int32_t ahead_;  // the 32 pages after those that the lanes hold
  };

  // Reading the page ids again tells a math lane what is present without a word from the producer.
  static constexpr int32_t kAheadPerStage = kStageKeys / kPageKeys;
  static __device__ __forceinline__ int32_t const* ahead_at(Args const& args, int32_t n) {
    return args.page_ids + n / kPageKeys;
  }
  template <class Storage>
  static __device__ __forceinline__ LaneKey lane_key(Args const& args, Storage const& shared,
                                                     uint32_t stage, int key, int32_t page) {
    return LaneKey{shared.scales[stage][key], present(args, page)};
  }
  static constexpr int kReleasingLanes = 32;  // each has read a scale
};

}  // namespace dsa_ops::indexer
