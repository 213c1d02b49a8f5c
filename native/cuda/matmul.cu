// matmul: the product by cuBLASLt (library.h) with bias, residual or `into`, and tanh-GELU or its derivative in 16 bits, in
// its epilogue. The rest goes over C once more: exact GELU, SiLU, ReLU, a residual after an activation, everything but sums
// in f64, GELU in f32 (how exact the library's is, is not documented), and a bias of another format.
//
// finish_kernel: a thread owns 16 bytes of C in each of its rows. Bound by bytes; 48 registers or less.
// row_sums_kernel, column_sums_kernel: sums of op(A) along k, the gradient of a bias. Bound by bytes: A is read
// once. Warps an SM: finish_kernel 40, column_sums_kernel 48.
#include "cuda/activation.cuh"
#include "cuda/column_sums.cuh"
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

struct Finish {
  void* c;  // in place
  void* pre_activation;
  const void* grad_input;
  void* activated_input;
  const void* residual;
  AnyVector bias;
  Activation activation, grad_activation;
  int64_t rows, columns;
  bool zero;  // the product is empty, C holds nothing yet
};

template <class T, int V>
__global__ void __launch_bounds__(256) finish_kernel(Finish f) {
  const int64_t column = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V;
  if (column >= f.columns) return;
  Acc<T> bias[V];
#pragma unroll
  for (int k = 0; k < V; ++k) bias[k] = 0;
  if (f.bias.data) elements<V>(f.bias, column, bias);
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < f.rows; row += int64_t{gridDim.y} * blockDim.y) {
    const int64_t at = row * f.columns + column;
    Acc<T> t[V];
    Piece<T, V> piece;
    if (!f.zero) piece = load_piece<V>(static_cast<const T*>(f.c) + at);
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = f.zero ? bias[k] : widen(piece.at[k]) + bias[k];
    if (f.pre_activation) {
#pragma unroll
      for (int k = 0; k < V; ++k) piece.at[k] = narrow<T>(t[k]);
      store_piece<V>(static_cast<T*>(f.pre_activation) + at, piece);
    }
#pragma unroll
    for (int k = 0; k < V; ++k) t[k] = activate(f.activation, t[k]);
    if (f.grad_input) {
      piece = load_piece<V>(static_cast<const T*>(f.grad_input) + at);
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] *= activation_derivative(f.grad_activation, static_cast<Acc<T>>(widen(piece.at[k])));
      if (f.activated_input) {
#pragma unroll
        for (int k = 0; k < V; ++k) piece.at[k] = narrow<T>(activate(f.grad_activation, static_cast<Acc<T>>(widen(piece.at[k]))));
        store_piece<V>(static_cast<T*>(f.activated_input) + at, piece);
      }
    }
    if (f.residual) {
      piece = load_piece<V>(static_cast<const T*>(f.residual) + at);
#pragma unroll
      for (int k = 0; k < V; ++k) t[k] += widen(piece.at[k]);
    }
#pragma unroll
    for (int k = 0; k < V; ++k) piece.at[k] = narrow<T>(t[k]);
    store_piece<V>(static_cast<T*>(f.c) + at, piece);
  }
}

int32_t finish(const KernelArgs* args, DType dtype, const Finish& f) {
  return dispatch_floating(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const bool packs = rows_in_packs<T>(f.columns, {f.c, f.pre_activation, f.grad_input, f.activated_input, f.residual});
    return dispatch_pieces<T>(packs, [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      const int64_t across = (f.columns + V - 1) / V;
      unsigned width = 256;
      while (width > 1 && width / 2 >= across) width /= 2;
      const dim3 block(width, 256 / width);
      const int64_t strips = (across + width - 1) / width, down = (f.rows + block.y - 1) / block.y;
      const int64_t most = (int64_t{stream_of(args).multiprocessors} * 16 + strips - 1) / strips;
      const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(down < most ? down : most < 65535 ? most : 65535));
      finish_kernel<T, V><<<grid, block, 0, stream_of(args).stream>>>(f);
      return launched(args);
    });
  });
}

// --- row sums of op(A) ---------------------------------------------------------------------------------------------------

// A [m, k]: a warp owns a row.
template <class T, int V>
__global__ void __launch_bounds__(256) row_sums_kernel(const T* a, int64_t m, int64_t k, Acc<T>* sums, bool add) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (row >= m) return;
  Acc<T> sum = 0;
  for (int64_t i = int64_t{threadIdx.x} * V; i < k; i += 32 * V) {
    const auto piece = load_piece<V>(a + row * k + i);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += widen(piece.at[j]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) sums[row] = add ? sums[row] + sum : sum;
}

