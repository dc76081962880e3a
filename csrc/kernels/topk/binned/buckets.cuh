// Buckets of a row's logits about the k-th best: 256 of them, linear between two samples, which
// keep the logits that they count. So the block meets once between the row and its k-th best.
#pragma once
#include <cstdint>

#include "device/ptx/mbarrier.cuh"
#include "device/ptx/warp.cuh"
#include "kernels/topk/binned/bin_map.cuh"
#include "kernels/topk/binned/traits.h"
#include "kernels/topk/bins.cuh"
#include "kernels/topk/block_scan.cuh"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/packet.cuh"

namespace dsa_ops::topk_sm90::binned {

// A sample of each four threads: 32 runs of four neighbours, at scrambled places.
template <LogitsType kType, class Element>
__device__ __forceinline__ float sample_of_thread(Element const* row, int span) {
  constexpr int kShare = kThreads / kSamples;
  if (span <= 0) return 0;
  uint32_t const part = static_cast<uint32_t>(span) / (kSamples / 4);
  uint32_t const run = threadIdx.x / (4 * kShare);
  uint32_t const place = part * run + __umulhi((run + 1) * 0x9E3779B1u, part);
  uint32_t const last = static_cast<uint32_t>(span) - 1;
  return Packet<kType>::logit(row[min(place + threadIdx.x / kShare % 4, last)]);
}

// Zero: what it is added to waits for the sample. In PTX, to be unknown to the compiler.
__device__ __forceinline__ int zero_after(float sample) {
  int above;
  asm volatile(
      "{\n"
      ".reg .pred above;\n"
      "setp.gt.f32 above, %1, %2;\n"
      "selp.s32 %0, 1, 0, above;\n"
      "}"
      : "=r"(above)
      : "f"(sample), "f"(kHuge));
  return above;
}

// Sorts the samples, the greatest first: four threads compare each with all. A barrier between the
// two steps, another behind them.
__device__ __forceinline__ uint32_t announce_sample(BucketStorage& shared, float sample) {
  constexpr int kShare = kThreads / kSamples;
  uint32_t const number = threadIdx.x / kShare;
  uint32_t const key = (key_of(sample) & ~(kSamples - 1u)) | number;  // one of its own
  if (threadIdx.x % kShare == 0) shared.sample_keys[number] = key;
  return key;
}
__device__ __forceinline__ void sort_samples(BucketStorage& shared, float sample, uint32_t key) {
  uint4 const* const others = reinterpret_cast<uint4 const*>(shared.sample_keys);
  constexpr int kShare = kThreads / kSamples;
  uint32_t const part = threadIdx.x % kShare;
  uint32_t rank = 0;
#pragma unroll
  for (int i = 0; i < kSamples / (4 * kShare); ++i) {
    uint4 const quad = others[kShare * i + part];
    rank += quad.x > key ? 1 : 0;
    rank += quad.y > key ? 1 : 0;
    rank += quad.z > key ? 1 : 0;
    rank += quad.w > key ? 1 : 0;
  }
#pragma unroll
  for (int i = 1; i < kShare; i *= 2) rank += __shfl_xor_sync(kAllLanes, rank, i);
  if (part == 0) shared.sorted[rank] = sample;
}

// A bucket for every logit between two samples; places never descend as logits ascend. NaN has
// none. Scale and offset are finite and the scale is normal and above zero, whatever the samples.
class BucketMap {
 public:
  __device__ __forceinline__ BucketMap(SampleRanks const& ranks, float const (&sorted)[kSamples]) {
    constexpr int kLast = kSamples - 1;
    float low = sorted[min(ranks.low, kLast)];
    float high = sorted[max(ranks.high, 0)];
    float const beyond = 0.5f * (sorted[0] - sorted[kLast]);
    float const middle = sorted[min(ranks.middle, kLast)];
    crowd_ = find_crowd(ranks, kLast, low, middle);
    if (ranks.low > kLast) low -= beyond;
    if (ranks.high < 0) high += fminf(beyond, ranks.reach * (sorted[0] - low));
    float const least = fmaxf(1e-30f, 1e-6f * fmaxf(fabsf(low), fabsf(high)));
    scale_ = __fdividef(kBuckets, fmaxf(high - low, least));
    offset_ = fmaf(-low, scale_, kFirst - 1.0f);  // a crowd at `low` is not in a bucket
  }
  // A float whose bits are those of the first bucket's and the bucket.
  __device__ __forceinline__ float operator()(float logit) const {
    return fmaf(logit, scale_, offset_);
  }
  static constexpr float kFirst = 8388608.0f;
  static constexpr uint32_t kFirstBits = 0x4B000000u;
  __device__ __forceinline__ Crowd const& crowd() const { return crowd_; }

