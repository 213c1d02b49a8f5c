// softmax, log_softmax, cross_entropy and their gradients; formulas in native/ops/softmax.cpp, spread of rows in softmax.cuh.
// Along another axis than the last a thread owns a row and its neighbours the rows beside it.
// Bound by bytes: every number is read once and written once (wider rows: read twice). Registers: 80 with a warp a row, which
// has 128 bytes a lane on their way, 64 at most with a block a row (32 warps). Warps an SM: softmax_kernel 24,
// softmax_backward_kernel 24, cross_entropy_backward_kernel 48, wide_cross_entropy_kernel 64.
#include "cuda/softmax.cuh"

namespace lf::cuda {
namespace {

template <class T, int V, bool kWarp>
__global__ void __launch_bounds__(kMostThreads<kWarp>) softmax_kernel(const T* x, T* y, int64_t rows, int n, bool log_form) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t row = row_of_group<kWarp>();
  if (row >= rows) return;
  A v[kItemsOf<kWarp>];
  load_row<V>(x + row * n, n, threadIdx.x, blockDim.x, lowest<A>(), v);
  const RowSums<A> sums = row_sums<kWarp>(v, shared);
  if (log_form) {
    const A shift = sums.log_sum();
#pragma unroll
    for (A& value : v) value -= shift;
  } else {
    const A factor = 1 / sums.sum;
#pragma unroll
    for (A& value : v) value = exp(value - sums.highest) * factor;
  }
  store_row<V>(y + row * n, n, threadIdx.x, blockDim.x, v);
}

template <class T, int V>
__global__ void __launch_bounds__(kWideThreads) wide_softmax_kernel(const T* x, T* y, int64_t n, bool log_form) {
  using A = Acc<T>;
  __shared__ A shared[32];
  x += blockIdx.x * n, y += blockIdx.x * n;
  RunningSums<A> running;
  for (int64_t i = threadIdx.x * V; i < n; i += kWideThreads * V) {
    const auto piece = load_piece<V>(x + i);
#pragma unroll
    for (int k = 0; k < V; ++k) running.add(widen(piece.at[k]));
  }
  const RowSums<A> sums = running.template over_group<false>(shared);
  const A shift = log_form ? sums.log_sum() : sums.highest, factor = 1 / sums.sum;
  for (int64_t i = threadIdx.x * V; i < n; i += kWideThreads * V) {
    auto piece = load_piece<V>(x + i);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const A value = widen(piece.at[k]) - shift;
      piece.at[k] = narrow<T>(log_form ? value : exp(value) * factor);
    }
    store_piece<V>(y + i, piece);
  }
}

template <class T>
__global__ void __launch_bounds__(256) strided_softmax_kernel(const T* x, T* y, int64_t rows, int64_t n, int64_t inner, bool log_form) {
  using A = Acc<T>;
  for (int64_t r = int64_t{blockIdx.x} * 256 + threadIdx.x; r < rows; r += int64_t{gridDim.x} * 256) {
    const int64_t at = r / inner * n * inner + r % inner;
    RunningSums<A> running;
    for (int64_t i = 0; i < n; ++i) running.add(widen(x[at + i * inner]));
    const RowSums<A> sums{finite_highest(running.highest), running.sum};
    const A shift = log_form ? sums.log_sum() : sums.highest, factor = 1 / sums.sum;
    for (int64_t i = 0; i < n; ++i) {
      const A value = widen(x[at + i * inner]) - shift;
      y[at + i * inner] = narrow<T>(log_form ? value : exp(value) * factor);
    }
  }
}

// dx = y (dy - sum dy y), or dy - exp(y) sum dy.
template <class A>
__device__ __forceinline__ A gradient(A d, A y, A sum, bool log_form) {
  return log_form ? d - exp(y) * sum : y * (d - sum);
}

