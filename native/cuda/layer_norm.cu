// layer_norm, rms_norm and their gradients over the last axis; formulas in native/ops/layer_norm.cpp.
//
// Up to 8192 numbers a row (2048 where packs of 16 bytes do not fit): a group of width / N threads (whole warps) owns a row,
// N = 8 or 16 numbers a thread in registers, so every number is read once. A block fills a multiprocessor and stays: its
// groups walk over rows on their own, each with a barrier of its own. Weight and bias are read once a block and lie in
// registers. The gradients of weight and bias are summed in registers over a group's rows and then over the block's groups,
// in order; blocks leave partial sums that combine_columns_kernel adds in order. The number of blocks follows from the
// shape and the device, and is small enough that partial sums are below a tenth of the data.
// Wider rows: a block of 512 reads its row three times.
// Bound by bytes; every warp has 16 bytes a lane in flight or more. At most 64 registers (128 with N = 16). Warps an SM:
// norm_kernel 24, norm_backward_kernel 24.
#include "cuda/column_sums.cuh"
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

// The widest rows that are held in registers: 16 numbers a thread are only for packs, for anything else they would spill.
template <class T>
int64_t widest(bool packs) {
  return packs && sizeof(T) < 8 ? 8192 : 2048;
}

// How a row is spread: items and threads of a row.
struct Spread {
  int items, threads;
};
Spread spread_of(int64_t width) {
  Spread s{};
  s.items = width <= 2048 ? 8 : 16;
  s.threads = static_cast<int>((width + s.items * 32 - 1) / (s.items * 32) * 32);
  if (s.threads == 0) s.threads = 32;
  return s;
}
// Threads of a block whose registers fill a multiprocessor; f64 takes twice the registers, and serves checks.
template <class T, int V, int N>
constexpr int kMostThreads = sizeof(T) == 8 ? 256 : V > 1 && N == 8 ? 1024 : 512;
constexpr int kMostGroups = 15;  // of several warps: there are 16 barriers, and one is the block's

// Groups of a block where `blocks` share the rows: no more than the same number of turns needs.
int groups_of(int64_t rows, int64_t blocks, const Spread& s, int most_threads) {
  int64_t most = most_threads / s.threads;
  if (s.threads > 32 && most > kMostGroups) most = kMostGroups;
  const int64_t turns = (rows + blocks * most - 1) / (blocks * most);
  return static_cast<int>((rows + blocks * turns - 1) / (blocks * turns));
}

// The sums of two numbers over the threads of a group, in every one of them. Buffers are used in turn, so that one barrier is
// enough.
template <class A>
struct GroupSums {
  A (*buffer)[16][2];  // [turn * groups + group][warp][which]
  int turn;
  __device__ __forceinline__ void operator()(A& a, A& b) {
    a = warp_sum(a);
    b = warp_sum(b);
    if (blockDim.x == 32) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    A(*slot)[2] = buffer[turn * blockDim.y + threadIdx.y];
    turn ^= 1;
    if (lane == 0) slot[warp][0] = a, slot[warp][1] = b;
    asm volatile("bar.sync %0, %1;" ::"r"(threadIdx.y + 1), "r"(blockDim.x) : "memory");
    a = warp_sum(lane < warps ? slot[lane][0] : A(0));
    b = warp_sum(lane < warps ? slot[lane][1] : A(0));
  }
};

// A vector, in shared memory in the order in which threads take it: read from memory once, by all of the block. The parts of
// 4 numbers of a thread lie in planes; odd ones are turned by 4 threads, so that neither side meets in a bank.
template <int V, int N, class A>
struct SharedVector {
  static constexpr int kPart = V >= 4 ? 4 : 1;
  static_assert(V <= 8);
  A* numbers;  // [N / kPart][threads][kPart]

