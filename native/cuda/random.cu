// random_uniform, random_normal: the CPU's numbers (native/ops/random.cpp) from the same Philox words, element e from block
// e / 4. A thread owns one block: four numbers, stored at once where they can be. Normal numbers are computed in f64, as on
// the CPU, so they agree to rounding; that bounds random_normal by arithmetic, random_uniform is bound by bytes. 256
// threads a block.
#include "api/philox.h"
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

struct Uniform {
  static __device__ void numbers(const uint32_t* words, double* values) {
#pragma unroll
    for (int w = 0; w < 4; ++w) values[w] = static_cast<double>(philox_uniform(words[w]));
  }
};
struct Normal {
  static __device__ void numbers(const uint32_t* words, double* values) {
#pragma unroll
    for (int w = 0; w < 4; w += 2) {
      const double u = static_cast<double>(words[w]) * 0x1p-32, v = static_cast<double>(words[w + 1]) * 0x1p-32;
      const double radius = ::sqrt(-2 * ::log(1 - u));
      double sine, cosine;
      ::sincospi(2 * v, &sine, &cosine);
      values[w] = radius * cosine;
      values[w + 1] = radius * sine;
    }
  }
};

template <class F, class T>
__global__ void __launch_bounds__(256) random_kernel(T* out, int64_t n, int64_t seed, Attribute offset, bool aligned) {
  const PhiloxKey key = philox_key(seed, static_cast<int64_t>(offset.get()));
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t block = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; 4 * block < n; block += stride) {
    uint32_t words[4];
    philox(key, static_cast<uint64_t>(block), words);
    double values[4];
    F::numbers(words, values);
    constexpr int kItems = sizeof(T) == 8 ? 2 : 4;
    Items<T, kItems> packs[4 / kItems];
#pragma unroll
    for (int w = 0; w < 4; ++w) packs[w / kItems].at[w % kItems] = narrow<T>(static_cast<Acc<T>>(values[w]));
    if (aligned && 4 * block + 4 <= n) {
#pragma unroll
      for (int p = 0; p < 4 / kItems; ++p) reinterpret_cast<Items<T, kItems>*>(out + 4 * block)[p] = packs[p];
    } else {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (4 * block + w < n) out[4 * block + w] = packs[w / kItems].at[w % kItems];
      }
    }
  }
}

template <class F>
int32_t random(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  if (out.numel == 0) return kOk;
  return dispatch_floating(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    random_kernel<F, T><<<blocks_for(args, out.numel, 1024), 256, 0, stream_of(args).stream>>>(
        out.as<T>(), out.numel, args->integer(1), attribute(args, 2), aligned16(out.data));
    return launched(args);
  });
}

}  // namespace

LF_CUDA_KERNEL(random_uniform, random<Uniform>)
LF_CUDA_KERNEL(random_normal, random<Normal>)
LF_CUDA_FROM_BLOCK(random_uniform, 2)
LF_CUDA_FROM_BLOCK(random_normal, 2)

}  // namespace lf::cuda