template <class T, int V, bool kWarp>
__global__ void __launch_bounds__(kMostThreads<kWarp>)
    softmax_backward_kernel(const T* grad, const T* y, T* dx, int64_t rows, int n, bool log_form) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t row = row_of_group<kWarp>();
  if (row >= rows) return;
  A d[kItemsOf<kWarp>], v[kItemsOf<kWarp>];
  load_row<V>(grad + row * n, n, threadIdx.x, blockDim.x, A(0), d);
  load_row<V>(y + row * n, n, threadIdx.x, blockDim.x, A(0), v);
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kItemsOf<kWarp>; ++k) sum += log_form ? d[k] : d[k] * v[k];
  sum = group_sum<kWarp>(sum, shared);
#pragma unroll
  for (int k = 0; k < kItemsOf<kWarp>; ++k) d[k] = gradient(d[k], v[k], sum, log_form);
  store_row<V>(dx + row * n, n, threadIdx.x, blockDim.x, d);
}

template <class T, int V>
__global__ void __launch_bounds__(kWideThreads) wide_softmax_backward_kernel(const T* grad, const T* y, T* dx, int64_t n, bool log_form) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t at = blockIdx.x * n;
  A sum = 0;
  for (int64_t i = at + threadIdx.x * V; i < at + n; i += kWideThreads * V) {
    const auto d = load_piece<V>(grad + i), v = load_piece<V>(y + i);
#pragma unroll
    for (int k = 0; k < V; ++k) sum += log_form ? widen(d.at[k]) : widen(d.at[k]) * widen(v.at[k]);
  }
  sum = block_sum(sum, shared);
  for (int64_t i = at + threadIdx.x * V; i < at + n; i += kWideThreads * V) {
    auto d = load_piece<V>(grad + i);
    const auto v = load_piece<V>(y + i);
#pragma unroll
    for (int k = 0; k < V; ++k) d.at[k] = narrow<T>(gradient<A>(widen(d.at[k]), widen(v.at[k]), sum, log_form));
    store_piece<V>(dx + i, d);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    strided_softmax_backward_kernel(const T* grad, const T* y, T* dx, int64_t rows, int64_t n, int64_t inner, bool log_form) {
  using A = Acc<T>;
  for (int64_t r = int64_t{blockIdx.x} * 256 + threadIdx.x; r < rows; r += int64_t{gridDim.x} * 256) {
    const int64_t at = r / inner * n * inner + r % inner;
    A sum = 0;
    for (int64_t i = at; i < at + n * inner; i += inner) sum += log_form ? widen(grad[i]) : widen(grad[i]) * widen(y[i]);
    for (int64_t i = at; i < at + n * inner; i += inner) dx[i] = narrow<T>(gradient<A>(widen(grad[i]), widen(y[i]), sum, log_form));
  }
}

struct Rows {
  int64_t outer, n, inner;
  Rows(const TensorView& x, int64_t axis) {
    const int at = static_cast<int>(axis < 0 ? axis + x.rank : axis);
    outer = x.span(0, at), n = x.shape[at], inner = x.span(at + 1, x.rank);
  }
};

template <bool kLog>
int32_t forward(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  if (x.numel == 0) return kOk;
  const Rows r(x, args->integer(0));
  const auto stream = stream_of(args).stream;
  return dispatch_floating(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const T* from = x.as<const T>();
    T* to = y.as<T>();
    if (r.inner > 1) {
      strided_softmax_kernel<T><<<blocks_for(args, r.outer * r.inner, 256), 256, 0, stream>>>(from, to, r.outer * r.inner, r.n, r.inner, kLog);
      return launched(args);
    }
    return dispatch_pieces<T>(rows_in_packs<T>(r.n, {from, to}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      const RowsBy by = rows_by<T>(r.n);
      const dim3 block = row_block(by, r.n);
      const unsigned grid = row_grid(by, r.outer);
      if (by == RowsBy::kWide) wide_softmax_kernel<T, V><<<grid, block, 0, stream>>>(from, to, r.n, kLog);
      else if constexpr (sizeof(T) < 8) {
        if (by == RowsBy::kWarp) softmax_kernel<T, V, true><<<grid, block, 0, stream>>>(from, to, r.outer, static_cast<int>(r.n), kLog);
        else softmax_kernel<T, V, false><<<grid, block, 0, stream>>>(from, to, r.outer, static_cast<int>(r.n), kLog);
      }
      return launched(args);
    });
  });
}