  __device__ __forceinline__ A* at(int plane, int thread) const {
    const int threads = blockDim.x;
    if (V == 8 && plane % 2) thread = thread + 4 < threads ? thread + 4 : thread + 4 - threads;
    return numbers + (plane * threads + thread) * kPart;
  }
  __device__ __forceinline__ void fill(const AnyVector& vector, int width) const {
    const int threads = blockDim.x;
    for (int i = threadIdx.y * threads + threadIdx.x; i < N * threads; i += threads * blockDim.y) {
      const int unit = i / V, k = i % V, j = unit / threads, thread = unit % threads;
      at((j * V + k) / kPart, thread)[k % kPart] = i < width ? element<A>(vector, i) : A(0);
    }
  }
  __device__ __forceinline__ void take(A (&out)[N]) const {
#pragma unroll
    for (int plane = 0; plane < N / kPart; ++plane) {
      const auto part = *reinterpret_cast<const Piece<A, kPart>*>(at(plane, threadIdx.x));
#pragma unroll
      for (int k = 0; k < kPart; ++k) out[plane * kPart + k] = part.at[k];
    }
  }
};

// Weight and bias in registers; `absent` for one that is not there.
template <int V, int N, class A>
__device__ __forceinline__ void load_vectors(A* shared, int width, const AnyVector& weight, A (&w)[N], const AnyVector& bias, A (&b)[N]) {
  const SharedVector<V, N, A> first{shared}, second{shared + N * blockDim.x};
  if (weight.data) first.fill(weight, width);
  if (bias.data) second.fill(bias, width);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; ++k) w[k] = A(1), b[k] = A(0);
  if (weight.data) first.take(w);
  if (bias.data) second.take(b);
}

// What a thread holds of a row, as it lies in memory.
template <class T, int V, int N>
struct RowPieces {
  Piece<T, V> of[N / V];
  __device__ __forceinline__ void load(const T* row, int width) {
#pragma unroll
    for (int j = 0; j < N / V; ++j) {
      const int i = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * V;
      if (i < width) of[j] = load_piece<V>(row + i);
      else of[j] = Piece<T, V>{};
    }
  }
  __device__ __forceinline__ void widened(Acc<T> (&x)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] = widen(of[k / V].at[k % V]);
  }
};

extern __shared__ __align__(16) unsigned char dynamic_shared[];

// While a group computes a row, its next one is on the way.
template <class T, int V, int N, bool kRms>
__global__ void __launch_bounds__(kMostThreads<T, V, N>)
    norm_kernel(const T* x, AnyVector weight, AnyVector bias, T* y, Acc<T>* means, Acc<T>* rstds, int64_t rows, int width, Acc<T> eps) {
  using A = Acc<T>;
  __shared__ A buffer[2 * kMostGroups][16][2];
  GroupSums<A> sums{buffer, 0};
  A w[N], b[N];
  const int thread = threadIdx.x, threads = blockDim.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.y;
  int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  RowPieces<T, V, N> pieces;
  pieces.load(x + row * width, row < rows ? width : 0);
  load_vectors<V, N>(reinterpret_cast<A*>(dynamic_shared), width, weight, w, bias, b);
  for (; row < rows; row += step) {
    A v[N];
    pieces.widened(v);
    pieces.load(x + (row + step) * width, row + step < rows ? width : 0);
    A mean = 0;
    if constexpr (!kRms) {
      A total = 0, none = 0;
#pragma unroll
      for (int k = 0; k < N; ++k) total += v[k];
      sums(total, none);
      mean = total / static_cast<A>(width);
    }
    A squares = 0, none = 0;
#pragma unroll
    for (int j = 0; j < N / V; ++j) {
      const bool inside = (j * threads + thread) * V < width;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const A d = inside ? v[j * V + k] - mean : A(0);
        v[j * V + k] = d;
        squares += d * d;
      }
    }
    sums(squares, none);
    const A rstd = A(1) / sqrt(squares / static_cast<A>(width) + eps);
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = v[k] * rstd * w[k] + b[k];
    store_row<V, N>(y + row * width, width, thread, threads, v);
    if (thread == 0) {
      if constexpr (!kRms) means[row] = mean;
      rstds[row] = rstd;
    }
  }
}

