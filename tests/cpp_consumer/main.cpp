// What a C++ engine can rely on without a GPU: versions, the kernel table, workspace sizes, and
// errors that come as a status before anything is launched.
#include <cstdio>
#include <cstring>

#include "dsa_ops/build_info.h"
#include "dsa_ops/caches.h"
#include "dsa_ops/indexer.h"
#include "dsa_ops/sparse_mla.h"
#include "dsa_ops/topk.h"

namespace {

int failures = 0;

void expect(bool condition, char const* what) {
  std::printf("%s: %s\n", condition ? "ok" : "FAILED", what);
  if (!condition) ++failures;
}

void expect_status(dsa_ops::Status const& status, dsa_ops::StatusCode code, char const* text) {
  bool const as_expected = status.code == code && std::strstr(status.message, text) != nullptr;
  std::printf("%s: \"%s\" has code %d and mentions \"%s\"\n", as_expected ? "ok" : "FAILED",
              status.message, static_cast<int>(code), text);
  if (!as_expected) ++failures;
}

// Parameters whose sizes are right; the pointers are never followed without a GPU.
dsa_ops::TopkParams good_topk(int32_t* indices) {
  dsa_ops::TopkParams params = {};
  params.logits = indices;
  params.logits_row_stride = 16;
  params.row_ends = indices;
  params.indices = indices;
  params.indices_row_stride = 8;
  params.num_rows = 1;
  params.num_columns = 16;
  params.top_k = 8;
  return params;
}

void check_build_info() {
  expect(std::strcmp(dsa_ops::version(), EXPECTED_VERSION) == 0, "the version is the package's");
  expect(std::strlen(dsa_ops::cuda_version()) >= 4, "the compiler's version is known");
  expect(dsa_ops::kernel_count() > 0, "there are kernels");
  for (int32_t i = 0; i < dsa_ops::kernel_count(); ++i) {
    dsa_ops::KernelInfo const info = dsa_ops::kernel_info(i);
    expect(info.threads > 0 && info.max_registers > 0 && info.shared_memory_bytes >= 0, info.name);
  }
}

void check_workspace_sizes() {
  expect(dsa_ops::sparse_mla_decode_workspace_bytes(1, 128, 2048, 132) > 0,
         "one decode row is split over the device");
  expect(dsa_ops::sparse_mla_decode_workspace_bytes(4096, 128, 2048, 132) == 0,
         "4,096 decode rows fill the device unsplit");
  expect(dsa_ops::sparse_mla_prefill_workspace_bytes(4096, 16, 2048, 132) > 0,
         "rows of 16 heads are packed");
  expect(dsa_ops::sparse_mla_prefill_workspace_bytes(4096, 128, 2048, 132) == 0,
         "rows of 128 heads are not packed");
  expect(dsa_ops::sparse_mla_prefill_workspace_bytes(4096, 16, 2048, 0) == 0,
         "nothing is packed for no device");
  expect(dsa_ops::indexer_topk_workspace_bytes(128, 4096) > 0, "indexer_topk needs scratch");
  expect(dsa_ops::paged_indexer_topk_workspace_bytes(1, 4096) > 0,
         "paged_indexer_topk needs scratch");
}

void check_errors() {
  alignas(256) int32_t memory[64] = {};
  dsa_ops::TopkParams params = good_topk(memory);
  params.top_k = 0;
  expect_status(dsa_ops::topk(params, nullptr), dsa_ops::StatusCode::kInvalidArgument,
                "topk: top_k must be between 1 and 4096, got 0");

  params.top_k = 8;
  params.to_slots = true;
  params.num_requests = 2;
  expect_status(dsa_ops::topk(params, nullptr), dsa_ops::StatusCode::kInvalidArgument,
                "topk: num_requests must be");

  dsa_ops::PagedIndexerTopkParams fused = {};
  fused.scoring.batch = fused.scoring.next_n = 1;
  fused.scoring.num_heads = 64;
  fused.scoring.max_context_len = 64;
  fused.selection = good_topk(memory);
  expect_status(dsa_ops::paged_indexer_topk(fused, nullptr), dsa_ops::StatusCode::kInvalidArgument,
                "paged_indexer_topk: workspace_bytes must be");

  dsa_ops::IndexerLogitsParams logits = {};
  logits.num_heads = 7;
  expect_status(dsa_ops::indexer_logits(logits, nullptr), dsa_ops::StatusCode::kInvalidArgument,
                "indexer_logits: num_heads must be");

  dsa_ops::SparseMlaPrefillParams prefill = {};
  prefill.num_heads = 129;
  prefill.head_dim = 576;
  prefill.top_k = 1;
  expect_status(dsa_ops::sparse_mla_prefill(prefill, nullptr),
                dsa_ops::StatusCode::kInvalidArgument, "sparse_mla_prefill: num_heads must be");
}

// Without a GPU, right parameters are refused for the device alone.
void check_device() {
  alignas(256) int32_t memory[64] = {};
  dsa_ops::Status const preloaded = dsa_ops::preload();
  if (preloaded.ok()) return;
  expect_status(preloaded, dsa_ops::StatusCode::kUnsupportedDevice, "preload: device must be");
  expect_status(dsa_ops::topk(good_topk(memory), nullptr), dsa_ops::StatusCode::kUnsupportedDevice,
                "topk: device must be");
}

}  // namespace

int main() {
  check_build_info();
  check_workspace_sizes();
  check_errors();
  check_device();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
