// swiglu: y = silu(a) b, and its gradient da = dy b silu'(a), db = dy silu(a), with a and b as two tensors or as the halves of
// the last axis of one. A thread owns a pack of 16 bytes of y (f64 one number), where rows start at multiples of it; else
// one number. Bound by bytes: three tensors' worth forward, five backward. 256 threads a block.
// Warps an SM: swiglu_kernel 64, swiglu_backward_kernel 64; f64 48.
#include "cuda/elementwise_math.cuh"
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

// Rows of `columns` results; with one input, its rows are twice as long and b follows a. In units of packs or elements.
struct Layout {
  Divisor columns;
  int64_t stride, results;
  __device__ __forceinline__ int64_t input_of(int64_t i) const {
    if (stride == columns.by) return i;
    int64_t column;
    const int64_t row = columns.divide(i, column);
    return row * stride + column;
  }
};

template <class T, int count>
__global__ void __launch_bounds__(256)
    swiglu_kernel(const Items<T, count>* a, const Items<T, count>* b, Items<T, count>* y, const __grid_constant__ Layout layout) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < layout.results; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t from = layout.input_of(i);
    const Items<T, count> x = a[from], gate = b[from];
    Items<T, count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) result.at[k] = narrow<T>(silu(widen(x.at[k])) * widen(gate.at[k]));
    y[i] = result;
  }
}

template <class T, int count>
__global__ void __launch_bounds__(256)
    swiglu_backward_kernel(const Items<T, count>* grad, const Items<T, count>* a, const Items<T, count>* b, Items<T, count>* da,
                           Items<T, count>* db, const __grid_constant__ Layout layout) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < layout.results; i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t from = layout.input_of(i);
    const Items<T, count> dy = grad[i], x = a[from], gate = b[from];
    Items<T, count> dx, dgate;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const Acc<T> v = widen(x.at[k]), g = widen(dy.at[k]), s = sigmoid(v), silu = v * s;
      dx.at[k] = narrow<T>(g * widen(gate.at[k]) * (s + silu * (1 - s)));
      dgate.at[k] = narrow<T>(g * silu);
    }
    da[from] = dx;
    db[from] = dgate;
  }
}

// body(tag of Items, layout, position of b after a) with packs where everything starts at a multiple of 16 bytes.
template <class T, class F>
int32_t with_layout(const TensorView& a, const TensorView& b, std::initializer_list<const void*> starts, F&& body) {
  const int64_t columns = b.present() ? a.numel : a.dim(-1) / 2, results = b.present() ? a.numel : a.numel / 2;
  bool packed = columns % Pack<T>::n == 0;
  for (const void* start : starts) packed = packed && aligned16(start);
  const auto layout = [&](int64_t unit) {
    return Layout{Divisor(columns / unit), (b.present() ? columns : 2 * columns) / unit, results / unit};
  };
  if constexpr (sizeof(T) < 8) {
    if (packed) return body(Tag<Items<T, Pack<T>::n>>{}, layout(Pack<T>::n), columns);
  }
  return body(Tag<Items<T, 1>>{}, layout(1), columns);
}

int32_t swiglu(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &y = args->outputs[0];
  if (y.numel == 0) return kOk;
  return dispatch_floating(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return with_layout<T>(a, b, {a.data, b.present() ? b.data : a.data, y.data}, [&](auto items, const Layout& layout, int64_t half) {
      using I = typename decltype(items)::Type;
      const T* gate = b.present() ? b.as<const T>() : a.as<const T>() + half;
      swiglu_kernel<<<blocks_for(args, layout.results, 256), 256, 0, stream_of(args).stream>>>(
          a.as<const I>(), reinterpret_cast<const I*>(gate), y.as<I>(), layout);
      return launched(args);
    });
  });
}

int32_t swiglu_backward(const KernelArgs* args) {
  const TensorView &grad = args->inputs[0], &a = args->inputs[1], &b = args->inputs[2];
  if (grad.numel == 0) return kOk;
  const TensorView &da = args->outputs[0], &db = args->outputs[b.present() ? 1 : 0];
  return dispatch_floating(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return with_layout<T>(a, b, {grad.data, a.data, b.present() ? b.data : a.data, da.data, db.data},
                          [&](auto items, const Layout& layout, int64_t half) {
      using I = typename decltype(items)::Type;
      const T* gate = b.present() ? b.as<const T>() : a.as<const T>() + half;
      T* dgate = b.present() ? db.as<T>() : da.as<T>() + half;
      swiglu_backward_kernel<<<blocks_for(args, layout.results, 256), 256, 0, stream_of(args).stream>>>(
          grad.as<const I>(), a.as<const I>(), reinterpret_cast<const I*>(gate), da.as<I>(), reinterpret_cast<I*>(dgate), layout);
      return launched(args);
    });
  });
}

}  // namespace

LF_CUDA_KERNEL(swiglu, swiglu)
LF_CUDA_KERNEL(swiglu_backward, swiglu_backward)

}  // namespace lf::cuda