template <int V>
constexpr int kSumsGap = V > 1 ? 32 / V : 0;

// `partial` [gridDim.x, 2 * width] (or [.., width] for rms_norm): sums of dy * n, then of dy, over the block's rows.
template <class T, int V, int N, bool kRms>
__global__ void __launch_bounds__(kMostThreads<T, V, N>)
    norm_backward_kernel(const T* grad, const T* x, AnyVector weight, const Acc<T>* means, const Acc<T>* rstds, const T* add, T* dx,
                         Acc<T>* partial, int64_t rows, int width) {
  using A = Acc<T>;
  __shared__ A buffer[2 * kMostGroups][16][2];
  GroupSums<A> sums{buffer, 0};
  auto* shared = reinterpret_cast<A*>(dynamic_shared);
  const SharedVector<V, N, A> weights{shared};
  A weight_sums[N] = {}, bias_sums[kRms ? 1 : N] = {};
  const int thread = threadIdx.x, threads = blockDim.x;
  if (weight.data) weights.fill(weight, width);
  __syncthreads();
  // A group's rows are neighbours, so that a warp reads 32 means at a time, one a lane.
  const int64_t groups = int64_t{gridDim.x} * blockDim.y, turns = (rows + groups - 1) / groups;
  const int64_t first = (int64_t{blockIdx.x} * blockDim.y + threadIdx.y) * turns, last = first + turns < rows ? first + turns : rows;
  A lane_rstd = 0, lane_mean = 0;
  for (int64_t row = first; row < last; ++row) {
    A d[N], n[N], g_sum = 0, gn_sum = 0;
    load_row<V, N>(grad + row * width, width, thread, threads, A(0), d);
    load_row<V, N>(x + row * width, width, thread, threads, A(0), n);
    const int turn = static_cast<int>(row - first) % 32;
    if (turn == 0 && row + thread % 32 < last) {
      lane_rstd = rstds[row + thread % 32];
      if constexpr (!kRms) lane_mean = means[row + thread % 32];
    }
    const A rstd = __shfl_sync(kFullWarp, lane_rstd, turn), mean = kRms ? A(0) : __shfl_sync(kFullWarp, lane_mean, turn);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      n[k] = (n[k] - mean) * rstd;  // beyond the row d is 0, so this does not count
      weight_sums[k] += d[k] * n[k];
      if constexpr (!kRms) bias_sums[k] += d[k];
    }
    if (weight.data) {
      A w[N];
      weights.take(w);
#pragma unroll
      for (int k = 0; k < N; ++k) d[k] *= w[k];
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      g_sum += d[k];
      gn_sum += d[k] * n[k];
    }
    sums(g_sum, gn_sum);
    const A g_mean = kRms ? A(0) : g_sum / static_cast<A>(width), gn_mean = gn_sum / static_cast<A>(width);
#pragma unroll
    for (int j = 0; j < N / V; ++j) {
      const int i = (j * threads + thread) * V;
      if (i >= width) continue;
      Piece<T, V> extra, out;
      if (add) extra = load_piece<V>(add + row * width + i);
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const A value = (d[j * V + k] - g_mean - n[j * V + k] * gn_mean) * rstd;
        out.at[k] = narrow<T>(add ? value + widen(extra.at[k]) : value);
      }
      store_piece<V>(dx + row * width + i, out);
    }
  }
  if (!partial) return;
  // The block's groups, in order. Every thread leaves its sums; neighbours then take neighbouring columns. Those of a thread lie
  // `stride` apart, so that neither side meets in a bank.
  const int stride = threads + kSumsGap<V>;
  partial += static_cast<int64_t>(blockIdx.x) * (kRms ? 1 : 2) * width;
