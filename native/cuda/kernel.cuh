// What a .cu file of this folder includes: registration, error checks, dtypes, 16-byte packs, reductions over warps and
// blocks. Kernels compute in float (double for f64) whatever the format of their tensors.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>

#include "api/backend.h"
#include "api/half.h"
#include "cuda/stream.h"

namespace lf::cuda {

void register_kernel(const char* op, KernelFn kernel);
// Bytes of workspace that a call needs; its views have shapes and no data. Without one the schema's own rule counts.
void register_workspace(const char* op, WorkspaceFn workspace);
void register_from_block(const char* op, int attr);

// LF_CUDA_KERNEL(softmax, softmax): the host function that launches the operator's kernels.
#define LF_CUDA_KERNEL(op, function)                                               \
  namespace {                                                                      \
  const struct CudaRegister_##op {                                                 \
    CudaRegister_##op() { ::lf::cuda::register_kernel(#op, function); }            \
  } cuda_register_##op;                                                            \
  }
#define LF_CUDA_WORKSPACE(op, function)                                            \
  namespace {                                                                      \
  const struct CudaWorkspace_##op {                                                \
    CudaWorkspace_##op() { ::lf::cuda::register_workspace(#op, function); }        \
  } cuda_workspace_##op;                                                           \
  }

// LF_CUDA_FROM_BLOCK(adamw, 1): the kernel takes attribute 1 with attribute(args, 1), on the device.
#define LF_CUDA_FROM_BLOCK(op, attr)                                               \
  namespace {                                                                      \
  const struct CudaFromBlock_##op##_##attr {                                       \
    CudaFromBlock_##op##_##attr() { ::lf::cuda::register_from_block(#op, attr); }  \
  } cuda_from_block_##op##_##attr;                                                 \
  }

inline int32_t report(const KernelArgs* args, cudaError_t error) {
  if (error == cudaSuccess) return kOk;
  std::snprintf(args->error, kErrorText, "CUDA error %d: %s", static_cast<int>(error), cudaGetErrorString(error));
  return kKernel;
}
// After a launch: whether it could be started. What goes wrong later is reported by the next synchronisation.
inline int32_t launched(const KernelArgs* args) { return report(args, cudaGetLastError()); }

// The formats of tensors in kernels. Arithmetic is done in Acc<T>.
template <class T>
struct Format {
  using Acc = float;
};
template <>
struct Format<double> {
  using Acc = double;
};
template <class T>
using Acc = typename Format<T>::Acc;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T narrow(Acc<T> x) {
  if constexpr (sizeof(T) == 2) return T(x);  // rounds to nearest, ties to even
  else return x;
}

// dispatch_floating(dtype, [&](auto tag) { using T = typename decltype(tag)::Type; ... return launched(args); })
template <class T>
struct Tag {
  using Type = T;
};
template <class F>
int32_t dispatch_floating(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kF32: return body(Tag<float>{});
    case DType::kF16: return body(Tag<__half>{});
    case DType::kBF16: return body(Tag<__nv_bfloat16>{});
    default: return body(Tag<double>{});
  }
}
template <class F>
int32_t dispatch_integer(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kI8: return body(Tag<int8_t>{});
    case DType::kU8: return body(Tag<uint8_t>{});
    case DType::kI32: return body(Tag<int32_t>{});
    default: return body(Tag<int64_t>{});
  }
}
// Every format; bool as u8.
template <class F>
int32_t dispatch_numbers(DType dtype, F&& body) {
  if (is_floating(dtype)) return dispatch_floating(dtype, body);
  return dispatch_integer(dtype == DType::kBool ? DType::kU8 : dtype, body);
}
// Any format whose elements are only moved: by size.
template <class F>
int32_t dispatch_size(DType dtype, F&& body) {
  switch (dtype_size(dtype)) {
    case 1: return body(Tag<uint8_t>{});
    case 2: return body(Tag<uint16_t>{});
    case 4: return body(Tag<uint32_t>{});
    default: return body(Tag<uint64_t>{});
  }
}

// 16 bytes of T, moved by one instruction. Only where the address is a multiple of 16: tensors start at multiples of 64,
// views and rows at any multiple of their element.
template <class T>
struct alignas(16) Pack {
  static constexpr int n = 16 / sizeof(T);
  T at[n];
};
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(to) = pack;
}
inline bool aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Division of numbers from 0 on by one that is the same for all of a launch: a multiplication and a shift (Granlund and
// Montgomery, Division by Invariant Integers Using Multiplication, PLDI 1994).
struct Divisor {
  int64_t by;
  uint64_t magic;
  int shift;

  Divisor() = default;
  explicit Divisor(int64_t by) : by(by), magic(1), shift(0) {
    if (by <= 0) return;
    while ((int64_t{1} << shift) < by) ++shift;
    const auto left = static_cast<unsigned __int128>((int64_t{1} << shift) - by);
    magic = static_cast<uint64_t>((left << 64) / static_cast<uint64_t>(by)) + 1;
  }
  __device__ __forceinline__ int64_t divide(int64_t n, int64_t& rest) const {
    const auto whole = static_cast<int64_t>((__umul64hi(static_cast<uint64_t>(n), magic) + static_cast<uint64_t>(n)) >> shift);
    rest = n - whole * by;
    return whole;
  }
};

constexpr unsigned kFullWarp = 0xffffffffu;
// The same value in every lane; in a fixed order, so bitwise repeatable.
template <class A>
__device__ __forceinline__ A warp_sum(A x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
template <class A>
__device__ __forceinline__ A warp_max(A x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(kFullWarp, x, step);
    x = other > x || other != other ? other : x;
  }
  return x;
}
// The sum over a block of whole warps, in every thread. `shared` holds 32 numbers; it may be used again after the next
// barrier.
template <class A>
__device__ __forceinline__ A block_sum(A x, A* shared) {
  x = warp_sum(x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = lane < warps ? shared[lane] : A{};
  return warp_sum(x);
}
template <class A>
__device__ __forceinline__ A block_max(A x, A* shared) {
  x = warp_max(x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = shared[lane < warps ? lane : 0];
  return warp_max(x);
}

// Blocks for `items` at `per_block` each, at most enough to fill the device `waves` times; kernels loop over the rest.
inline int blocks_for(const KernelArgs* args, int64_t items, int64_t per_block, int waves = 16) {
  const int64_t wanted = (items + per_block - 1) / per_block;
  const int64_t most = int64_t{stream_of(args).multiprocessors} * waves;
  return static_cast<int>(wanted < most ? wanted : most);
}

}  // namespace lf::cuda