// A [k, m]: a block of 32 x 8 threads owns 32 pieces of columns and one of gridDim.y runs of rows; its 8 slices of the run are
// added in order. With one run the sums are final.
template <class T, int V>
__global__ void __launch_bounds__(256) column_sums_kernel(const T* a, int64_t k, int64_t m, int64_t run, Acc<T>* sums, bool add) {
  __shared__ Acc<T> slices[8][32 * V];
  const int64_t column = (int64_t{blockIdx.x} * 32 + threadIdx.x) * V;
  const int64_t begin = blockIdx.y * run, end = begin + run < k ? begin + run : k;
  Acc<T> sum[V] = {};
  if (column < m) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += 8) {
      const auto piece = load_piece<V>(a + row * m + column);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += widen(piece.at[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) slices[threadIdx.y][j * 32 + threadIdx.x] = sum[j];
  __syncthreads();
  if (threadIdx.y != 0 || column >= m) return;
  Acc<T>* to = sums + blockIdx.y * m + column;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    for (int s = 1; s < 8; ++s) sum[j] += slices[s][j * 32 + threadIdx.x];
  }
  store_sums<V>(to, sum, add);
}

// Runs of rows with partial sums of their own: by shape alone, so that the bits do not depend on the device.
int64_t sum_runs(int64_t k, int64_t m) {
  const int64_t strips = (m + 127) / 128, by_rows = k / 64, wanted = (512 + strips - 1) / strips;
  const int64_t runs = by_rows < wanted ? by_rows : wanted;
  return runs < 1 ? 1 : runs > 256 ? 256 : runs;
}

int32_t sum_rows(const KernelArgs* args, const TensorView& a, bool transposed, int64_t m, int64_t k, void* sums, bool add,
                 void* workspace) {
  if (m == 0) return kOk;
  const auto stream = stream_of(args).stream;
  if (k == 0) return add ? kOk : report(args, cudaMemsetAsync(sums, 0, static_cast<size_t>(m) * (a.dtype == DType::kF64 ? 8 : 4), stream));
  return dispatch_floating(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return dispatch_pieces<T>(rows_in_packs<T>(transposed ? m : k, {a.data, sums}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      auto* out = static_cast<Acc<T>*>(sums);
      if (!transposed) {
        row_sums_kernel<T, V><<<static_cast<unsigned>((m + 7) / 8), dim3(32, 8), 0, stream>>>(a.as<const T>(), m, k, out, add);
        return launched(args);
      }
      const int64_t runs = sum_runs(k, m), run = (k + runs - 1) / runs;
      auto* partial = static_cast<Acc<T>*>(workspace);
      const dim3 grid(static_cast<unsigned>((m + 32 * V - 1) / (32 * V)), static_cast<unsigned>(runs));
      column_sums_kernel<T, V><<<grid, dim3(32, 8), 0, stream>>>(a.as<const T>(), k, m, run, runs == 1 ? out : partial, runs == 1 && add);
      if (const int32_t code = launched(args)) return code;
      return runs == 1 ? int32_t{kOk} : combine_columns<Acc<T>>(args, partial, runs, m, out, m, nullptr, add);
    });
  });
}

// --- the operator --------------------------------------------------------------------------------------------------------

struct Shape {
  int64_t m, n, k, batch, batch_a, batch_b;
  bool trans_a, trans_b;
};
Shape shape_of(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1];
  Shape s{};
  s.trans_a = args->flag(0), s.trans_b = args->flag(1);
  s.m = a.dim(s.trans_a ? -1 : -2), s.k = a.dim(s.trans_a ? -2 : -1), s.n = b.dim(s.trans_b ? -2 : -1);
  s.batch_a = a.span(0, a.rank - 2), s.batch_b = b.span(0, b.rank - 2);
  if (s.batch_b == 1 && !s.trans_a) s.m *= s.batch_a, s.batch_a = 1;
  s.batch = s.batch_a > s.batch_b ? s.batch_a : s.batch_b;
  if (s.batch_a == 0 || s.batch_b == 0) s.batch = 0;
  return s;
}