#pragma unroll
  for (int which = 0; which < (kRms ? 1 : 2); ++which) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) shared[(threadIdx.y * N + k) * stride + thread] = which ? bias_sums[kRms ? 0 : k] : weight_sums[k];
    __syncthreads();
    for (int i = threadIdx.y * threads + thread; i < width; i += threads * blockDim.y) {
      const int unit = i / V, j = unit / threads, place = (j * V + i % V) * stride + unit % threads;
      A total = shared[place];
      for (int group = 1; group < static_cast<int>(blockDim.y); ++group) total += shared[group * N * stride + place];
      partial[which * width + i] = total;
    }
  }
}

// --- rows wider than registers: a block of 512 owns a row ----------------------------------------------------------------

template <class T, bool kRms>
__global__ void __launch_bounds__(512)
    wide_norm_kernel(const T* x, AnyVector weight, AnyVector bias, T* y, Acc<T>* means, Acc<T>* rstds, int64_t width, Acc<T> eps) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t row = blockIdx.x;
  x += row * width, y += row * width;
  A mean = 0;
  if constexpr (!kRms) {
    A total = 0;
    for (int64_t i = threadIdx.x; i < width; i += 512) total += widen(x[i]);
    mean = block_sum(total, shared) / static_cast<A>(width);
  }
  A squares = 0;
  for (int64_t i = threadIdx.x; i < width; i += 512) {
    const A d = widen(x[i]) - mean;
    squares += d * d;
  }
  const A rstd = A(1) / sqrt(block_sum(squares, shared) / static_cast<A>(width) + eps);
  for (int64_t i = threadIdx.x; i < width; i += 512) {
    const A value = (widen(x[i]) - mean) * rstd * (weight.data ? element<A>(weight, i) : A(1));
    y[i] = narrow<T>(bias.data ? value + element<A>(bias, i) : value);
  }
  if (threadIdx.x == 0) {
    if constexpr (!kRms) means[row] = mean;
    rstds[row] = rstd;
  }
}

template <class T, bool kRms>
__global__ void __launch_bounds__(512)
    wide_norm_backward_kernel(const T* grad, const T* x, AnyVector weight, const Acc<T>* means, const Acc<T>* rstds, const T* add, T* dx,
                              int64_t width) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t row = blockIdx.x, at = row * width;
  const A mean = kRms ? A(0) : means[row], rstd = rstds[row];
  A g_sum = 0, gn_sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += 512) {
    const A g = widen(grad[at + i]) * (weight.data ? element<A>(weight, i) : A(1));
    g_sum += g;
    gn_sum += g * ((widen(x[at + i]) - mean) * rstd);
  }
  const A g_mean = kRms ? A(0) : block_sum(g_sum, shared) / static_cast<A>(width);
  const A gn_mean = block_sum(gn_sum, shared) / static_cast<A>(width);
  for (int64_t i = threadIdx.x; i < width; i += 512) {
    const A g = widen(grad[at + i]) * (weight.data ? element<A>(weight, i) : A(1));
    const A value = (g - g_mean - (widen(x[at + i]) - mean) * rstd * gn_mean) * rstd;
    dx[at + i] = narrow<T>(add ? value + widen(add[at + i]) : value);
  }
}

// A thread owns a column of a run of rows; the runs' sums are partial sums as above.
template <class T, bool kRms>
__global__ void __launch_bounds__(256) wide_norm_weights_kernel(const T* grad, const T* x, const Acc<T>* means, const Acc<T>* rstds,
                                                                Acc<T>* partial, int64_t rows, int64_t run, int64_t width) {
  using A = Acc<T>;
  const int64_t column = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (column >= width) return;
  const int64_t begin = blockIdx.y * run, end = begin + run < rows ? begin + run : rows;
  A weight_sum = 0, bias_sum = 0;
  for (int64_t row = begin; row < end; ++row) {
    const A d = widen(grad[row * width + column]), mean = kRms ? A(0) : means[row];
    weight_sum += d * ((widen(x[row * width + column]) - mean) * rstds[row]);
    bias_sum += d;
  }
  partial += blockIdx.y * (kRms ? 1 : 2) * width + column;
  partial[0] = weight_sum;
  if constexpr (!kRms) partial[width] = bias_sum;
}

