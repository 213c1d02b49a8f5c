// int8_matmul: Y = A B^T on int8 codes with sums in i32 (native/ops/int8_matmul.cpp). A block of 8 warps owns 128 x 128 numbers
// of Y, a warp 64 x 32 of them: 4 x 4 tiles of mma m16n8k32 (s8, from sm_80; before, the same numbers by dp4a). 64 codes of k
// at a time go through two buffers in shared memory by cp.async, rows 80 bytes apart, so that the words of a fragment lie in
// different banks. 40 KB of shared memory and 128 registers: 2 blocks an SM. Bound by multiply-adds.
// With zero points the row sums of B come first, one warp a row.
//
// quantize_rows: a block owns a row, which it reads twice: for its largest magnitude, and (from cache) for the codes. Bound
// by bytes.
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

constexpr int kTile = 128, kStep = 64, kPitch = 80, kThreads = 256;

// --- codes of rows -------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const T* x, int8_t* codes, float* scales, int64_t rows, int64_t n, float top, float share) {
  __shared__ float shared[32];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    float largest = 0;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const float size = fabsf(widen(x[r * n + i]));
      largest = size > largest || size != size ? size : largest;
    }
    largest = block_max(largest, shared);
    const float scale = (largest < 1e-30f ? 1e-30f : largest) * share;
    if (threadIdx.x == 0) scales[r] = scale;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      float q = rintf(__fdiv_rn(widen(x[r * n + i]), scale));
      q = q == q ? q : 0.0f;
      codes[r * n + i] = static_cast<int8_t>(q > top ? top : q < -top ? -top : q);
    }
  }
}

int32_t quantize_rows(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &scales = args->outputs[1];
  const int64_t rows = scales.numel, n = x.dim(-1);
  if (rows == 0) return kOk;
  const float top = static_cast<float>(args->integer(0)), share = static_cast<float>(1.0 / static_cast<double>(args->integer(0)));
  const auto launch = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    quantize_kernel<T><<<blocks_for(args, rows, 1), kThreads, 0, stream_of(args).stream>>>(
        x.as<const T>(), args->outputs[0].as<int8_t>(), scales.as<float>(), rows, n, top, share);
    return launched(args);
  };
  if (x.dtype == DType::kF16) return launch(Tag<__half>{});
  if (x.dtype == DType::kBF16) return launch(Tag<__nv_bfloat16>{});
  return launch(Tag<float>{});
}

// --- products ------------------------------------------------------------------------------------------------------------

struct Factors {
  const float *a, *b;      // scales
  const int32_t* zeros;    // nullptr: none
  const int32_t* b_sums;   // [n], with zeros
  const float* bias;       // nullptr: none
  bool a_one, b_one, zeros_one;
};

