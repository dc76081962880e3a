// Shared by the bindings: argument checks that name what was expected and what came, the current
// stream, and the conversion of a Status into an exception.
#pragma once
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "dsa_ops/status.h"

// Weak, so that this library also loads on a torch without CUDA, where the symbol does not exist.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                                   void** stream);

namespace dsa_ops::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline char const* type_name(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Bool: return "bool";
    case ScalarType::UInt16: return "uint16";
    case ScalarType::UInt32: return "uint32";
    case ScalarType::UInt64: return "uint64";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::Float8_e4m3fn: return "float8_e4m3fn";
    case ScalarType::Float8_e4m3fnuz: return "float8_e4m3fnuz";
    case ScalarType::Float8_e5m2: return "float8_e5m2";
    case ScalarType::Float8_e5m2fnuz: return "float8_e5m2fnuz";
    default: return "another dtype";
  }
}

inline std::string shape_text(Tensor const& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text += (i ? ", " : "") + std::to_string(tensor.size(i));
  }
  return text + "]";
}

// The stride of a dimension, or `otherwise` where it means nothing and may be anything: that of a
// dimension of 1 and those of an empty tensor.
inline int64_t stride_of(Tensor const& tensor, int64_t dim, int64_t otherwise = 0) {
  return tensor.size(dim) > 1 && tensor.numel() > 0 ? tensor.stride(dim) : otherwise;
}

// The checks of one op call: every failure reads "op: argument must be X, got Y".
class Checker {
 public:
  explicit Checker(char const* op) : op_(op) {}

  [[noreturn]] void fail(char const* argument, std::string const& expected,
                         std::string const& got) const {
    throw std::runtime_error(std::string(op_) + ": " + argument + " must be " + expected +
                             ", got " + got);
  }

  void require(bool condition, char const* argument, std::string const& expected,
               std::string const& got) const {
    if (!condition) fail(argument, expected, got);
  }

  // Any of the given dtypes.
  void dtype(Tensor const& tensor, char const* argument,
             std::initializer_list<ScalarType> accepted) const {
    ScalarType const given = tensor.scalar_type();
    std::string expected;
    for (ScalarType type : accepted) {
      if (given == type) return;
      expected += (expected.empty() ? "" : " or ") + std::string(type_name(type));
    }
    fail(argument, expected, type_name(given));
  }

  // Rank and sizes; -1 accepts any size. The text is the shape as the documentation writes it.
  void shape(Tensor const& tensor, char const* argument, std::initializer_list<int64_t> sizes,
             char const* text) const {
    bool matches = tensor.dim() == static_cast<int64_t>(sizes.size());
    int64_t i = 0;
    for (int64_t size : sizes) {
      matches = matches && (size < 0 || tensor.size(i) == size);
      ++i;
    }
    if (!matches) fail(argument, std::string("of shape ") + text, shape_text(tensor));
  }

  void last_dim_contiguous(Tensor const& tensor, char const* argument) const {
    int64_t const last = tensor.dim() - 1;
    if (last < 0 || stride_of(tensor, last, 1) == 1) return;
    fail(argument, "contiguous in its last dimension",
         "stride " + std::to_string(tensor.stride(last)));
  }

  // Base address and every stride but the last a multiple of 16 bytes.
  void aligned_16(Tensor const& tensor, char const* argument) const {
    int64_t const bytes = tensor.element_size();
    for (int64_t i = 0; i + 1 < tensor.dim(); ++i) {
      if (stride_of(tensor, i, 0) * bytes % 16 == 0) continue;
      fail(argument, "aligned to 16 bytes in every stride",
           "a stride of " + std::to_string(tensor.stride(i) * bytes) + " bytes");
    }
    if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 != 0) {
      fail(argument, "aligned to 16 bytes", "a misaligned base address");
    }
  }

  // All tensors on the device of the first, and that a CUDA device. Called after the other checks.
  void same_cuda_device(
      std::initializer_list<std::pair<char const*, Tensor const*>> tensors) const {
    auto const& [first_name, first] = *tensors.begin();
    for (auto const& [name, tensor] : tensors) {
      if (tensor == nullptr || tensor->device() == first->device()) continue;
      fail(name, std::string("on the device of ") + first_name, "another device");
    }
    if (!first->is_cuda()) fail(first_name, "on a CUDA device", "a tensor on another device");
  }

 private:
  char const* op_;
};

inline Tensor const* get(std::optional<Tensor> const& tensor) {
  return tensor.has_value() ? &*tensor : nullptr;
}

template <class T>
T const* data(Tensor const& tensor) {
  return static_cast<T const*>(tensor.const_data_ptr());
}

template <class T>
T const* data(std::optional<Tensor> const& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

template <class T>
T* mutable_data(Tensor const& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline cudaStream_t current_stream(Tensor const& tensor) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "dsa_ops: this torch has no CUDA support");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void raise_if_failed(Status const& status) {
  if (!status.ok()) throw std::runtime_error(status.message);
}

}  // namespace dsa_ops::binding
