// indices[t, :] = ascending positions (or slots) of the top_k best of logits[t, start(t) : end(t)].
//
// A cluster of kClusterSize blocks (512 threads each) streams one row and sends the logits that
// pass a gate to the memory of its first block, which selects among them alone. No roles and no
// pipeline: a thread loads its next 8 logits before it looks at the last 8, and several blocks of a
// multiprocessor overlap one row's loads with another's selection.
//
// Shared memory: SharedStorage, histogram or winners, 8 bytes per candidate, sample or bitmap.
// Barriers are described where they stand. The cluster's two are: all blocks have started and the
// first has zeroed its count; all candidates have arrived.
#pragma once
#include <cstdint>

#include "device/ptx/cluster.cuh"
#include "kernels/topk/gated/gate.cuh"
#include "kernels/topk/gated/order.cuh"
#include "kernels/topk/gated/row.cuh"
#include "kernels/topk/gated/select.cuh"
#include "kernels/topk/gated/traits.h"
#include "kernels/topk/keys.cuh"
#include "kernels/topk/row_range.cuh"

namespace dsa_ops::topk_sm90::gated {

// The parts of a block's dynamic shared memory.
struct SharedMemory {
  SharedStorage& storage;
  uint32_t* histogram;
  int32_t* winners;  // over the histogram, once nothing is counted any more
  Candidates candidates;
  uint32_t* samples;
  uint32_t* bitmap;  // over the samples