// Partial row sums first, then the library's part.
int64_t sums_workspace(const KernelArgs* args, const Shape& s) {
  if (!args->flag(6) || !s.trans_a || sum_runs(s.k, s.m) == 1) return 0;
  return (sum_runs(s.k, s.m) * s.m * (args->inputs[0].dtype == DType::kF64 ? 8 : 4) + 255) / 256 * 256;
}
int64_t workspace(const KernelArgs* args) {
  const Shape s = shape_of(args);
  return sums_workspace(args, s) + product_workspace(s.m, s.n, s.k, s.batch);
}

int32_t matmul(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &bias = args->inputs[2], &residual = args->inputs[3];
  const TensorView &grad_input = args->inputs[4], &into = args->inputs[5], &sums_into = args->inputs[6];
  const Shape s = shape_of(args);
  int output = 0;
  const TensorView& c = into.present() ? into : args->outputs[output++];
  void* pre_activation = args->flag(4) ? args->outputs[output++].data : nullptr;
  void* activated_input = args->flag(5) ? args->outputs[output++].data : nullptr;
  const int64_t own = sums_workspace(args, s);
  if (args->flag(6)) {
    void* sums = sums_into.present() ? sums_into.data : args->outputs[output].data;
    if (const int32_t code = sum_rows(args, a, s.trans_a, s.m, s.k, sums, sums_into.present(), args->workspace)) return code;
  }
  if (c.numel == 0 || s.batch == 0) return kOk;

  const auto activation = static_cast<Activation>(args->integer(2)), grad_activation = static_cast<Activation>(args->integer(3));
  Finish after{c.data, nullptr, nullptr, activated_input, nullptr, AnyVector(bias), activation, grad_activation, s.batch * s.m, s.n, s.k == 0};
  after.pre_activation = pre_activation;
  if (grad_input.present()) after.grad_input = grad_input.data;
  if (residual.present()) after.residual = residual.data;
  if (s.k == 0) return into.present() ? kOk : finish(args, c.dtype, after);

  Product p;
  p.m = s.m, p.n = s.n, p.k = s.k, p.batch = s.batch;
  p.stride_a = s.batch_a > 1 ? s.m * s.k : 0, p.stride_b = s.batch_b > 1 ? s.n * s.k : 0, p.stride_c = s.m * s.n;
  p.trans_a = s.trans_a, p.trans_b = s.trans_b;
  p.lda = s.trans_a ? s.m : s.k, p.ldb = s.trans_b ? s.k : s.n, p.ldc = s.n;
  p.dtype_ab = a.dtype, p.dtype_c = c.dtype;
  p.a = a.data, p.b = b.data, p.c = c.data, p.accumulate = into.present();
  void* library_workspace = static_cast<char*>(args->workspace) + own;
  const int64_t library_bytes = args->workspace_bytes - own;

  // First with everything that the library may take over, then without.
  const bool narrow16 = dtype_size(c.dtype) == 2, plain = activation == Activation::kNone && !grad_input.present();
  const bool f64 = c.dtype == DType::kF64;
  bool done = false;
  Product fused = p;
  const bool adds_residual = residual.present() && plain && !pre_activation;
  if (adds_residual) p.residual = fused.residual = residual.data, after.residual = nullptr;
  if (bias.present() && bias.dtype == c.dtype && !f64) fused.bias = bias.data;
  if (narrow16 && activation == Activation::kGeluTanh && !grad_input.present()) fused.gelu = true, fused.aux = pre_activation;
  if (narrow16 && grad_activation == Activation::kGeluTanh && activation == Activation::kNone && !bias.present() && !pre_activation &&
      !activated_input) {
    fused.gelu_gradient = true, fused.aux = const_cast<void*>(after.grad_input);
  }
  if (fused.has_epilogue()) {
    if (const int32_t code = multiply(args, fused, library_workspace, library_bytes, &done)) return code;
  }
  if (done) {
    if (fused.bias) after.bias.data = nullptr;
    if (fused.gelu) after.activation = Activation::kNone, after.pre_activation = nullptr;
    if (fused.gelu_gradient) after.grad_input = nullptr;
  } else if (const int32_t code = multiply(args, p, library_workspace, library_bytes, &done)) {
    return code;
  }
  const bool more = after.bias.data || after.pre_activation || after.grad_input || after.residual || after.activation != Activation::kNone;
  return more ? finish(args, c.dtype, after) : int32_t{kOk};
}

}  // namespace

LF_CUDA_KERNEL(matmul, matmul)
LF_CUDA_WORKSPACE(matmul, workspace)

}  // namespace lf::cuda
