// linear_cross_entropy: walks the tokens in chunks of at most 256 MB of logits, so that [tokens, vocab] is never held: product,
// then losses and the gradient of the logits in one kernel, then the products for dx and dW (which adds chunk to chunk), and
// the sums of the columns for the gradient of a bias.
// Rows of logits are as far apart as a multiple of 32, so that any vocabulary moves in packs of 16 bytes. The factor
// 1 / counted tokens is found on the device. Formulas in native/ops/linear_cross_entropy.cpp, spread of rows in softmax.cuh.
// Bound by FLOPs: 2 N V C for the loss, three times that with gradients; the kernels here by bytes. Warps
// an SM: head_kernel 32, scale_kernel 64, total_kernel 64.
#include "cuda/library.h"
#include "cuda/softmax.cuh"

namespace lf::cuda {
namespace {

constexpr int64_t kChunkBytes = int64_t{256} << 20;

struct Walk {
  int64_t tokens, width, vocab, rows, pitch, logits_bytes, grads_bytes;  // rows a chunk, numbers a row
  explicit Walk(const KernelArgs* args) {
    const TensorView &x = args->inputs[0], &weight = args->inputs[1];
    tokens = x.shape[0], width = x.shape[1], vocab = weight.shape[0];
    pitch = (vocab + 31) / 32 * 32;
    const int64_t acc = x.dtype == DType::kF64 ? 8 : 4, narrow = dtype_size(x.dtype) == 2 ? 2 : 0;
    int64_t most = kChunkBytes / (pitch * (acc + narrow) + 1) / 128 * 128;
    if (most < 128) most = 128;
    const int64_t chunks = (tokens + most - 1) / most;
    rows = chunks > 1 ? ((tokens + chunks - 1) / chunks + 127) / 128 * 128 : tokens;
    logits_bytes = (rows * pitch * acc + 255) / 256 * 256;
    grads_bytes = (rows * pitch * narrow + 255) / 256 * 256;
  }
};
constexpr int64_t kScaleBytes = 256;

int64_t workspace(const KernelArgs* args) {
  const Walk w(args);
  int64_t products = product_workspace(w.rows, w.vocab, w.width, 1);
  if (args->flag(3)) {
    const int64_t dx = product_workspace(w.rows, w.width, w.vocab, 1), dw = product_workspace(w.vocab, w.width, w.rows, 1);
    products = dx > products ? dx : products;
    products = dw > products ? dw : products;
  }
  return kScaleBytes + w.logits_bytes + w.grads_bytes + products;
}

// One block: the factor of the summed loss, and whether all targets are in the vocabulary.
__global__ void __launch_bounds__(1024) scale_kernel(const int32_t* targets, int64_t tokens, int64_t vocab, int64_t ignored, Attribute given,
                                                     double* scale, Faults bad_target) {
  __shared__ double shared[32];
  double counted = 0;
  for (int64_t i = threadIdx.x; i < tokens; i += 1024) {
    const int64_t target = targets[i];
    if (target == ignored) continue;
    ++counted;
    if (target < 0 || target >= vocab) bad_target.report(target, i, vocab);
  }
  counted = block_sum(counted, shared);
  if (threadIdx.x == 0) *scale = given.get() != 0 ? given.get() : counted > 0 ? 1 / counted : 0;
}

__global__ void __launch_bounds__(1024) total_kernel(const float* losses32, const double* losses64, int64_t tokens, const double* scale,
                                                     void* out) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < tokens; i += 1024) sum += losses64 ? losses64[i] : static_cast<double>(losses32[i]);
  sum = block_sum(sum, shared);
  if (threadIdx.x != 0) return;
  if (losses64) *static_cast<double*>(out) = sum * *scale;
  else *static_cast<float*>(out) = static_cast<float>(sum * *scale);
}

template <class A, class T>
struct Head {
  A* logits;  // [rows, pitch]
  T* grads;   // the same, maybe in the same place; nullptr: losses only
  AnyVector bias;  // [vocab], to be added to the logits, if present
  int64_t rows, vocab, pitch;
  const int32_t* targets;
  int64_t ignored;
  A* losses;
  LossRule<A> rule;
  const double* scale;

  __device__ __forceinline__ bool counts(int64_t target) const { return target != ignored && target >= 0 && target < vocab; }
  // One number: its gradient, and by the thread that owns the target the loss.
  __device__ __forceinline__ A step(A z, int64_t i, int64_t row, int64_t target, A log_sum, A total, A factor) const {
    A d = exp(z - log_sum) - rule.uniform;
    if (i == target) {
      d -= rule.hit();
      losses[row] = rule.loss(log_sum, z, total, vocab);
    }
    return d * factor;
  }
};

// The V logits from i on, with the bias; the last ones of a row may be fewer.
template <int V, class A>
__device__ __forceinline__ Piece<A, V> load_logits(const A* row, const AnyVector& bias, int64_t i, int64_t vocab) {
  Piece<A, V> piece;
  if (i + V <= vocab) piece = load_piece<V>(row + i);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if (i + V > vocab) piece.at[k] = i + k < vocab ? row[i + k] : lowest<A>();
    if (bias.data && i + k < vocab) piece.at[k] += element<A>(bias, i + k);
  }
  return piece;
}

