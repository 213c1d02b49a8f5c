// int8_matmul: Y = A B^T on int8 codes with sums in i32 (native/ops/int8_matmul.cpp). From 2^30 products on, where rows are
// multiples of 16 codes and of 8 numbers, cuBLASLt makes the sums, at most 64 MiB at a time, and factors_kernel the numbers: sums are
// exact, so the bits are the same. On an H200 both took 144 us of 4096 x 4096 x 4096 where the product in bf16 takes 194 us, and
// mma.sync, in tiles of 128 x 256, 280 us.
//
// product_kernel, for the rest: a block of 8 warps makes tiles of 128 x 128 numbers of Y, a warp 64 x 32 of them: 4 x 4 tiles of
// mma m16n8k32 (s8, from sm_80; before, the same numbers by dp4a). 64 codes of k at a time go through up to four buffers in
// shared memory by cp.async, on from one tile to the next, and come from there by ldmatrix. Rows of B are dealt out so that
// a lane has 8 columns of Y side by side. 64 KB of shared memory and 128 registers: 2 blocks an SM (1 where
// rows are no multiples of 16 codes). Bound by multiply-adds.
// factors_kernel: a thread owns 4 columns of 8 rows. Bound by bytes; it begins with the sums that were written last, which are
// still in the L2 cache, and asks for its results to leave that first. With zero points the row sums of B come first, one warp a row.
//
// quantize_rows: a block owns a row, which it reads twice: for its largest magnitude, and (from cache) for the codes. Bound
// by bytes.
#include <type_traits>

#include "cuda/kernel.cuh"
#include "cuda/library.h"

namespace lf::cuda {
namespace {

constexpr int kThreads = 256;

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

// What becomes of a sum.
__device__ __forceinline__ float number_of(int32_t sum, int32_t zero, int32_t b_sum, float a, float b, const float* bias, int64_t at) {
  const float value = __fmul_rn(__int2float_rn(sum - zero * b_sum), __fmul_rn(a, b));
  return bias ? value + bias[at] : value;
}

// --- by our own kernel ---------------------------------------------------------------------------------------------------

// Tiles of kSide x kSide numbers, kStep codes of k at a time; a step's rows of A, then of B, 16 codes a thread in each pass.
constexpr int kSide = 128, kStep = 64, kGroup = 16;
constexpr int kRowChunks = kStep / 16, kPassRows = kThreads / kRowChunks, kPasses = 2 * kSide / kPassRows, kStageBytes = 2 * kSide * kStep;

// Chunks of 16 codes change places within their row, so that the rows that ldmatrix reads together (eight of A; of B 0, 1, 8,
// 9, 16, 17, 24, 25) have theirs in different banks.
__device__ __forceinline__ int turn_a(int row) { return row >> 1 & 3; }
__device__ __forceinline__ int turn_b(int row) { return row >> 3 & 3; }

struct Operands {
  const int8_t *a, *b;
  int64_t m, n, k;
  int row_tiles, column_tiles, stages;
  bool stores;  // rows of y can be written by 16 bytes
};

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 codes of a row into shared memory; zeros where there are none. `count`: how many there are. kPacks: rows can be read by 16
// bytes.
template <bool kPacks>
__device__ __forceinline__ void copy_chunk(int8_t* to, const int8_t* from, int count, const int8_t* base) {
  if constexpr (kPacks) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(count > 0 ? from : base), "r"(count > 0 ? 16 : 0)
                 : "memory");
#else
    *reinterpret_cast<uint4*>(to) = count > 0 ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
    return;
  }
  uint32_t words[4] = {};
#pragma unroll
  for (int c = 0; c < 16; ++c) {
    if (c < count) words[c / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(from[c])) << (8 * (c % 4));
  }
  *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void load_matrices(uint32_t at, uint32_t& x, uint32_t& y, uint32_t& z, uint32_t& w) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(x), "=r"(y), "=r"(z), "=r"(w) : "r"(at) : "memory");
}

