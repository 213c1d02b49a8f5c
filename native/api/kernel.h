// The types that cross every boundary: between dispatch and kernels, and between the addon and a backend plug-in.
// Plain C layout only. Helpers are always inlined, so that a kernel file compiled for AVX-512 never leaves a shared
// copy behind that the linker could pick for an older machine.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define LF_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define LF_INLINE __attribute__((always_inline)) inline
#else
#define LF_INLINE __forceinline
#endif

namespace lf {

enum class DType : int32_t { kF32 = 0, kF16, kBF16, kF64, kI8, kU8, kI32, kI64, kBool };
constexpr int kNumDTypes = 9;
constexpr int kMaxRank = 8;
constexpr int kErrorText = 512;

LF_INLINE int64_t dtype_size(DType dtype) {
  constexpr int64_t kSizes[kNumDTypes] = {4, 2, 2, 8, 1, 1, 4, 8, 1};
  return kSizes[static_cast<int>(dtype)];
}
LF_INLINE bool is_floating(DType dtype) { return static_cast<int>(dtype) <= static_cast<int>(DType::kF64); }

// A dense row-major tensor. An absent optional input has data == nullptr and rank == -1.
struct TensorView {
  void* data;
  int64_t numel;
  int64_t shape[kMaxRank];
  int32_t rank;
  DType dtype;

  template <class T>
  LF_INLINE T* as() const {
    return static_cast<T*>(data);
  }
  LF_INLINE bool present() const { return rank >= 0; }
  // The size of an axis; negative axes count from the end.
  LF_INLINE int64_t dim(int axis) const { return shape[axis < 0 ? axis + rank : axis]; }
  // Product of the sizes of axes [begin, end).
  LF_INLINE int64_t span(int begin, int end) const {
    int64_t n = 1;
    for (int i = begin; i < end; ++i) n *= shape[i];
    return n;
  }
};

// Error codes; the names in lib/native/errors.ts are the same in the same order.
enum Code : int32_t {
  kOk = 0,
  kShape,         // ERR_SHAPE
  kDType,         // ERR_DTYPE
  kDevice,        // ERR_DEVICE
  kArgument,      // ERR_ARGUMENT
  kDisposed,      // ERR_DISPOSED
  kNoKernel,      // ERR_NO_KERNEL
  kOutOfMemory,   // ERR_OUT_OF_MEMORY
  kKernel,        // ERR_KERNEL
  kStreamFailed,  // ERR_STREAM_FAILED
  kBackendLoad,   // ERR_BACKEND_LOAD
};

// One call of one kernel. Inputs come in the schema's order (a variadic group last), outputs likewise. Attribute i of
// the schema is attrs[attr_begin[i] .. attr_begin[i + 1]): one number, or the items of a list.
struct KernelArgs {
  const TensorView* inputs;
  const TensorView* outputs;
  const double* attrs;
  const int32_t* attr_begin;
  void* workspace;  // as many bytes as the schema's workspace rule asked for, 64-byte aligned, contents undefined
  int64_t workspace_bytes;
  void* stream;  // the backend's own stream object; nullptr on the CPU
  const char* op;  // the operator's name; lives as long as the process
  char* error;   // kErrorText bytes, filled when the kernel returns anything but kOk
  int32_t num_inputs;
  int32_t num_outputs;

  LF_INLINE double number(int i) const { return attrs[attr_begin[i]]; }
  LF_INLINE int64_t integer(int i) const { return static_cast<int64_t>(attrs[attr_begin[i]]); }
  LF_INLINE bool flag(int i) const { return attrs[attr_begin[i]] != 0; }
  LF_INLINE int list_size(int i) const { return attr_begin[i + 1] - attr_begin[i]; }
  LF_INLINE int64_t item(int i, int k) const { return static_cast<int64_t>(attrs[attr_begin[i] + k]); }
};

// Returns kOk, or a code with args->error filled in.
using KernelFn = int32_t (*)(const KernelArgs* args);

}  // namespace lf