// Thread c adds up column c of the gradient of the logits, row by row: the gradient of the bias.
template <class A, class T>
__global__ void __launch_bounds__(128) bias_gradient_kernel(const T* grads, int64_t rows, int64_t vocab, int64_t pitch, A* out, bool add) {
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= vocab) return;
  A sum = add ? out[column] : A{0};
#pragma unroll 8
  for (int64_t row = 0; row < rows; ++row) sum += widen(grads[row * pitch + column]);
  out[column] = sum;
}

template <class A, class T, int V, bool kWarp>
__global__ void __launch_bounds__(kMostThreads<kWarp>, kWarp ? 5 : 1) head_kernel(Head<A, T> h) {
  constexpr int N = kItemsOf<kWarp>;
  __shared__ A shared[32];
  const int64_t row = row_of_group<kWarp>();
  if (row >= h.rows) return;
  const int64_t target = h.targets[row];
  const int thread = threadIdx.x, threads = blockDim.x, vocab = static_cast<int>(h.vocab);
  T* to = h.grads + row * h.pitch;
  if (!h.counts(target)) {
    if (thread == 0) h.losses[row] = 0;
    for (int i = thread * V; h.grads && i < vocab; i += threads * V) store_piece<V>(to + i, Piece<T, V>{});
    return;
  }
  A z[N], total = 0;
#pragma unroll
  for (int j = 0; j < N / V; ++j) {
    const int i = (j * threads + thread) * V;
    Piece<A, V> piece;
    if (i < vocab) piece = load_logits<V>(h.logits + row * h.pitch, h.bias, i, h.vocab);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      z[j * V + k] = i + k < vocab ? piece.at[k] : lowest<A>();
      if (i + k < vocab) total += piece.at[k];
    }
  }
  if (h.rule.spread > 0) total = group_sum<kWarp>(total, shared);
  const A log_sum = row_sums<kWarp>(z, shared).log_sum(), factor = static_cast<A>(*h.scale);
#pragma unroll
  for (int j = 0; j < N / V; ++j) {
    const int i = (j * threads + thread) * V;
    if (i >= vocab) continue;
    Piece<T, V> out;
#pragma unroll
    for (int k = 0; k < V; ++k) out.at[k] = narrow<T>(h.step(z[j * V + k], i + k, row, target, log_sum, total, factor));
    if (h.grads) store_piece<V>(to + i, out);
  }
}

template <class A, class T, int V>
__global__ void __launch_bounds__(kWideThreads) wide_head_kernel(Head<A, T> h) {
  __shared__ A shared[32];
  const int64_t row = blockIdx.x, target = h.targets[row];
  const A* from = h.logits + row * h.pitch;
  T* to = h.grads + row * h.pitch;
  if (!h.counts(target)) {
    if (threadIdx.x == 0) h.losses[row] = 0;
    for (int64_t i = threadIdx.x * V; h.grads && i < h.vocab; i += kWideThreads * V) store_piece<V>(to + i, Piece<T, V>{});
    return;
  }
  RunningSums<A> running;
  A total = 0;
#pragma unroll 2
  for (int64_t i = threadIdx.x * V; i < h.vocab; i += kWideThreads * V) {
    const auto piece = load_logits<V>(from, h.bias, i, h.vocab);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      running.add(piece.at[k]);
      if (i + k < h.vocab) total += piece.at[k];
    }
  }
  const A log_sum = running.template over_group<false>(shared).log_sum(), factor = static_cast<A>(*h.scale);
  if (h.rule.spread > 0) total = block_sum(total, shared);
  if (!h.grads) {
    if (threadIdx.x == 0) h.losses[row] = h.rule.loss(log_sum, from[target] + (h.bias.data ? element<A>(h.bias, target) : A{0}), total, h.vocab);
    return;
  }
#pragma unroll 2
  for (int64_t i = threadIdx.x * V; i < h.vocab; i += kWideThreads * V) {
    const auto piece = load_logits<V>(from, h.bias, i, h.vocab);
    Piece<T, V> out;
#pragma unroll
    for (int k = 0; k < V; ++k) out.at[k] = narrow<T>(h.step(piece.at[k], i + k, row, target, log_sum, total, factor));
    store_piece<V>(to + i, out);
  }
}

template <class A, class T>
int32_t run_head(const KernelArgs* args, const Head<A, T>& h) {
  constexpr int V = sizeof(A) == 4 ? 4 : 1;
  const auto stream = stream_of(args).stream;
  const RowsBy by = rows_by<A>(h.vocab);
  const dim3 block = row_block(by, h.vocab);
  const unsigned grid = row_grid(by, h.rows);
  if (by == RowsBy::kWide) wide_head_kernel<A, T, V><<<grid, block, 0, stream>>>(h);
  else if constexpr (sizeof(A) == 4) {
    if (by == RowsBy::kWarp) head_kernel<A, T, V, true><<<grid, block, 0, stream>>>(h);
    else head_kernel<A, T, V, false><<<grid, block, 0, stream>>>(h);
  }
  return launched(args);
}