__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until all but the latest `pending` groups are there.
__device__ __forceinline__ void await_copies(int pending) {
#if __CUDA_ARCH__ >= 800
  if (pending == 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
  else if (pending == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
  else asm volatile("cp.async.wait_group 0;" ::: "memory");
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

// Row and column of a tile's first number: up to 16 tiles below one another, then the next ones to the right, so that the blocks
// that run at a time share what they read.
__device__ __forceinline__ void tile_at(const Operands& of, int tile, int64_t& row, int64_t& column) {
  const int group = tile / (kGroup * of.column_tiles), first = group * kGroup;
  const int height = min(of.row_tiles - first, kGroup), rest = tile - first * of.column_tiles;
  row = int64_t{first + rest % height} * kSide;
  column = int64_t{rest / height} * kSide;
}

template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&values)[8]) {
  constexpr int kEach = 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < 8; i += kEach) {
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < kEach; ++j) pack.at[j] = narrow<T>(values[i + j]);
    store_pack(to + i, pack);
  }
}

template <class T, bool kPacks>
__global__ void __launch_bounds__(kThreads, kPacks ? 2 : 1) product_kernel(const __grid_constant__ Operands of, const __grid_constant__ Factors factors, T* y) {
  extern __shared__ __align__(128) int8_t stages[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
  const int tiles = of.row_tiles * of.column_tiles, steps = of.k > 0 ? static_cast<int>((of.k + kStep - 1) / kStep) : 1;

  // What is loaded next, of this tile or of the one after it.
  int next_tile = static_cast<int>(blockIdx.x), next_step = 0, next_slot = 0;
  const int load_row = static_cast<int>(threadIdx.x) / kRowChunks, load_chunk = static_cast<int>(threadIdx.x) % kRowChunks;
  int rows_left = 0, columns_left = 0;  // of the tile, from this thread's first ones on
  const int8_t *next_a = of.a, *next_b = of.b;
  const auto begin_tile = [&] {
    if (next_tile >= tiles) return;
    int64_t row, column;
    tile_at(of, next_tile, row, column);
    rows_left = static_cast<int>(min(of.m - row, int64_t{kSide})) - load_row;
    columns_left = static_cast<int>(min(of.n - column, int64_t{kSide})) - load_row;
    next_a = of.a + (row + load_row) * of.k + load_chunk * 16;
    next_b = of.b + (column + load_row) * of.k + load_chunk * 16;
  };
  begin_tile();
  const auto load = [&] {
    if (next_tile < tiles) {
      const int64_t at = int64_t{next_step} * kStep;
      const int count = static_cast<int>(min(of.k - at, int64_t{kStep})) - load_chunk * 16;
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const bool of_a = pass * kPassRows < kSide;
        const int down = pass * kPassRows % kSide, row = down + load_row;
        const int chunk = load_chunk ^ (of_a ? turn_a(row) : turn_b(row));
        copy_chunk<kPacks>(stages + next_slot * kStageBytes + (pass * kPassRows + load_row) * kStep + chunk * 16,
                           (of_a ? next_a : next_b) + down * of.k + at, down < (of_a ? rows_left : columns_left) ? count : 0, of_a ? of.a : of.b);
      }
    }
    commit_copies();
    next_slot = next_slot + 1 == of.stages ? 0 : next_slot + 1;
    if (++next_step < steps) return;
    next_step = 0;
    next_tile += gridDim.x;
    begin_tile();
  };

  const int row_a = warp_row + lane % 16, eighth = lane % 8;
  const int row_b = warp_column + eighth / 2 * 8 + lane / 16 * 2 + eighth % 2;
  const uint32_t from_a = shared_address(stages) + row_a * kStep, from_b = shared_address(stages) + (kSide + row_b) * kStep;
  uint32_t of_a[4][4], of_b[4][2];
  const auto fetch = [&](int slot, int part) {
    const uint32_t a = from_a + slot * kStageBytes + ((part * 2 + lane / 16) ^ turn_a(row_a)) * 16;
    const uint32_t b = from_b + slot * kStageBytes + ((part * 2 + lane / 8 % 2) ^ turn_b(row_b)) * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) load_matrices(a + i * 16 * kStep, of_a[i][0], of_a[i][1], of_a[i][2], of_a[i][3]);
#pragma unroll
    for (int j = 0; j < 4; j += 2) load_matrices(b + j * 2 * kStep, of_b[j][0], of_b[j][1], of_b[j + 1][0], of_b[j + 1][1]);
  };

  for (int i = 0; i + 1 < of.stages; ++i) load();
  await_copies(of.stages - 2);
  __syncthreads();
  int slot = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    int32_t sums[4][4][4] = {};
    const auto multiply_parts = [&] {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add(sums[i][j], of_a[i], of_b[j]);
      }
    };
    for (int step = 0; step < steps; ++step) {
      fetch(slot, 0);
      load();
      multiply_parts();
      fetch(slot, 1);
      await_copies(of.stages - 2);
      __syncthreads();
      multiply_parts();
      slot = slot + 1 == of.stages ? 0 : slot + 1;
    }

    int64_t row, column;
    tile_at(of, tile, row, column);
    const int64_t at = column + warp_column + lane % 4 * 8;
    float scales[8];
    int32_t b_sums[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const bool inside = at + c < of.n;
      scales[c] = inside ? factors.b[factors.b_one ? 0 : at + c] : 0;
      b_sums[c] = factors.zeros && inside ? factors.b_sums[at + c] : 0;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t r = row + warp_row + i * 8 + lane / 4;
      if (r >= of.m || at >= of.n) continue;
      const float scale = factors.a[factors.a_one ? 0 : r];
      const int32_t zero = factors.zeros ? factors.zeros[factors.zeros_one ? 0 : r] : 0;
      float values[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float* bias = at + c < of.n ? factors.bias : nullptr;
        values[c] = number_of(sums[i / 2][c / 2][i % 2 * 2 + c % 2], zero, b_sums[c], scale, scales[c], bias, at + c);
      }
      T* to = y + r * of.n + at;
      if (of.stores) {
        store_eight(to, values);
        continue;
      }
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (at + c < of.n) to[c] = narrow<T>(values[c]);
      }
    }
  }
}

