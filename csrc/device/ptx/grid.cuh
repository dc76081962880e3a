// Programmatic dependent launch. Both do nothing in a launch without the attribute.
#pragma once

namespace dsa_ops::ptx {

// Returns once the kernels before this one on the stream have finished and their writes are
// visible. Nothing that they write or read may be touched before.
__device__ __forceinline__ void wait_for_prior_kernels() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel start, up to its own wait, once every block has come here or ended.
__device__ __forceinline__ void launch_dependent_kernels() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace dsa_ops::ptx
