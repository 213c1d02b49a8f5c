// layer_norm, rms_norm and their gradients over the last axis; formulas in native/ops/layer_norm.cpp.
//
// Up to 8192 numbers a row (2048 where packs of 16 bytes do not fit): a group of G = width / N threads (whole warps) owns a row, N = 8 or 16 numbers a thread in registers,
// so every number is read once; a block of about 256 threads holds several groups and walks over rows in step. Weight and
// bias stay in registers. The gradients of weight and bias are summed in registers over a block's rows, groups are added in
// order, and blocks leave partial sums that combine_columns_kernel adds in order. Their number follows from the shape.
// Wider rows: a block of 512 reads its row three times.
// Bound by bytes. Registers: 128 at most, so 16 warps an SM hold at least 16 KB in flight.
#include "cuda/column_sums.cuh"
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

// The widest rows that are held in registers: 16 numbers a thread are only for packs, for anything else they would spill.
template <class T>
int64_t widest(bool packs) {
  return packs && sizeof(T) < 8 ? 8192 : 2048;
}

// How a row is spread: items a thread, threads a row, rows a block.
struct Spread {
  int items, threads, rows;
};
Spread spread_of(int64_t width) {
  Spread s{};
  s.items = width <= 2048 ? 8 : 16;
  s.threads = static_cast<int>((width + s.items * 32 - 1) / (s.items * 32) * 32);
  if (s.threads == 0) s.threads = 32;
  s.rows = s.threads < 256 ? 256 / s.threads : 1;
  return s;
}

// The sums of two numbers over the threads of a row, in every one of them. `buffers` are used in turn, so that one barrier is
// enough. Every thread of the block takes part.
template <class A>
struct GroupSums {
  A (*buffer)[16][2];  // [2 * rows * ...]: [turn * rows + row][warp][which]
  int turn;
  __device__ __forceinline__ void operator()(A& a, A& b) {
    a = warp_sum(a);
    b = warp_sum(b);
    if (blockDim.x == 32) return;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    A(*slot)[2] = buffer[turn * blockDim.y + threadIdx.y];
    turn ^= 1;
    if (lane == 0) slot[warp][0] = a, slot[warp][1] = b;
    __syncthreads();
    a = warp_sum(lane < warps ? slot[lane][0] : A(0));
    b = warp_sum(lane < warps ? slot[lane][1] : A(0));
  }
};

template <int V, int N, class A>
__device__ __forceinline__ void load_vector(const AnyVector& vector, int width, A absent, A (&out)[N]) {
#pragma unroll
  for (int j = 0; j < N / V; ++j) {
    const int i = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * V;
    A part[V];
#pragma unroll
    for (int k = 0; k < V; ++k) part[k] = absent;
    if (vector.data && i < width) elements<V>(vector, i, part);
#pragma unroll
    for (int k = 0; k < V; ++k) out[j * V + k] = part[k];
  }
}

template <class T, int V, int N, bool kRms>
__global__ void __launch_bounds__(N == 8 ? 256 : 512)
    norm_kernel(const T* x, AnyVector weight, AnyVector bias, T* y, Acc<T>* means, Acc<T>* rstds, int64_t rows, int width, Acc<T> eps) {
  using A = Acc<T>;
  __shared__ A buffer[16][16][2];
  GroupSums<A> sums{buffer, 0};
  A w[N], b[N], v[N];
  load_vector<V, N>(weight, width, A(1), w);
  load_vector<V, N>(bias, width, A(0), b);
  const int thread = threadIdx.x, threads = blockDim.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.y;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows; first += step) {
    const int64_t row = first + threadIdx.y;
    const int here = row < rows ? width : 0;  // groups beyond the end go along, for the barriers
    load_row<V, N>(x + row * width, here, thread, threads, A(0), v);
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
    store_row<V, N>(y + row * width, here, thread, threads, v);
    if (thread == 0 && row < rows) {
      if constexpr (!kRms) means[row] = mean;
      rstds[row] = rstd;
    }
  }
}

