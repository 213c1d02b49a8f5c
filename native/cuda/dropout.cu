// dropout: y = x * (0 with probability p, else 1 / (1 - p)), with the CPU's random numbers: element e takes word e % 4 of
// Philox block e / 4. A thread owns one pack of 16 bytes (whole Philox blocks of it). Bound by bytes: x read, y
// written. Warps an SM: dropout_kernel 64.
#include "api/philox.h"
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

template <class T>
__global__ void dropout_kernel(const T* x, T* y, int64_t n, Attribute seed, Attribute offset, float p, Acc<T> kept) {
  const PhiloxKey key = philox_key(static_cast<int64_t>(seed.get()), static_cast<int64_t>(offset.get()));
  constexpr int kBlocks = (Pack<T>::n + 3) / 4;  // a pack of f64 is half a block
  constexpr int kItems = 4 * kBlocks;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i * kItems < n; i += stride) {
    const int64_t first = i * kItems;
    uint32_t words[kItems];
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) philox(key, static_cast<uint64_t>(first / 4 + b), words + 4 * b);
    auto dropped = [&](T value, uint32_t word) {
      return narrow<T>(widen(value) * (philox_uniform(word) >= p ? kept : Acc<T>{0}));
    };
    if (first + kItems <= n) {
#pragma unroll
      for (int part = 0; part < kItems; part += Pack<T>::n) {
        Pack<T> pack = load_pack(x + first + part);
#pragma unroll
        for (int k = 0; k < Pack<T>::n; ++k) pack.at[k] = dropped(pack.at[k], words[part + k]);
        store_pack(y + first + part, pack);
      }
    } else {
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        if (first + k < n) y[first + k] = dropped(x[first + k], words[k]);
      }
    }
  }
}

// A view may start at any element: then the numbers are moved one by one.
template <class T>
__global__ void dropout_unaligned_kernel(const T* x, T* y, int64_t n, Attribute seed, Attribute offset, float p,
                                         Acc<T> kept) {
  const PhiloxKey key = philox_key(static_cast<int64_t>(seed.get()), static_cast<int64_t>(offset.get()));
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t words[4];
    philox(key, static_cast<uint64_t>(i / 4), words);
    const int w = static_cast<int>(i % 4);
    const uint32_t word = w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3];
    y[i] = narrow<T>(widen(x[i]) * (philox_uniform(word) >= p ? kept : Acc<T>{0}));
  }
}

int32_t dropout(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  if (x.numel == 0) return kOk;
  return dispatch_floating(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto p = static_cast<float>(args->number(0));
    const auto kept = static_cast<Acc<T>>(1.0 / (1.0 - args->number(0)));
    const Attribute seed = attribute(args, 1), offset = attribute(args, 2);
    const auto stream = stream_of(args).stream;
    if (aligned16(x.data) && aligned16(y.data)) {
      constexpr int kItems = Pack<T>::n < 4 ? 4 : Pack<T>::n;
      dropout_kernel<<<blocks_for(args, x.numel, 256 * kItems), 256, 0, stream>>>(x.as<const T>(), y.as<T>(), x.numel, seed, offset, p, kept);
    } else {
      dropout_unaligned_kernel<<<blocks_for(args, x.numel, 256), 256, 0, stream>>>(x.as<const T>(), y.as<T>(), x.numel, seed, offset, p, kept);
    }
    return launched(args);
  });
}

}  // namespace

LF_CUDA_KERNEL(dropout, dropout)
LF_CUDA_FROM_BLOCK(dropout, 1)
LF_CUDA_FROM_BLOCK(dropout, 2)

}  // namespace lf::cuda