template <bool kLog>
int32_t backward(const KernelArgs* args) {
  const TensorView &grad = args->inputs[0], &y = args->inputs[1], &dx = args->outputs[0];
  if (y.numel == 0) return kOk;
  const Rows r(y, args->integer(0));
  const auto stream = stream_of(args).stream;
  return dispatch_floating(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const T *d = grad.as<const T>(), *v = y.as<const T>();
    T* to = dx.as<T>();
    if (r.inner > 1) {
      strided_softmax_backward_kernel<T><<<blocks_for(args, r.outer * r.inner, 256), 256, 0, stream>>>(d, v, to, r.outer * r.inner, r.n,
                                                                                                       r.inner, kLog);
      return launched(args);
    }
    return dispatch_pieces<T>(rows_in_packs<T>(r.n, {d, v, to}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      const RowsBy by = rows_by<T>(r.n);
      const dim3 block = row_block(by, r.n);
      const unsigned grid = row_grid(by, r.outer);
      if (by == RowsBy::kWide) wide_softmax_backward_kernel<T, V><<<grid, block, 0, stream>>>(d, v, to, r.n, kLog);
      else if constexpr (sizeof(T) < 8) {
        if (by == RowsBy::kWarp) softmax_backward_kernel<T, V, true><<<grid, block, 0, stream>>>(d, v, to, r.outer, static_cast<int>(r.n), kLog);
        else softmax_backward_kernel<T, V, false><<<grid, block, 0, stream>>>(d, v, to, r.outer, static_cast<int>(r.n), kLog);
      }
      return launched(args);
    });
  });
}

// --- cross_entropy -------------------------------------------------------------------------------------------------------

template <class A>
struct Losses {
  const int32_t* targets;
  A *losses, *log_sums;
  int64_t ignored;
  LossRule<A> rule;
  Faults bad_target;

  __device__ __forceinline__ bool needs_total() const { return rule.spread > 0; }
  // By one thread of the row.
  template <class T>
  __device__ __forceinline__ void finish(const T* row, int64_t r, int64_t n, A log_sum, A total) const {
    const int64_t target = targets[r];
    log_sums[r] = log_sum;
    losses[r] = 0;
    if (target == ignored) return;
    if (target < 0 || target >= n) bad_target.report(target, r, n);
    else losses[r] = rule.loss(log_sum, widen(row[target]), total, n);
  }
};

template <class T, int V, bool kWarp>
__global__ void __launch_bounds__(kMostThreads<kWarp>) cross_entropy_kernel(const T* logits, int64_t rows, int n, Losses<Acc<T>> out) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const int64_t row = row_of_group<kWarp>();
  if (row >= rows) return;
  A v[kItemsOf<kWarp>];
  load_row<V>(logits + row * n, n, threadIdx.x, blockDim.x, lowest<A>(), v);
  const A log_sum = row_sums<kWarp>(v, shared).log_sum();
  A total = 0;
  if (out.needs_total()) {
#pragma unroll
    for (int j = 0; j < kItemsOf<kWarp> / V; ++j) {
      const bool inside = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * V < n;
#pragma unroll
      for (int k = 0; k < V; ++k) total += inside ? v[j * V + k] : A(0);
    }
    total = group_sum<kWarp>(total, shared);
  }
  if (threadIdx.x == 0) out.finish(logits + row * n, row, n, log_sum, total);
}

template <class T, int V>
__global__ void __launch_bounds__(kWideThreads) wide_cross_entropy_kernel(const T* logits, int64_t n, Losses<Acc<T>> out) {
  using A = Acc<T>;
  __shared__ A shared[32];
  const T* row = logits + blockIdx.x * n;
  RunningSums<A> running;
  A total = 0;
  for (int64_t i = threadIdx.x * V; i < n; i += kWideThreads * V) {
    const auto piece = load_piece<V>(row + i);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      running.add(widen(piece.at[k]));
      total += widen(piece.at[k]);
    }
  }
  const A log_sum = running.template over_group<false>(shared).log_sum();
  total = block_sum(total, shared);
  if (threadIdx.x == 0) out.finish(row, blockIdx.x, n, log_sum, total);
}