template <class T, bool kPacks>
int32_t multiply_tiles(const KernelArgs* args, Operands of, const Factors& factors, T* y) {
  const Stream& stream = stream_of(args);
  of.row_tiles = static_cast<int>((of.m + kSide - 1) / kSide);
  of.column_tiles = static_cast<int>((of.n + kSide - 1) / kSide);
  const int64_t stages = stream.shared_bytes_per_block / 2 / kStageBytes;
  of.stages = static_cast<int>(stages < 2 ? 2 : stages > 4 ? 4 : stages);
  const int bytes = of.stages * kStageBytes;
  const int64_t tiles = int64_t{of.row_tiles} * of.column_tiles, most = int64_t{stream.multiprocessors} * 2;
  const auto kernel = product_kernel<T, kPacks>;
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return report(args, code);
  kernel<<<static_cast<unsigned>(tiles < most ? tiles : most), kThreads, static_cast<size_t>(bytes), stream.stream>>>(of, factors, y);
  return launched(args);
}

// --- by the library ------------------------------------------------------------------------------------------------------

constexpr int64_t kLibraryProducts = int64_t{1} << 30, kMostSums = int64_t{1} << 24;
constexpr int kFactorRows = 8;

bool library_makes(int64_t m, int64_t n, int64_t k) { return k % 16 == 0 && n % 8 == 0 && m * n * k >= kLibraryProducts; }

// Rows of Y whose sums are made at a time.
int64_t rows_at_a_time(int64_t m, int64_t n) {
  const int64_t most = kMostSums / n / 128 * 128;
  return most < 128 ? 128 : most < m ? most : m;
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
  using Word = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
  T at[4];
};