// `partial` [gridDim.x, 2 * width] (or [.., width] for rms_norm): sums of dy * n, then of dy, over the block's rows.
template <class T, int V, int N, bool kRms>
__global__ void __launch_bounds__(N == 8 ? 256 : 512)
    norm_backward_kernel(const T* grad, const T* x, AnyVector weight, const Acc<T>* means, const Acc<T>* rstds, const T* add, T* dx,
                         Acc<T>* partial, int64_t rows, int width) {
  using A = Acc<T>;
  __shared__ A buffer[16][16][2];
  GroupSums<A> sums{buffer, 0};
  A w[N], d[N], n[N], weight_sums[N] = {}, bias_sums[kRms ? 1 : N] = {};
  load_vector<V, N>(weight, width, A(1), w);
  const int thread = threadIdx.x, threads = blockDim.x;
  const int64_t step = int64_t{gridDim.x} * blockDim.y;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows; first += step) {
    const int64_t row = first + threadIdx.y;
    const int here = row < rows ? width : 0;
    load_row<V, N>(grad + row * width, here, thread, threads, A(0), d);
    load_row<V, N>(x + row * width, here, thread, threads, A(0), n);
    const A rstd = row < rows ? rstds[row] : A(0);
    A mean = 0;
    if constexpr (!kRms) mean = row < rows ? means[row] : A(0);
    A g_sum = 0, gn_sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      n[k] = (n[k] - mean) * rstd;  // beyond the row d is 0, so this does not count
      weight_sums[k] += d[k] * n[k];
      if constexpr (!kRms) bias_sums[k] += d[k];
      d[k] *= w[k];
      g_sum += d[k];
      gn_sum += d[k] * n[k];
    }
    sums(g_sum, gn_sum);
    const A g_mean = kRms ? A(0) : g_sum / static_cast<A>(width), gn_mean = gn_sum / static_cast<A>(width);
#pragma unroll
    for (int j = 0; j < N / V; ++j) {
      const int i = (j * threads + thread) * V;
      if (i >= here) continue;
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
  // The block's groups, in order; with 16 numbers a thread there is only one.
  __shared__ A shared[N == 8 ? N * 256 : 1];
  partial += static_cast<int64_t>(blockIdx.x) * (kRms ? 1 : 2) * width;
#pragma unroll
  for (int which = 0; which < (kRms ? 1 : 2); ++which) {
    A total[N];
#pragma unroll
    for (int k = 0; k < N; ++k) total[k] = which ? bias_sums[kRms ? 0 : k] : weight_sums[k];
    if (N == 8 && blockDim.y > 1) {
      __syncthreads();
#pragma unroll
      for (int k = 0; k < N; ++k) shared[(threadIdx.y * N + k) * threads + thread] = total[k];
      __syncthreads();
      if (threadIdx.y == 0) {
        for (int group = 1; group < static_cast<int>(blockDim.y); ++group) {
#pragma unroll
          for (int k = 0; k < N; ++k) total[k] += shared[(group * N + k) * threads + thread];
        }
      }
    }
    if (threadIdx.y == 0) store_row<V, N>(partial + which * width, width, thread, threads, total);
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

// Blocks with partial sums of their own, each with 4 turns or more.
int64_t partial_blocks(int64_t rows, int64_t width) {
  const int64_t turn = spread_of(width).rows * int64_t{4}, wanted = (rows + turn - 1) / turn;
  return wanted < 1 ? 1 : wanted < 256 ? wanted : 256;
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
    const dim3 block(static_cast<unsigned>(s.threads), static_cast<unsigned>(s.rows));
    const int blocks = blocks_for(args, rows, s.rows * 4, 8);  // 4 turns or more for each reading of the weights
    return dispatch_pieces<T>(packs, [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      auto kernel = norm_kernel<T, V, 8, kRms>;
      if constexpr (V > 1) kernel = s.items == 16 ? norm_kernel<T, V, 16, kRms> : kernel;
      kernel<<<blocks, block, 0, stream>>>(x.as<const T>(), weight, bias, y.as<T>(), means, rstds, rows, static_cast<int>(width), eps);
      return launched(args);
    });
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const TensorView& x = args->inputs[1];
  if (!args->inputs[2].present()) return 0;
  const int64_t width = x.dim(-1), vectors = args->num_outputs - 1;
  return partial_blocks(x.span(0, x.rank - 1), width) * vectors * width * (x.dtype == DType::kF64 ? 8 : 4);
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
    const int64_t blocks = partial_blocks(rows, width);
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
      const dim3 block(static_cast<unsigned>(s.threads), static_cast<unsigned>(s.rows));
      code = dispatch_pieces<T>(packs, [&](auto pieces) {
        constexpr int V = decltype(pieces)::value;
        auto kernel = norm_backward_kernel<T, V, 8, kRms>;
        if constexpr (V > 1) kernel = s.items == 16 ? norm_backward_kernel<T, V, 16, kRms> : kernel;
        kernel<<<static_cast<unsigned>(blocks), block, 0, stream>>>(grad.as<const T>(), x.as<const T>(), weight, means, rstds, extra,
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
