// stochastic_cast: the CPU's numbers (native/ops/stochastic_cast.cpp) from the same Philox words. A thread owns one block: 8
// neighbours, read as two packs and written as one where addresses allow it. Bound by the ten rounds of Philox; 256 threads a
// block, full occupancy.
#include "api/philox.h"
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

__device__ __forceinline__ uint16_t round_up_or_down(float x, uint32_t noise) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + noise) >> 16);
}

__global__ void __launch_bounds__(256) stochastic_kernel(const float* x, uint16_t* y, int64_t n, int64_t seed, Attribute offset, bool packs) {
  const PhiloxKey key = philox_key(seed, static_cast<int64_t>(offset.get()));
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t block = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; 8 * block < n; block += stride) {
    uint32_t words[4];
    philox(key, static_cast<uint64_t>(block), words);
    const int64_t first = 8 * block;
    if (packs && first + 8 <= n) {
      const auto in = load_piece<8>(x + first);
      Piece<uint16_t, 8> out;
#pragma unroll
      for (int k = 0; k < 8; ++k) out.at[k] = round_up_or_down(in.at[k], k % 2 ? words[k / 2] >> 16 : words[k / 2] & 0xffff);
      store_piece<8>(y + first, out);
    } else {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (first + k < n) y[first + k] = round_up_or_down(x[first + k], k % 2 ? words[k / 2] >> 16 : words[k / 2] & 0xffff);
      }
    }
  }
}

int32_t stochastic_cast(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  if (x.numel == 0) return kOk;
  stochastic_kernel<<<blocks_for(args, x.numel, 2048), 256, 0, stream_of(args).stream>>>(
      x.as<const float>(), y.as<uint16_t>(), x.numel, args->integer(0), attribute(args, 1), aligned16(x.data) && aligned16(y.data));
  return launched(args);
}

}  // namespace

LF_CUDA_KERNEL(stochastic_cast, stochastic_cast)
LF_CUDA_FROM_BLOCK(stochastic_cast, 1)

}  // namespace lf::cuda