// Four numbers of y at a time, in [rows, n].
template <class T>
__global__ void __launch_bounds__(kThreads)
    factors_kernel(const int32_t* sums, const __grid_constant__ Factors factors, int64_t first, int64_t rows, int64_t n, T* y) {
  const int64_t at = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * 4, begin = int64_t{gridDim.x - 1 - blockIdx.x} * kFactorRows;
  if (at >= n) return;
  int4 four[kFactorRows];
#pragma unroll
  for (int i = 0; i < kFactorRows; ++i) {
    if (begin + i < rows) four[i] = __ldcs(reinterpret_cast<const int4*>(sums + (begin + i) * n + at));
  }
  float scales[4];
  int32_t b_sums[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    scales[c] = factors.b[factors.b_one ? 0 : at + c];
    b_sums[c] = factors.zeros ? factors.b_sums[at + c] : 0;
  }
#pragma unroll
  for (int i = 0; i < kFactorRows; ++i) {
    if (begin + i >= rows) return;
    const int64_t r = first + begin + i;
    const float scale = factors.a[factors.a_one ? 0 : r];
    const int32_t zero = factors.zeros ? factors.zeros[factors.zeros_one ? 0 : r] : 0;
    const int32_t own[4] = {four[i].x, four[i].y, four[i].z, four[i].w};
    Four<T> out;
#pragma unroll
    for (int c = 0; c < 4; ++c) out.at[c] = narrow<T>(number_of(own[c], zero, b_sums[c], scale, scales[c], factors.bias, at + c));
    __stcs(reinterpret_cast<typename Four<T>::Word*>(y + r * n + at), *reinterpret_cast<typename Four<T>::Word*>(&out));
  }
}

template <class T>
int32_t multiply_by_library(const KernelArgs* args, const Operands& of, const Factors& factors, T* y, int64_t own) {
  const int64_t most = rows_at_a_time(of.m, of.n), bytes = most * of.n * 4;
  char* workspace = static_cast<char*>(args->workspace) + own;
  auto* sums = reinterpret_cast<int32_t*>(workspace);
  for (int64_t first = 0; first < of.m; first += most) {
    Product p;
    p.m = of.m - first < most ? of.m - first : most, p.n = of.n, p.k = of.k;
    p.lda = p.ldb = of.k, p.ldc = of.n;
    p.trans_b = true;
    p.dtype_ab = DType::kI8, p.dtype_c = DType::kI32;
    p.a = of.a + first * of.k, p.b = of.b, p.c = sums;
    bool done = false;
    if (const int32_t code = multiply(args, p, workspace + bytes, args->workspace_bytes - own - bytes, &done)) return code;
    const dim3 grid(static_cast<unsigned>((p.m + kFactorRows - 1) / kFactorRows), static_cast<unsigned>((p.n + 4 * kThreads - 1) / (4 * kThreads)));
    factors_kernel<T><<<grid, kThreads, 0, stream_of(args).stream>>>(sums, factors, first, p.m, of.n, y);
    if (const int32_t code = launched(args)) return code;
  }
  return kOk;
}

// --- the operator --------------------------------------------------------------------------------------------------------

int64_t sums_workspace(const KernelArgs* args) { return args->inputs[4].present() ? (args->inputs[1].dim(0) * 4 + 255) / 256 * 256 : 0; }

int64_t workspace(const KernelArgs* args) {
  const int64_t k = args->inputs[0].dim(-1), n = args->inputs[1].dim(0), m = n ? args->outputs[0].numel / n : 0;
  if (!library_makes(m, n, k)) return sums_workspace(args);
  const int64_t rows = rows_at_a_time(m, n);
  return sums_workspace(args) + rows * n * 4 + product_workspace(rows, n, k, 1);
}

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
  Operands of{a.as<const int8_t>(), b.as<const int8_t>(), m, n, k, 0, 0, 0, n % 8 == 0 && aligned16(y.data)};
  const bool packs = k % 16 == 0 && aligned16(a.data) && aligned16(b.data);
  const auto launch = [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (packs && of.stores && library_makes(m, n, k)) return multiply_by_library(args, of, factors, y.as<T>(), sums_workspace(args));
    return packs ? multiply_tiles<T, true>(args, of, factors, y.as<T>()) : multiply_tiles<T, false>(args, of, factors, y.as<T>());
  };
  if (y.dtype == DType::kF16) return launch(Tag<__half>{});
  if (y.dtype == DType::kBF16) return launch(Tag<__nv_bfloat16>{});
  return launch(Tag<float>{});
}

}  // namespace

LF_CUDA_KERNEL(int8_matmul, int8_matmul)
LF_CUDA_WORKSPACE(int8_matmul, workspace)
LF_CUDA_KERNEL(quantize_rows, quantize_rows)

}  // namespace lf::cuda
