// where: z = condition ? x : y, and broadcast_to, for elements of any format, which are only moved. Pointwise kernels
// (pointwise.cuh); rows that are repeated are read once by repeat_kernel. Bound by bytes: 256 threads a block. Warps
// an SM: repeat_kernel 64.
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct Choose {
  __device__ T operator()(uint8_t condition, T x, T y) const { return condition ? x : y; }
};
template <class T>
struct Same {
  __device__ T operator()(T x) const { return x; }
};

int32_t where(const KernelArgs* args) {
  return dispatch_size(args->outputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, uint8_t, T, T>(args, Choose<T>{}, args->outputs[0], args->inputs[0], args->inputs[1], args->inputs[2]);
  });
}

// y [outer, rows, columns] from x [outer, columns]: a thread owns a pack of neighbouring columns and writes it into up to
// kRepeated rows. Lanes are neighbours in a row.
constexpr int kRepeated = 32;
template <class T, int count>
__global__ void __launch_bounds__(256) repeat_kernel(const T* x, T* y, int64_t tasks, Divisor units, Divisor chunks, int64_t rows) {
  const int64_t columns = units.by * count;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < tasks; i += int64_t{gridDim.x} * 256) {
    int64_t unit, chunk;
    const int64_t outer = chunks.divide(units.divide(i, unit), chunk), first = chunk * kRepeated;
    const int64_t last = first + kRepeated < rows ? first + kRepeated : rows;
    const auto items = *reinterpret_cast<const Items<T, count>*>(x + outer * columns + unit * count);
    T* to = y + (outer * rows + first) * columns + unit * count;
    for (int64_t row = first; row < last; ++row, to += columns) *reinterpret_cast<Items<T, count>*>(to) = items;
  }
}

template <class T, int count>
int32_t repeat(const KernelArgs* args, const Walk<1>& walk) {
  const int64_t columns = walk.size[0].by, rows = walk.size[1].by, outer = walk.rank == 3 ? walk.size[2].by : 1;
  const Divisor units(columns / count), chunks((rows + kRepeated - 1) / kRepeated);
  const int64_t tasks = outer * units.by * chunks.by;
  repeat_kernel<T, count><<<blocks_for(args, tasks, 256), 256, 0, stream_of(args).stream>>>(
      args->inputs[0].as<const T>(), args->outputs[0].as<T>(), tasks, units, chunks, rows);
  return launched(args);
}

int32_t broadcast_to(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  if (y.numel == 0) return kOk;
  return dispatch_size(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    constexpr int kItems = kPackItems<T, T>;
    const TensorView* const inputs[] = {&x};
    const int bytes[] = {sizeof(T)};
    const auto walk = plan_walk<1>(y, inputs, bytes, sizeof(T), kItems);
    const bool whole_rows = walk.rank > 1 && walk.step[0][0] == 1 && walk.step[0][1] == 0;
    if (whole_rows && (walk.rank == 2 || (walk.rank == 3 && walk.step[0][2] == walk.size[0].by))) {
      return walk.packed ? repeat<T, kItems>(args, walk) : repeat<T, 1>(args, walk);
    }
    return pointwise<T, T>(args, Same<T>{}, y, x);
  });
}

}  // namespace

LF_CUDA_KERNEL(where, where)
LF_CUDA_KERNEL(broadcast_to, broadcast_to)

}  // namespace lf::cuda