// --- launchers -----------------------------------------------------------------------------------------------------------

// Blocks with partial sums of their own. A block's 2 sums of f32 a column, written and read, and its weight are 20 bytes against
// 6 of a row in 16 bits: 40 rows or more, unless that leaves most multiprocessors idle; then 4.
constexpr int64_t kMostPartialBlocks = 256;
int64_t partial_blocks(int64_t rows, int64_t multiprocessors) {
  int64_t wanted = rows / 40, least = (rows + 3) / 4;
  if (least > 64) least = 64;
  if (wanted < least) wanted = least;
  if (wanted > multiprocessors) wanted = multiprocessors;
  return wanted < kMostPartialBlocks ? wanted : kMostPartialBlocks;
}

// Where a kernel wants more dynamic shared memory than every kernel may have.
template <class K>
cudaError_t allow_shared(K* kernel, size_t bytes) {
  return bytes <= 40 << 10 ? cudaSuccess : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

template <bool kRms>
int32_t norm(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  const int64_t width = x.dim(-1), rows = x.span(0, x.rank - 1);
  if (rows == 0) return kOk;
  const auto stream = stream_of(args).stream;
  return dispatch_floating(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    auto* means = kRms ? nullptr : args->outputs[1].as<Acc<T>>();
    auto* rstds = args->outputs[kRms ? 1 : 2].as<Acc<T>>();
    const AnyVector weight(args->inputs[1]);
    AnyVector bias(args->inputs[kRms ? 1 : 2]);
    if (kRms) bias.data = nullptr;
    const auto eps = static_cast<Acc<T>>(args->number(0));
    const bool packs = rows_in_packs<T>(width, {x.data, y.data});
    if (width > widest<T>(packs)) {
      wide_norm_kernel<T, kRms><<<static_cast<unsigned>(rows), 512, 0, stream>>>(x.as<const T>(), weight, bias, y.as<T>(), means, rstds, width, eps);
      return launched(args);
    }
    const Spread s = spread_of(width);
    return dispatch_pieces<T>(packs, [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      auto kernel = norm_kernel<T, V, 8, kRms>;
      if constexpr (V > 1) kernel = s.items == 16 ? norm_kernel<T, V, 16, kRms> : kernel;
      const int most = s.items == 16 ? kMostThreads<T, V, 16> : kMostThreads<T, V, 8>;
      const int groups = groups_of(rows, stream_of(args).multiprocessors, s, most), blocks = blocks_for(args, rows, groups, 1);
      const size_t shared = 2 * sizeof(Acc<T>) * static_cast<size_t>(s.items * s.threads);
      if (const int32_t code = report(args, allow_shared(kernel, shared))) return code;
      const dim3 block(static_cast<unsigned>(s.threads), static_cast<unsigned>(groups));
      kernel<<<blocks, block, shared, stream>>>(x.as<const T>(), weight, bias, y.as<T>(), means, rstds, rows, static_cast<int>(width), eps);
      return launched(args);
    });
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const TensorView& x = args->inputs[1];
  if (!args->inputs[2].present()) return 0;
  const int64_t width = x.dim(-1), vectors = args->num_outputs - 1;
  return partial_blocks(x.span(0, x.rank - 1), kMostPartialBlocks) * vectors * width * (x.dtype == DType::kF64 ? 8 : 4);
}

template <bool kRms>
int32_t norm_backward(const KernelArgs* args) {
  const TensorView &grad = args->inputs[0], &x = args->inputs[1], &add = args->inputs[kRms ? 4 : 5], &dx = args->outputs[0];
  const int64_t width = x.dim(-1), rows = x.span(0, x.rank - 1);
  const auto stream = stream_of(args).stream;
  const bool weighted = args->inputs[2].present();
  return dispatch_floating(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = Acc<T>;
    A* weight_out = weighted ? args->outputs[1].as<A>() : nullptr;
    A* bias_out = weighted && !kRms ? args->outputs[2].as<A>() : nullptr;
    if (rows == 0) {
      const size_t bytes = static_cast<size_t>(width) * sizeof(A);
      if (weight_out && bytes) cudaMemsetAsync(weight_out, 0, bytes, stream);
      if (bias_out && bytes) cudaMemsetAsync(bias_out, 0, bytes, stream);
      return launched(args);
    }
    const AnyVector weight(args->inputs[2]);
    const A* means = kRms ? nullptr : args->inputs[3].as<const A>();
    const A* rstds = args->inputs[kRms ? 3 : 4].as<const A>();
    const T* extra = add.present() ? add.as<const T>() : nullptr;
    A* partial = weighted ? static_cast<A*>(args->workspace) : nullptr;
    const int64_t blocks = partial_blocks(rows, stream_of(args).multiprocessors);
    const bool packs = rows_in_packs<T>(width, {grad.data, x.data, dx.data, extra});
    int32_t code = kOk;
    if (width > widest<T>(packs)) {
      wide_norm_backward_kernel<T, kRms><<<static_cast<unsigned>(rows), 512, 0, stream>>>(grad.as<const T>(), x.as<const T>(), weight, means,
                                                                                          rstds, extra, dx.as<T>(), width);
      if (weighted) {
        const dim3 grid(static_cast<unsigned>((width + 255) / 256), static_cast<unsigned>(blocks));
        wide_norm_weights_kernel<T, kRms><<<grid, 256, 0, stream>>>(grad.as<const T>(), x.as<const T>(), means, rstds, partial, rows,
                                                                    (rows + blocks - 1) / blocks, width);
      }
      code = launched(args);
    } else {
      const Spread s = spread_of(width);
      code = dispatch_pieces<T>(packs, [&](auto pieces) {
        constexpr int V = decltype(pieces)::value;
        auto kernel = norm_backward_kernel<T, V, 8, kRms>;
        if constexpr (V > 1) kernel = s.items == 16 ? norm_backward_kernel<T, V, 16, kRms> : kernel;
        const int groups = groups_of(rows, blocks, s, s.items == 16 ? kMostThreads<T, V, 16> : kMostThreads<T, V, 8>);
        const size_t shared = sizeof(A) * static_cast<size_t>(s.items * (s.threads + kSumsGap<V>) * groups);
        if (const int32_t failed = report(args, allow_shared(kernel, shared))) return failed;
        const dim3 block(static_cast<unsigned>(s.threads), static_cast<unsigned>(groups));
        kernel<<<static_cast<unsigned>(blocks), block, shared, stream>>>(grad.as<const T>(), x.as<const T>(), weight, means, rstds, extra,
                                                                         dx.as<T>(), partial, rows, static_cast<int>(width));
        return launched(args);
      });
    }
    if (code || !weighted) return code;
    return combine_columns<A>(args, partial, blocks, (kRms ? 1 : 2) * width, weight_out, width, bias_out, false);
  });
}

}  // namespace

LF_CUDA_KERNEL(layer_norm, norm<false>)
LF_CUDA_KERNEL(layer_norm_backward, norm_backward<false>)
LF_CUDA_WORKSPACE(layer_norm_backward, backward_workspace)
LF_CUDA_KERNEL(rms_norm, norm<true>)
LF_CUDA_KERNEL(rms_norm_backward, norm_backward<true>)
LF_CUDA_WORKSPACE(rms_norm_backward, backward_workspace)

}  // namespace lf::cuda
