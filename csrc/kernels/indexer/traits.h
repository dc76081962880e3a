// Tiles, roles and shared memory of the indexer's kernels: the compile-time contract of this
// folder. README.md derives the numbers.
#pragma once
#include <cstdint>

namespace dsa_ops::indexer {

inline constexpr int kHeadDim = 128;  // bytes of an e4m3 head: one row of the 128B swizzle
inline constexpr int kPageKeys = 64;  // keys of an index-cache page: 64 x 128 e4m3, 64 fp32 scales
inline constexpr int kPageScalesOffset = kPageKeys * kHeadDim;
inline constexpr int32_t kLongCallPages = 44000;  // and more
inline constexpr int kPageBytes = kPageKeys * (kHeadDim + 4);

// Two math warpgroups score 64 keys each of every 128-key stage. In the third warpgroup one warp
// feeds them, the other three fill what is not scored with -inf.
inline constexpr int kMathWarpgroups = 2;
inline constexpr int kMathWarps = 4 * kMathWarpgroups;
inline constexpr int kWarpgroupKeys = 64;
inline constexpr int kStageKeys = kMathWarpgroups * kWarpgroupKeys;
inline constexpr int kStageBytes = kStageKeys * kHeadDim;
inline constexpr int kKeyStages = 8;
inline constexpr int kQueryStages = 2;
inline constexpr int kThreads = 384;
inline constexpr int kProducerWarp = kMathWarps;
inline constexpr int kFillerWarp = kProducerWarp + 1;
inline constexpr int kFillerWarps = kThreads / 32 - kFillerWarp;

// A launch of 384 threads allocates 168 registers a thread: 504 for the three warpgroups to share.
inline constexpr int kLaunchRegisters = 168;
inline constexpr int kMathRegisters = 232;
inline constexpr int kProducerRegisters = 40;
static_assert(
    kMathWarpgroups * kMathRegisters + kProducerRegisters <= 3 * kLaunchRegisters,
    "The register split must fit what the launch allocates, or setmaxnreg never returns.");

// The queries scored against a stage of keys: `Banks` accumulator banks of `BankQueries` queries.
// A bank is one wgmma wide: its columns are (query, head) pairs, the head running fastest. `Only`:
// a call has no other tile of rows. `BlocksPerSm` share a multiprocessor.
template <int Heads, int BankQueries, int Banks, bool Only = false, int BlocksPerSm = 1>
struct QueryTile {
  static constexpr bool kOnly = Only;
  static constexpr int kBlocksPerSm = BlocksPerSm;
  static constexpr int kHeads = Heads;
  static constexpr int kBankQueries = BankQueries;
  static constexpr int kBanks = Banks;
  static constexpr int kQueries = Banks * BankQueries;
  static constexpr int kColumns = Heads * BankQueries;
  static constexpr int kAccumulators = kColumns / 2;  // per thread and bank
  static constexpr int kWeights = kColumns / 4;       // per thread and bank
  static constexpr int kBankBytes = kColumns * kHeadDim;
  static constexpr int kQueryBytes = kBanks * kBankBytes;
  static_assert(kColumns % 8 == 0 && kColumns <= 256,
                "A bank must be a wgmma of up to 256 columns.");
  static_assert(BankQueries == 1 || BankQueries % 2 == 0, "The epilogue takes queries in pairs.");
  static_assert(kQueries <= 32, "The producer holds one query row per lane.");
};

// Ragged prefill scores 256 columns: 4, 8, 16 or 32 rows for 64, 32, 16 or 8 heads. Few heads spend
// more of the time on reductions, which the products of a second bank hide; README.md has times.
inline constexpr int kRaggedColumns = 256;
inline constexpr int ragged_banks(int heads) { return heads >= 32 ? 1 : 2; }
template <int Heads>
using RaggedTile =
    QueryTile<Heads, kRaggedColumns / Heads / ragged_banks(Heads), ragged_banks(Heads)>;

// A paged block of up to 128 columns has one math warpgroup, which scores a page at a time, and
// several blocks share a multiprocessor; one of 256 columns has two.
inline constexpr int paged_warpgroups(int columns) { return columns <= 128 ? 1 : 2; }
inline constexpr int paged_blocks_per_sm(int columns) {
  return columns <= 64 ? 4 : columns <= 128 ? 3 : 1;
}

// Paged decode scores 1, 2 or 4 rows of a request.
template <int Heads, int Rows, bool Only = false,
          int BlocksPerSm = paged_blocks_per_sm(Heads * Rows)>
using PagedTile = QueryTile<Heads, Rows, 1, Only, BlocksPerSm>;

// Beside the math warps of a block are a warp that feeds them and three that lend them registers.
// Of three blocks on a multiprocessor the math warps need all that so many warps would leave: the
// feeding warp is alone, and none gives registers to another. Lenders fill, where that is better
// done while pages come: for rows that wait for products, and for a call's only tile. Else the math
// warps do it, behind their last page.
template <class Tile>
struct PagedBlock {
  static constexpr int kWarpgroups = paged_warpgroups(Tile::kColumns);
  static constexpr int kPerSm = Tile::kBlocksPerSm;
  static constexpr bool kLends = kPerSm != 3;
  static constexpr bool kFillers = kLends && (kWarpgroups == 2 || Tile::kOnly);
  static constexpr int kMathWarps = 4 * kWarpgroups;
  static constexpr int kProducerWarp = kMathWarps;
  static constexpr int kFillerWarp = kFillers ? kProducerWarp + 1 : 0;
  static constexpr int kFillerWarps = kFillers ? 3 : kMathWarps;
  static constexpr int kThreads = 32 * (kMathWarps + (kLends ? 4 : 1));
  static constexpr int kKeyStages = kPerSm == 1 ? 8 : kPerSm == 2 ? 4 : 3;
  // Few weights are loaded sooner by those who need them than staged by the producer.
  static constexpr bool kWeightsStaged = Tile::kColumns > 128;
  static constexpr int kStageKeys = kPageKeys * kWarpgroups;
  static constexpr int kStageBytes = kStageKeys * kHeadDim;
  // Warps share out among four parts of the multiprocessor, each of 16,384 registers.
  static constexpr int kLaunchRegisters = 512 / ((kThreads / 32 * kPerSm + 3) / 4) / 8 * 8;
  static constexpr int kMathRegisters =
      kLends ? (kLaunchRegisters * (kWarpgroups + 1) - kProducerRegisters) / kWarpgroups / 8 * 8
             : kLaunchRegisters;
};

struct RowRange {
  int32_t begin;
  int32_t end;
};

// What the producer tells the math warpgroups about the queries of a stage.
struct RaggedUnit {
  int32_t tiles;  // stages of keys to score; 0: no more work
  int32_t first_row;
  int32_t scan_begin;                        // first key scored
  int32_t store_end;                         // keys at and after it are not stored
  RowRange rows[32];                         // each row's range
  alignas(8) float weights[kRaggedColumns];  // halved; 0 for rows past the last
};

struct PagedPiece {
  int32_t stages;  // to score; 0: no more work
  int32_t first_row;
  int32_t rows;        // of the tile that exist; no more work: not 0 if columns are left to fill
  int32_t scan_begin;  // first key scored
  int32_t store_end;   // keys at and after it are not stored
  int32_t goes_on;     // not 0: pages that are taken follow, and a last one that is none
  int32_t row_lengths[4];
};

// Lanes that write or read what a barrier guards arrive for themselves; where the guarded bytes are
// those of copies and wgmma, one lane arrives for its warp.
struct Barriers {
  uint64_t query_full[kQueryStages];
  uint64_t query_empty[kQueryStages];
  uint64_t key_full[kKeyStages];
  uint64_t key_empty[kKeyStages];
};

template <class Tile>
struct alignas(1024) RaggedStorage : Barriers {
  alignas(1024) uint8_t queries[kQueryStages][Tile::kQueryBytes];
  alignas(1024) uint8_t keys[kKeyStages][kStageBytes];
  RaggedUnit units[kQueryStages];
};

template <class Tile>
struct alignas(1024) CachedStorage : RaggedStorage<Tile> {
  alignas(16) float scales[kKeyStages][kStageKeys];
};

template <class Tile>
struct alignas(1024) PagedStorage {
  using Block = PagedBlock<Tile>;
  uint64_t piece_full[kQueryStages];  // before query_full
  uint64_t query_full[kQueryStages];
  uint64_t query_empty[kQueryStages];
  uint64_t key_full[Block::kKeyStages];
  uint64_t key_empty[Block::kKeyStages];
  // 0 or 1; twice its place in the row more of a page that is taken, below 0 of the last.
  int32_t page_present[Block::kKeyStages][Block::kWarpgroups];
  uint32_t used_stages;  // of the ring; by blocks that take pages as they come
  int32_t taken_from;    // places of a row tile that leaves some to be taken, at least
  PagedPiece pieces[kQueryStages];
  alignas(1024) uint8_t queries[kQueryStages][Tile::kQueryBytes];
  alignas(1024) uint8_t keys[Block::kKeyStages][Block::kStageBytes];
  alignas(16) float scales[Block::kKeyStages][Block::kStageKeys];
  alignas(8) float weights[kQueryStages][Block::kWeightsStaged ? Tile::kColumns : 1];
};

}  // namespace dsa_ops::indexer
