// unfold (im2col) and fold (col2im), see native/ops/unfold.cpp. unfold: a thread owns one number of the columns, neighbours in a
// row of places. fold: a thread owns one pixel and adds up, tap by tap in order and in f32 (f64), the columns that reach it.
// Both bound by bytes; 256 threads a block, 6 to 8 of them a multiprocessor.
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

// The window of one axis.
struct Axis {
  int64_t size, kernel, stride, padding, dilation, places;
};
Axis axis_of(const KernelArgs* args, int i, int64_t size) {
  const int64_t kernel = args->item(0, i), stride = args->item(1, i), padding = args->item(2, i), dilation = args->item(3, i);
  return {size, kernel, stride, padding, dilation, (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1};
}

struct Window {
  Axis high, wide;
  Divisor a, b, c, d;  // of a flat index, from the innermost
};

template <class T>
__global__ void __launch_bounds__(256) unfold_kernel(const T* x, T* out, int64_t n, const __grid_constant__ Window w) {
  for (int64_t flat = blockIdx.x * int64_t{256} + threadIdx.x; flat < n; flat += gridDim.x * int64_t{256}) {
    int64_t px, py, j, i;
    const int64_t image = w.d.divide(w.c.divide(w.b.divide(w.a.divide(flat, px), py), j), i);
    const int64_t y = py * w.high.stride + i * w.high.dilation - w.high.padding;
    const int64_t column = px * w.wide.stride + j * w.wide.dilation - w.wide.padding;
    const bool inside = y >= 0 && y < w.high.size && column >= 0 && column < w.wide.size;
    out[flat] = inside ? x[(image * w.high.size + y) * w.wide.size + column] : T{};
  }
}

// The place whose tap lies at `position`; -1: none.
__device__ __forceinline__ int64_t place_of(const Axis& axis, int64_t position, int64_t tap) {
  const int64_t from = position + axis.padding - tap * axis.dilation;
  if (from < 0) return -1;
  const int64_t place = axis.stride == 1 ? from : from / axis.stride;
  return place < axis.places && place * axis.stride == from ? place : -1;
}

template <class T>
__global__ void __launch_bounds__(256) fold_kernel(const T* columns, T* out, int64_t n, const __grid_constant__ Window w) {
  for (int64_t flat = blockIdx.x * int64_t{256} + threadIdx.x; flat < n; flat += gridDim.x * int64_t{256}) {
    int64_t x, y;
    const int64_t image = w.b.divide(w.a.divide(flat, x), y), places = w.high.places * w.wide.places;
    Acc<T> sum{};
#pragma unroll 1
    for (int64_t i = 0; i < w.high.kernel; ++i) {
      const int64_t py = place_of(w.high, y, i);
      if (py < 0) continue;
#pragma unroll 1
      for (int64_t j = 0; j < w.wide.kernel; ++j) {
        const int64_t px = place_of(w.wide, x, j);
        if (px < 0) continue;
        const int64_t row = (image * w.high.kernel + i) * w.wide.kernel + j;
        sum += widen(columns[row * places + py * w.wide.places + px]);
      }
    }
    out[flat] = narrow<T>(sum);
  }
}

int32_t unfold(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  Window w{axis_of(args, 0, x.shape[2]), axis_of(args, 1, x.shape[3]), {}, {}, {}, {}};
  w.a = Divisor(w.wide.places);
  w.b = Divisor(w.high.places);
  w.c = Divisor(w.wide.kernel);
  w.d = Divisor(w.high.kernel);
  return dispatch_size(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    unfold_kernel<<<blocks_for(args, out.numel, 256), 256, 0, stream_of(args).stream>>>(x.as<const T>(), out.as<T>(), out.numel, w);
    return launched(args);
  });
}

int32_t fold(const KernelArgs* args) {
  const TensorView &columns = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  Window w{axis_of(args, 0, out.shape[2]), axis_of(args, 1, out.shape[3]), {}, {}, {}, {}};
  w.a = Divisor(w.wide.size);
  w.b = Divisor(w.high.size);
  return dispatch_floating(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    fold_kernel<<<blocks_for(args, out.numel, 256), 256, 0, stream_of(args).stream>>>(columns.as<const T>(), out.as<T>(), out.numel, w);
    return launched(args);
  });
}

}  // namespace

LF_CUDA_KERNEL(unfold, unfold)
LF_CUDA_KERNEL(fold, fold)

}  // namespace lf::cuda
