// accumulate: target += x in place; 16-bit formats are added in f32 and rounded once, integers wrap around. A pointwise
// kernel (pointwise.cuh), bound by bytes: 256 threads a block, full occupancy.
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct Add {
  __device__ T operator()(T y, T x) const {
    if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<uint64_t>(y) + static_cast<uint64_t>(x));
    else return narrow<T>(widen(y) + widen(x));
  }
};

int32_t accumulate(const KernelArgs* args) {
  const TensorView& target = args->inputs[0];
  return dispatch_numbers(target.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, T, T>(args, Add<T>{}, target, target, args->inputs[1]);
  });
}

}  // namespace

LF_CUDA_KERNEL(accumulate, accumulate)

}  // namespace lf::cuda
