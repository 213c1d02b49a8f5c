// sparse_linear: y = x W^T (+ bias) with W in blocks or 2 of 4 (native/ops/sparse_linear.cpp). A warp owns one block row of W
// and 8 tokens; its lanes take the blocks in turn, gather the tokens' numbers at their columns (from L1, which a tile of
// tokens fits in), and their sums are added in a fixed order. 8 warps a block, on neighbouring block rows of the same tokens.
// Bound by gathers. Places that lie outside of W are reported and skipped.
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kTokens = 8;

struct Weight {
  const float* values;
  const int32_t *places, *offsets;
  const uint8_t* pairs;
  const float* bias;
  int64_t out, in, columns, blocks;
};

template <class T, int kR, bool kPairs>
__global__ void __launch_bounds__(kThreads)
    sparse_kernel(const T* x, T* y, int64_t tokens, const __grid_constant__ Weight w, const Faults faults) {
  const int lane = threadIdx.x % 32;
  const int64_t row = (blockIdx.y * int64_t{kWarps} + threadIdx.x / 32) * kR, first = blockIdx.x * int64_t{kTokens};
  if (row >= w.out) return;
  float sums[kR][kTokens] = {};
  const auto add = [&](const float* values, int64_t column) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float number = first + t < tokens ? widen(x[(first + t) * w.in + column]) : 0.0f;
#pragma unroll
      for (int r = 0; r < kR; ++r) sums[r][t] += values[r] * number;
    }
  };
  if constexpr (kPairs) {
    for (int64_t g = lane; g < w.in / 4; g += 32) {
      const int pair = w.pairs[row * (w.in / 4) + g];
      const float* values = w.values + row * (w.in / 2) + 2 * g;
      add(values, 4 * g + (pair & 3));
      add(values + 1, 4 * g + (pair >> 2 & 3));
    }
  } else {
    const int64_t begin = w.offsets[row / kR], end = w.offsets[row / kR + 1];
    if (begin < 0 || begin > end || end > w.blocks) {
      if (lane == 0) faults.report(end, row / kR, w.blocks);
      return;
    }
    for (int64_t b = begin + lane; b < end; b += 32) {
      const int64_t place = w.places[b];
      if (place < 0 || place >= w.in / w.columns) {
        faults.report(place, b, w.in / w.columns);
        continue;
      }
      for (int64_t c = 0; c < w.columns; ++c) add(w.values + (b * w.columns + c) * kR, place * w.columns + c);
    }
  }
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    float mine = 0;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float sum = warp_sum(sums[r][t]);
      if (lane == t) mine = sum;
    }
    if (lane < kTokens && first + lane < tokens) y[(first + lane) * w.out + row + r] = narrow<T>(mine + (w.bias ? w.bias[row + r] : 0.0f));
  }
}

int64_t no_workspace(const KernelArgs*) { return 0; }

int32_t sparse_linear(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &places = args->inputs[2], &offsets = args->inputs[3], &bias = args->inputs[4];
  const TensorView& y = args->outputs[0];
  if (y.numel == 0) return kOk;
  Weight w{};
  w.values = args->inputs[1].as<const float>();
  if (offsets.present()) {
    w.places = places.as<const int32_t>();
    w.offsets = offsets.as<const int32_t>();
  } else {
    w.pairs = places.as<const uint8_t>();
  }
  w.bias = bias.present() ? bias.as<const float>() : nullptr;
  w.out = args->integer(0);
  w.in = x.dim(-1);
  w.columns = args->integer(2);
  w.blocks = places.numel;
  const int64_t tokens = y.numel / w.out, rows = offsets.present() ? args->integer(1) : 1;
  const dim3 grid(static_cast<unsigned>((tokens + kTokens - 1) / kTokens), static_cast<unsigned>((w.out / rows + kWarps - 1) / kWarps));
  const Faults faults = faults_of(args, "place or offset %lld at position %lld is outside of the matrix, which has %lld there");
  const auto launch = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const T* from = x.as<const T>();
    T* to = y.as<T>();
    cudaStream_t stream = stream_of(args).stream;
    if (!offsets.present()) sparse_kernel<T, 1, true><<<grid, kThreads, 0, stream>>>(from, to, tokens, w, faults);
    else if (rows == 4) sparse_kernel<T, 4, false><<<grid, kThreads, 0, stream>>>(from, to, tokens, w, faults);
    else if (rows == 2) sparse_kernel<T, 2, false><<<grid, kThreads, 0, stream>>>(from, to, tokens, w, faults);
    else sparse_kernel<T, 1, false><<<grid, kThreads, 0, stream>>>(from, to, tokens, w, faults);
    return launched(args);
  };
  if (x.dtype == DType::kF16) return launch(Tag<__half>{});
  if (x.dtype == DType::kBF16) return launch(Tag<__nv_bfloat16>{});
  return launch(Tag<float>{});
}

}  // namespace

LF_CUDA_KERNEL(sparse_linear, sparse_linear)
LF_CUDA_WORKSPACE(sparse_linear, no_workspace)

}  // namespace lf::cuda
