// argmax, argmin over any set of axes (reduction.cuh): the number of the first best element, row-major over the reduced axes.
// NaN counts as best; of equal elements the one with the smallest number wins, in whatever order they meet.
#include "cuda/reduction.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct Best {
  using Value = std::conditional_t<std::is_integral_v<T>, std::conditional_t<sizeof(T) == 8, int64_t, int32_t>, Acc<T>>;
  struct alignas(16) Partial {
    int64_t number;  // -1: no element yet
    Word<Value> best;
  };
  bool largest;
  __device__ bool better(Value x, Value best) const { return (largest ? x > best : x < best) || (x != x && best == best); }
  __device__ Partial initial() const { return {-1, {}}; }
  template <int n>
  __device__ void take(Partial& partial, const T* values, int64_t number, int step) const {
#pragma unroll
    for (int k = 0; k < n; ++k) {  // numbers ascend: a later one must be better
      Value x;
      if constexpr (std::is_integral_v<T>) x = values[k];
      else x = widen(values[k]);
      if (partial.number < 0 || better(x, partial.best.value)) partial = {number + k * step, {x}};
    }
  }
  __device__ void join(Partial& partial, const Partial& other) const {
    if (other.number < 0) return;
    const Value x = other.best.value, best = partial.best.value;
    if (partial.number < 0 || better(x, best) || (!better(best, x) && other.number < partial.number)) partial = other;
  }
  template <class Out>
  __device__ Out finish(const Partial& partial) const {
    return partial.number;
  }
};

template <bool largest>
int32_t arg(const KernelArgs* args) {
  return dispatch_numbers(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, int64_t>(args, Best<T>{largest});
  });
}

}  // namespace

LF_CUDA_KERNEL(argmax, arg<true>)
LF_CUDA_KERNEL(argmin, arg<false>)
LF_CUDA_WORKSPACE(argmax, reduction_workspace)
LF_CUDA_WORKSPACE(argmin, reduction_workspace)

}  // namespace lf::cuda
