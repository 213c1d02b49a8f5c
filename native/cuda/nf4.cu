// dequantize_nibbles (native/ops/nf4.cpp): a thread owns 16 bytes of the result and reads their codes at once; the code book is in
// shared memory, where lanes that want different numbers of it do not meet. Bound by bytes; 256 threads a block. Warps an SM:
// nibbles_kernel 48.
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

struct Book {
  float at[16];
};
// The codes of V numbers, the first in the highest bits.
template <int V>
__device__ __forceinline__ uint32_t load_codes(const uint8_t* codes) {
  if constexpr (V == 8) return __byte_perm(*reinterpret_cast<const uint32_t*>(codes), 0, 0x0123);
  else if constexpr (V == 4) return static_cast<uint32_t>(codes[0]) << 8 | codes[1];
  else return codes[0];
}

template <class T>
__global__ void __launch_bounds__(256) nibbles_kernel(const uint8_t* codes, const float* scales, T* out, int64_t n, Divisor block,
                                                      bool packs, const __grid_constant__ Book book) {
  constexpr int V = Pack<T>::n;
  __shared__ float numbers[16];
  if (threadIdx.x < 16) numbers[threadIdx.x] = book.at[threadIdx.x];
  __syncthreads();
  const int64_t whole = packs ? n / V : 0, stride = int64_t{gridDim.x} * 256, me = int64_t{blockIdx.x} * 256 + threadIdx.x;
  for (int64_t i = me; i < whole; i += stride) {
    const uint32_t bits = load_codes<V>(codes + i * V / 2);
    int64_t rest;
    int64_t scale_at = block.divide(i * V, rest);
    float scale = scales[scale_at];
    Piece<T, V> piece;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if (rest == block.by) {
        rest = 0;
        scale = scales[++scale_at];
      }
      piece.at[k] = narrow<T>(static_cast<Acc<T>>(numbers[bits >> (4 * (V - 1 - k)) & 15] * scale));
      ++rest;
    }
    store_piece<V>(out + i * V, piece);
  }
  for (int64_t i = whole * V + me; i < n; i += stride) {
    int64_t rest;
    const float scale = scales[block.divide(i, rest)];
    out[i] = narrow<T>(static_cast<Acc<T>>(numbers[codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale));
  }
}

int32_t dequantize_nibbles(const KernelArgs* args) {
  const TensorView &codes = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  Book book;
  for (int k = 0; k < 16; ++k) book.at[k] = static_cast<float>(args->attrs[args->attr_begin[0] + k]);
  return dispatch_floating(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const bool packs = aligned16(out.data) && reinterpret_cast<uintptr_t>(codes.data) % 4 == 0;
    nibbles_kernel<T><<<blocks_for(args, out.numel, 256 * Pack<T>::n), 256, 0, stream_of(args).stream>>>(
        codes.as<const uint8_t>(), args->inputs[1].as<const float>(), out.as<T>(), out.numel, Divisor(args->integer(1)), packs, book);
    return launched(args);
  });
}

}  // namespace

LF_CUDA_KERNEL(dequantize_nibbles, dequantize_nibbles)

}  // namespace lf::cuda