// A thread owns a piece of a row; blocks stand in columns, as wide as they must.
template <class T, int V>
__global__ void __launch_bounds__(256)
    cross_entropy_backward_kernel(const Acc<T>* grad, const T* logits, const int32_t* targets, const Acc<T>* log_sums, T* dx, int64_t rows,
                                  int64_t n, int64_t ignored, LossRule<Acc<T>> rule) {
  using A = Acc<T>;
  const int64_t column = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V;
  if (column >= n) return;
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < rows; row += int64_t{gridDim.y} * blockDim.y) {
    const int64_t target = targets[row];
    const A g = target == ignored ? A(0) : grad[row], log_sum = log_sums[row];
    auto piece = load_piece<V>(logits + row * n + column);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const A p = exp(widen(piece.at[k]) - log_sum) - rule.uniform;
      piece.at[k] = narrow<T>((column + k == target ? p - rule.hit() : p) * g);
    }
    store_piece<V>(dx + row * n + column, piece);
  }
}

int32_t cross_entropy(const KernelArgs* args) {
  const TensorView &logits = args->inputs[0], &targets = args->inputs[1];
  const int64_t rows = logits.shape[0], n = logits.shape[1];
  if (rows == 0) return kOk;
  const auto stream = stream_of(args).stream;
  return dispatch_floating(logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = Acc<T>;
    const A spread = static_cast<A>(args->number(1));
    const Losses<A> out{targets.as<const int32_t>(), args->outputs[0].as<A>(), args->outputs[1].as<A>(), args->integer(0),
                        {spread, spread / static_cast<A>(n)}, faults_of(args, kBadTarget)};
    const T* z = logits.as<const T>();
    return dispatch_pieces<T>(rows_in_packs<T>(n, {z}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      const RowsBy by = rows_by<T>(n);
      const dim3 block = row_block(by, n);
      const unsigned grid = row_grid(by, rows);
      if (by == RowsBy::kWide) wide_cross_entropy_kernel<T, V><<<grid, block, 0, stream>>>(z, n, out);
      else if constexpr (sizeof(T) < 8) {
        if (by == RowsBy::kWarp) cross_entropy_kernel<T, V, true><<<grid, block, 0, stream>>>(z, rows, static_cast<int>(n), out);
        else cross_entropy_kernel<T, V, false><<<grid, block, 0, stream>>>(z, rows, static_cast<int>(n), out);
      }
      return launched(args);
    });
  });
}

int32_t cross_entropy_backward(const KernelArgs* args) {
  const TensorView &grad = args->inputs[0], &logits = args->inputs[1], &targets = args->inputs[2], &log_sums = args->inputs[3];
  const TensorView& dx = args->outputs[0];
  const int64_t rows = logits.shape[0], n = logits.shape[1];
  if (logits.numel == 0) return kOk;
  return dispatch_floating(logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using A = Acc<T>;
    const A spread = static_cast<A>(args->number(1));
    return dispatch_pieces<T>(rows_in_packs<T>(n, {logits.data, dx.data}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      unsigned across = 32;
      while (across < 256 && across * V < n) across *= 2;
      const dim3 block(across, 256 / across);
      const int64_t strips = (n + across * V - 1) / (across * V), down = (rows + block.y - 1) / block.y;
      const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(down < 65535 ? down : 65535));
      cross_entropy_backward_kernel<T, V><<<grid, block, 0, stream_of(args).stream>>>(
          grad.as<const A>(), logits.as<const T>(), targets.as<const int32_t>(), log_sums.as<const A>(), dx.as<T>(), rows, n,
          args->integer(0), LossRule<A>{spread, spread / static_cast<A>(n)});
      return launched(args);
    });
  });
}

}  // namespace

LF_CUDA_KERNEL(softmax, forward<false>)
LF_CUDA_KERNEL(log_softmax, forward<true>)
LF_CUDA_KERNEL(softmax_backward, backward<false>)
LF_CUDA_KERNEL(log_softmax_backward, backward<true>)
LF_CUDA_KERNEL(cross_entropy, cross_entropy)
LF_CUDA_KERNEL(cross_entropy_backward, cross_entropy_backward)

}  // namespace lf::cuda