template <class T>
int32_t run(const KernelArgs* args) {
  using A = Acc<T>;
  const Walk w(args);
  const TensorView &x = args->inputs[0], &weight = args->inputs[1], &targets = args->inputs[2], &bias = args->inputs[3];
  const TensorView &loss = args->outputs[0], &losses = args->outputs[1];
  const bool with_gradients = args->flag(3);
  const auto stream = stream_of(args).stream;
  auto* scale = static_cast<double*>(args->workspace);
  auto* logits = reinterpret_cast<A*>(static_cast<char*>(args->workspace) + kScaleBytes);
  T* grads = w.grads_bytes ? reinterpret_cast<T*>(reinterpret_cast<char*>(logits) + w.logits_bytes) : reinterpret_cast<T*>(logits);
  void* library_workspace = reinterpret_cast<char*>(logits) + w.logits_bytes + w.grads_bytes;
  const int64_t library_bytes = args->workspace_bytes - kScaleBytes - w.logits_bytes - w.grads_bytes;

  auto product = [&](const Product& p) {
    bool done = false;
    return p.m && p.n ? multiply(args, p, library_workspace, library_bytes, &done) : int32_t{kOk};
  };
  auto zero = [&](void* data, int64_t bytes) {
    return bytes ? report(args, cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream)) : int32_t{kOk};
  };
  scale_kernel<<<1, 1024, 0, stream>>>(targets.as<const int32_t>(), w.tokens, w.vocab, args->integer(0), attribute(args, 2), scale,
                                       faults_of(args, kBadTarget));
  if (const auto code = launched(args)) return code;
  if (with_gradients && (w.tokens == 0 || w.vocab == 0)) {
    for (int i = 2; i < args->num_outputs; ++i) {
      const TensorView& out = args->outputs[i];
      if (const auto code = zero(out.data, out.numel * dtype_size(out.dtype))) return code;
    }
  }
  if (w.vocab == 0) {
    if (const auto code = zero(losses.data, losses.numel * dtype_size(losses.dtype))) return code;
  }
  const A spread = static_cast<A>(args->number(1));
  Product base;
  base.dtype_ab = x.dtype;
  base.dtype_c = loss.dtype;
  for (int64_t first = 0; first < w.tokens && w.vocab; first += w.rows) {
    const int64_t rows = w.tokens - first < w.rows ? w.tokens - first : w.rows;
    const T* x_rows = x.as<const T>() + first * w.width;
    Product head = base;
    head.m = rows, head.n = w.vocab, head.k = w.width;
    head.a = x_rows, head.lda = w.width;
    head.b = weight.data, head.ldb = w.width, head.trans_b = true;
    head.c = logits, head.ldc = w.pitch;
    if (const auto code = w.width ? product(head) : zero(logits, w.logits_bytes)) return code;
    const Head<A, T> rule{logits, with_gradients ? grads : nullptr, AnyVector(bias), rows, w.vocab, w.pitch, targets.as<const int32_t>() + first,
                          args->integer(0), losses.as<A>() + first, {spread, spread / static_cast<A>(w.vocab)}, scale};
    if (const auto code = run_head(args, rule)) return code;
    if (!with_gradients) continue;
    Product dx = base;
    dx.dtype_c = x.dtype;
    dx.m = rows, dx.n = w.width, dx.k = w.vocab;
    dx.a = grads, dx.lda = w.pitch;
    dx.b = weight.data, dx.ldb = w.width;
    dx.c = args->outputs[2].as<T>() + first * w.width, dx.ldc = w.width;
    if (const auto code = product(dx)) return code;
    Product dw = base;
    dw.m = w.vocab, dw.n = w.width, dw.k = rows;
    dw.a = grads, dw.lda = w.pitch, dw.trans_a = true;
    dw.b = x_rows, dw.ldb = w.width;
    dw.c = args->outputs[3].data, dw.ldc = w.width;
    dw.accumulate = first > 0;
    if (const auto code = product(dw)) return code;
    if (!bias.present()) continue;
    bias_gradient_kernel<A, T><<<static_cast<unsigned>((w.vocab + 127) / 128), 128, 0, stream>>>(grads, rows, w.vocab, w.pitch,
                                                                                               args->outputs[4].as<A>(), first > 0);
    if (const auto code = launched(args)) return code;
  }
  const bool f64 = loss.dtype == DType::kF64;
  total_kernel<<<1, 1024, 0, stream>>>(f64 ? nullptr : losses.as<const float>(), f64 ? losses.as<const double>() : nullptr, w.tokens, scale,
                                       loss.data);
  return launched(args);
}

int32_t linear_cross_entropy(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) { return run<typename decltype(tag)::Type>(args); });
}

}  // namespace

LF_CUDA_KERNEL(linear_cross_entropy, linear_cross_entropy)
LF_CUDA_WORKSPACE(linear_cross_entropy, workspace)
LF_CUDA_FROM_BLOCK(linear_cross_entropy, 2)

}  // namespace lf::cuda