__global__ void __launch_bounds__(kThreads) row_sums_kernel(const int8_t* b, int32_t* sums, int64_t n, int64_t k) {
  const int64_t row = (blockIdx.x * int64_t{kThreads} + threadIdx.x) / 32;
  if (row >= n) return;
  int32_t sum = 0;
  for (int64_t i = threadIdx.x % 32; i < k; i += 32) sum += b[row * k + i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[row] = sum;
}

// Rows [first, first + 128) x codes [k0, k0 + 64) into shared memory; zeros beyond the ends. `packs`: rows can be read by 16
// bytes.
__device__ __forceinline__ void load_tile(const int8_t* from, int64_t first, int64_t rows, int64_t k0, int64_t k, bool packs, int8_t* to) {
#pragma unroll
  for (int j = 0; j < kTile * kStep / 16 / kThreads; ++j) {
    const int item = j * kThreads + static_cast<int>(threadIdx.x), row = item / (kStep / 16), at = item % (kStep / 16) * 16;
    int8_t* own = to + row * kPitch + at;
    const int8_t* source = from + (first + row) * k + k0 + at;
    if (packs && first + row < rows && k0 + at < k) {
#if __CUDA_ARCH__ >= 800
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "l"(source));
#else
      *reinterpret_cast<uint4*>(own) = *reinterpret_cast<const uint4*>(source);
#endif
    } else {
      uint32_t words[4] = {};
      if (first + row < rows) {
#pragma unroll
        for (int c = 0; c < 16; ++c) {
          if (k0 + at + c < k) words[c / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(source[c])) << (8 * (c % 4));
        }
      }
      *reinterpret_cast<uint4*>(own) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

// C += A B of 16 x 8 numbers over 32 codes. Lane l holds words of rows l / 4 and l / 4 + 8 of A and of row l / 4 of B, at words
// l % 4 and l % 4 + 4; of C, rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next.
__device__ __forceinline__ void multiply_add(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  const int lane = threadIdx.x % 32, row = lane / 4, pair = lane % 4 * 2;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t a0 = __shfl_sync(kFullWarp, a[2 * half], row * 4 + w), a1 = __shfl_sync(kFullWarp, a[2 * half + 1], row * 4 + w);
      const uint32_t b0 = __shfl_sync(kFullWarp, b[half], pair * 4 + w), b1 = __shfl_sync(kFullWarp, b[half], (pair + 1) * 4 + w);
      c[0] = __dp4a(static_cast<int>(a0), static_cast<int>(b0), c[0]);
      c[1] = __dp4a(static_cast<int>(a0), static_cast<int>(b1), c[1]);
      c[2] = __dp4a(static_cast<int>(a1), static_cast<int>(b0), c[2]);
      c[3] = __dp4a(static_cast<int>(a1), static_cast<int>(b1), c[3]);
    }
  }
#endif
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    product_kernel(const int8_t* a, const int8_t* b, T* y, int64_t m, int64_t n, int64_t k, bool packs, const __grid_constant__ Factors factors) {
  __shared__ __align__(16) int8_t tiles[2][2][kTile * kPitch];
  const int64_t row = blockIdx.x * int64_t{kTile}, column = blockIdx.y * int64_t{kTile};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
  int32_t sums[4][4][4] = {};
  const int64_t steps = (k + kStep - 1) / kStep;
  const auto load = [&](int64_t step, int buffer) {
    load_tile(a, row, m, step * kStep, k, packs, tiles[buffer][0]);
    load_tile(b, column, n, step * kStep, k, packs, tiles[buffer][1]);
  };
  if (steps > 0) load(0, 0);
  for (int64_t step = 0; step < steps; ++step) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group 0;");
#endif
    __syncthreads();
    if (step + 1 < steps) load(step + 1, static_cast<int>((step + 1) % 2));
    const int8_t *tile_a = tiles[step % 2][0], *tile_b = tiles[step % 2][1];
#pragma unroll
    for (int part = 0; part < kStep / 32; ++part) {
      const auto word = [&](const int8_t* tile, int r, int w) {
        return *reinterpret_cast<const uint32_t*>(tile + r * kPitch + part * 32 + w * 4);
      };
      uint32_t of_a[4][4], of_b[4][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = warp_row + i * 16 + lane / 4;
        of_a[i][0] = word(tile_a, r, lane % 4);
        of_a[i][1] = word(tile_a, r + 8, lane % 4);
        of_a[i][2] = word(tile_a, r, lane % 4 + 4);
        of_a[i][3] = word(tile_a, r + 8, lane % 4 + 4);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int r = warp_column + j * 8 + lane / 4;
        of_b[j][0] = word(tile_b, r, lane % 4);
        of_b[j][1] = word(tile_b, r, lane % 4 + 4);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add(sums[i][j], of_a[i], of_b[j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t r = row + warp_row + i * 16 + half * 8 + lane / 4;
      if (r >= m) continue;
      const float scale = factors.a[factors.a_one ? 0 : r];
      const int32_t zero = factors.zeros ? factors.zeros[factors.zeros_one ? 0 : r] : 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int64_t at = column + warp_column + j * 8 + lane % 4 * 2 + c;
          if (at >= n) continue;
          int32_t sum = sums[i][j][2 * half + c];
          if (factors.zeros) sum -= zero * factors.b_sums[at];
          float value = __fmul_rn(__int2float_rn(sum), __fmul_rn(scale, factors.b[factors.b_one ? 0 : at]));
          if (factors.bias) value += factors.bias[at];
          y[r * n + at] = narrow<T>(value);
        }
      }
    }
  }
}

int64_t sums_workspace(const KernelArgs* args) { return args->inputs[4].present() ? args->inputs[1].dim(0) * 4 : 0; }

int32_t int8_matmul(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &sa = args->inputs[2], &sb = args->inputs[3];
  const TensorView &zeros = args->inputs[4], &bias = args->inputs[5], &y = args->outputs[0];
  if (y.numel == 0) return kOk;
  const int64_t k = a.dim(-1), n = b.dim(0), m = y.numel / n;
  cudaStream_t stream = stream_of(args).stream;
  Factors factors{sa.as<const float>(), sb.as<const float>(), nullptr, nullptr, bias.present() ? bias.as<const float>() : nullptr,
                  sa.numel == 1, sb.numel == 1, true};
  if (zeros.present()) {
    auto* sums = static_cast<int32_t*>(args->workspace);
    row_sums_kernel<<<static_cast<unsigned>((n * 32 + kThreads - 1) / kThreads), kThreads, 0, stream>>>(b.as<const int8_t>(), sums, n, k);
    factors.zeros = zeros.as<const int32_t>();
    factors.b_sums = sums;
    factors.zeros_one = zeros.numel == 1;
  }
  const bool packs = k % 16 == 0 && aligned16(a.data) && aligned16(b.data);
  const dim3 grid(static_cast<unsigned>((m + kTile - 1) / kTile), static_cast<unsigned>((n + kTile - 1) / kTile));
  const auto launch = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    product_kernel<T><<<grid, kThreads, 0, stream>>>(a.as<const int8_t>(), b.as<const int8_t>(), y.as<T>(), m, n, k, packs, factors);
    return launched(args);
  };
  if (y.dtype == DType::kF16) return launch(Tag<__half>{});
  if (y.dtype == DType::kBF16) return launch(Tag<__nv_bfloat16>{});
  return launch(Tag<float>{});
}

}  // namespace

LF_CUDA_KERNEL(int8_matmul, int8_matmul)
LF_CUDA_WORKSPACE(int8_matmul, sums_workspace)
LF_CUDA_KERNEL(quantize_rows, quantize_rows)

}  // namespace lf::cuda