 private:
  float scale_;
  float offset_;
  Crowd crowd_;
};

// Counts one more in a counter; returns what it was.
__device__ __forceinline__ uint32_t count_one(uint32_t counter) {
  uint32_t before;
  asm volatile("atom.relaxed.cta.shared.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "r"(counter)
               : "memory");
  return before;
}
// Puts a logit into a slot of a bucket, if there are both. In PTX, as the compiler would make a
// branch.
__device__ __forceinline__ void put(uint32_t bucket, uint32_t slot, uint32_t address, float logit) {
  asm volatile(
      "{\n"
      ".reg .pred is;\n"
      "setp.lt.u32 is, %0, %1;\n"
      "setp.lt.and.u32 is, %2, %3, is;\n"
      "@is st.shared.f32 [%4], %5;\n"
      "}" ::"r"(bucket),
      "n"(kBuckets), "r"(slot), "n"(kBucketKeys), "r"(address), "f"(logit)
      : "memory");
}
// Adds one if a logit is above another. In PTX, to be two instructions.
__device__ __forceinline__ void add_if_above(uint32_t& sum, float logit, float other) {
  asm("{\n"
      ".reg .pred above;\n"
      "setp.gt.f32 above, %1, %2;\n"
      "@above add.u32 %0, %0, 1;\n"
      "}"
      : "+r"(sum)
      : "f"(logit), "f"(other));
}

// Puts logits into their buckets; returns how many lie above all of them.
template <int kTile, int kCount>
__device__ __forceinline__ uint32_t fill_buckets(BucketStorage& shared, BucketMap const& map,
                                                 float const (&values)[kCount]) {
  uint32_t const counts = ptx::shared_address(shared.counts);
  // Logits of no bucket are counted too, a counter a lane, so that there is no branch.
  uint32_t const no_count = ptx::shared_address(&shared.no_counts[threadIdx.x % 32]);
  uint32_t const buckets = ptx::shared_address(shared.buckets);
  uint32_t above = 0;
#pragma unroll
  for (int first = 0; first < kCount; first += kTile) {
    uint32_t bucket[kTile];
    uint32_t slot[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      float const place = map(values[first + i]);
      add_if_from(above, place, BucketMap::kFirst + kBuckets, 1);
      bucket[i] = __float_as_uint(place) - BucketMap::kFirstBits;
      slot[i] = count_one(bucket[i] < kBuckets ? counts + sizeof(uint32_t) * bucket[i] : no_count);
    }
#pragma unroll
    for (int i = 0; i < kTile; ++i) {
      put(bucket[i], slot[i], buckets + sizeof(float) * (kBucketStride * bucket[i] + slot[i]),
          values[first + i]);
    }
  }
  return above;
}

// A choice of words, not of where they lie.
__device__ __forceinline__ uint4 choose(bool first, uint4 const& a, uint4 const& b) {
  return make_uint4(first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w);
}

// Where the rank-th best of the counted logits lies; none if `inside` is 0. By all lanes of every
// warp for itself.
__device__ __forceinline__ Place find_bucket(BucketStorage const& shared, int rank) {
  static_assert(kBuckets == 8 * 32);
  int const lane = threadIdx.x % 32;
  int const low = kBuckets - 8 - 8 * lane;
  // Lanes that read together take quads in different banks.
  bool const swapped = (lane & 4) != 0;
  uint4 const* const quads = reinterpret_cast<uint4 const*>(&shared.counts[low]);
  uint4 const one = quads[swapped ? 1 : 0];
  uint4 const other = quads[swapped ? 0 : 1];
  uint4 const upper = choose(swapped, one, other);
  uint4 const lower = choose(swapped, other, one);
  int const upper_sum = upper.x + upper.y + upper.z + upper.w;
  int const sum = upper_sum + lower.x + lower.y + lower.z + lower.w;
  int const inclusive = ptx::warp_inclusive_sum(sum);
  int const above = inclusive - sum;
  bool const in_upper = rank - above <= upper_sum;
  Place const place =
      place_in_quad(choose(in_upper, upper, lower), low + (in_upper ? 4 : 0),
                    static_cast<uint32_t>(rank - above - (in_upper ? 0 : upper_sum)));
  uint32_t const crossing = __ballot_sync(kAllLanes, above < rank && rank <= inclusive);
  if (crossing == 0) return Place{0, 0, 0};
  int const source = __ffs(crossing) - 1;
  uint32_t const packed =
      __shfl_sync(kAllLanes, place.bin | place.inside << 8, source);  // at most 8,192 inside
  return Place{packed & 0xFF, __shfl_sync(kAllLanes, place.rank, source), packed >> 8};
}

// The rank-th best logit of a bucket that keeps all of its own. `ties`: how many that equal it
// win; 0 if all of them do. By all lanes of every warp for itself.
struct Threshold {
  float logit;
  uint32_t ties;
};
__device__ __forceinline__ Threshold find_threshold(BucketStorage const& shared,
                                                    Place const& place) {
  uint32_t const lane = threadIdx.x % 32;
  float const none = __int_as_float(0xFF800000);
  float const kept = shared.buckets[place.bin][lane];
  bool const valid = lane < place.inside;
  float const mine = valid ? kept : none;
  uint32_t greater = 0;
#pragma unroll 1
  for (uint32_t first = 0; first < place.inside; first += 8) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      add_if_above(greater, __shfl_sync(kAllLanes, mine, first + i), mine);
    }
  }
  uint32_t const last = __ballot_sync(kAllLanes, valid && greater == place.rank - 1);
  if (last != 0 && (last & (last - 1)) == 0) {
    return Threshold{__shfl_sync(kAllLanes, mine, __ffs(last) - 1), 0};
  }
  bool const wins = valid && greater < place.rank;
  uint32_t const most = __reduce_max_sync(kAllLanes, wins ? greater : 0);
  uint32_t const equals = __ballot_sync(kAllLanes, wins && greater == most);
  float const logit = __shfl_sync(kAllLanes, mine, __ffs(equals) - 1);
  uint32_t const ties = place.rank - most;
  return Threshold{logit, ties == __popc(equals) ? 0 : ties};
}

}  // namespace dsa_ops::topk_sm90::binned
