// where: z = condition ? x : y, and broadcast_to, for elements of any format, which are only moved. Pointwise kernels
// (pointwise.cuh), bound by bytes: 256 threads a block, full occupancy.
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

int32_t broadcast_to(const KernelArgs* args) {
  return dispatch_size(args->outputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T>(args, Same<T>{}, args->outputs[0], args->inputs[0]);
  });
}

}  // namespace

LF_CUDA_KERNEL(where, where)
LF_CUDA_KERNEL(broadcast_to, broadcast_to)

}  // namespace lf::cuda