  __device__ SharedMemory(unsigned char* memory, KernelArgs const& args)
      : storage(*reinterpret_cast<SharedStorage*>(memory)),
        histogram(reinterpret_cast<uint32_t*>(memory + sizeof(SharedStorage))),
        winners(reinterpret_cast<int32_t*>(histogram)),
        candidates{histogram + max(kBins, args.top_k), nullptr, 0} {
    candidates.positions = candidates.keys + args.capacity;
    samples = candidates.positions + args.capacity;
    bitmap = samples;
  }
};

// Adds the lowest positions of the tie that the gate excluded, until there are top_k candidates.
// False if the row has too few of them.
template <LogitsType kType>
__device__ __forceinline__ bool add_ties(SharedMemory& shared, Row<kType> const& row,
                                         Gate const& gate, int top_k) {
  if (!gate.above_tie) return false;
  Candidates& candidates = shared.candidates;
  uint32_t const missing = top_k - candidates.count;
  uint32_t const bits = __float_as_uint(logit_of(gate.tie_key));
  uint32_t const found =
      scan_in_order<true>(shared.storage, row, gate.tie_key + 1, gate.tie_key, missing, missing,
                          [&](uint32_t rank, int32_t position) {
                            candidates.keys[candidates.count + rank] = bits;
                            candidates.positions[candidates.count + rank] = position;
                          });
  candidates.count = top_k;
  return found == missing;
}

// Whether a row's candidates hold its winners: ties are added, and a count outside
// [top_k, capacity] has one block collect once more with a better gate.
template <LogitsType kType>
__device__ __forceinline__ bool settle_candidates(SharedMemory& shared, Row<kType> const& row,
                                                  Gate gate, KernelArgs const& args) {
  Candidates& candidates = shared.candidates;
  uint32_t rank = gate_rank(row.length, args.top_k);
#pragma unroll 1
  for (int attempt = 0;; ++attempt) {
    candidates.count = shared.storage.num_candidates;
    bool const fits = static_cast<uint32_t>(candidates.count) <= args.capacity;
    if (fits && candidates.count >= args.top_k) return true;
    if (fits && add_ties(shared, row, gate, args.top_k)) return true;
    if (attempt == 1) return false;
    rank = fits ? rank * 5 / 2 : rank * 2 / 5 + 1;
    rank = min(rank, (kSampleChunks << sample_chunk_log2(row.length)) / 4 * 3);
    __syncthreads();
    if (threadIdx.x == 0) shared.storage.num_candidates = 0;
    gate = find_gate(shared.storage, shared.histogram, shared.samples, row, rank);
    float first_tile[kLogitsPerThread];
    load_tile(first_tile, row, 0);
    collect(CandidateStore<1>(shared.storage, candidates, args.capacity), row, 0, gate.logit,
            first_tile);
    __syncthreads();
  }
}

// The winners of a row for which no gate worked, by one block: up to three counting passes over the
// logits and one in order.
template <LogitsType kType, class Slot>
__device__ __forceinline__ void select_by_passes(SharedStorage& shared, uint32_t* histogram,
                                                 Row<kType> const& row, int top_k, int32_t* indices,
                                                 Slot const& slot) {
  Bin bin{kWorstKey, 0, static_cast<uint32_t>(top_k), 0};
  uint32_t range = kBestKey - kWorstKey;
  do {
    bin = find_rank(
        shared, histogram, row.length, [&](int i) { return key_of(row[i]); }, bin.low, range,
        bin.rank);
    range = (1u << bin.shift) - 1;
  } while (bin.rank != bin.inside && bin.shift > 0);
  // If the whole bin wins, its keys are as many as the rank.
  scan_in_order<false>(shared, row, bin.low + range + 1, bin.low, bin.rank, top_k,
                       [&](uint32_t rank, int32_t position) { indices[rank] = slot(position); });
}

template <LogitsType kType, int kClusterSize>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gated_topk_kernel(__grid_constant__ KernelArgs const args) {
  extern __shared__ __align__(128) unsigned char memory[];
  SharedMemory shared(memory, args);

  int32_t const row_index = blockIdx.x / kClusterSize;
  int const rank = blockIdx.x % kClusterSize;
  RowRange const range(args, row_index);
  int32_t* const indices = args.indices + int64_t{row_index} * args.indices_row_stride;
  if (range.length <= args.top_k) {
    write_whole_row(args, range, SlotMap(args, row_index), rank, kClusterSize, indices);
    return;
  }

  Row<kType> const row{static_cast<typename Row<kType>::Element const*>(args.logits) +
                           int64_t{row_index} * args.logits_row_stride + range.start,
                       range.length};
  bool const fits = row.length <= args.capacity;
  if (threadIdx.x == 0) {
    shared.storage.num_candidates = fits ? row.length : 0;
    shared.storage.num_finalists = 0;
  }
  clear_histogram(shared.histogram, threadIdx.x, kThreads);
  __syncthreads();
  if constexpr (kClusterSize > 1) ptx::cluster_arrive_release();

  CandidateStore<kClusterSize> const store(shared.storage, shared.candidates, args.capacity);
  Gate gate{};
  if (fits) {
    if constexpr (kClusterSize > 1) ptx::cluster_wait_acquire();
    collect_all(store, row, rank);
  } else {
    // In flight while the gate is found.
    float first_tile[kLogitsPerThread];
    if (rank * kTileLogits < row.length) load_tile(first_tile, row, rank * kTileLogits);
    gate = find_gate(shared.storage, shared.histogram, shared.samples, row,
                     gate_rank(row.length, args.top_k));
    if constexpr (kClusterSize > 1) ptx::cluster_wait_acquire();
    collect(store, row, rank, gate.logit, first_tile);
  }
  if constexpr (kClusterSize > 1) {
    __syncwarp();
    ptx::cluster_arrive_release();
    ptx::cluster_wait_acquire();
    if (rank != 0) return;
  } else {
    __syncthreads();
  }

  SlotMap const slot(args, row_index);
  if (fits) {
    shared.candidates.count = row.length;
  } else if (!settle_candidates(shared, row, gate, args)) {
    select_by_passes(shared.storage, shared.histogram, row, args.top_k, indices, slot);
    return;
  }
  clear_bitmap(shared.bitmap, args.window_words);
  Threshold threshold{0, ~0u};
  if (shared.candidates.count > args.top_k) {
    threshold =
        find_threshold(shared.storage, shared.histogram, shared.candidates, args.top_k, row.length);
  }
  order_winners(shared.storage, shared.bitmap, args.window_words, shared.candidates, threshold,
                row.length, shared.winners);
  __syncthreads();
  for (int i = threadIdx.x; i < args.top_k; i += kThreads) indices[i] = slot(shared.winners[i]);
}

}  // namespace dsa_ops::topk_sm90::gated
