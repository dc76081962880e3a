// Result of every entry point: a code and one sentence that names the argument at fault.
#pragma once
#include <cstdint>

#define DSA_OPS_API __attribute__((visibility("default")))

namespace dsa_ops {
inline namespace v0 {

enum class StatusCode : int32_t {
  kOk = 0,
  kInvalidArgument = 1,    // nothing was launched
  kUnsupportedDevice = 2,  // nothing was launched
  kCudaError = 3,
};

struct Status {
  StatusCode code = StatusCode::kOk;
  char message[252] = {};  // "op: argument must be X, got Y"; empty when ok

  bool ok() const { return code == StatusCode::kOk; }
};

}  // namespace v0
}  // namespace dsa_ops
