// log_sum_exp over any set of axes (reduction.cuh): m + log(sum(exp(x - m))) in one pass, with the largest element m so far; when
// a larger one comes, the sum is rescaled. Exponentials in f32 (f64 for f64), sums over more than 8 elements in f64.
#include "cuda/elementwise_math.cuh"
#include "cuda/reduction.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct LogSumExp {
  using A = Acc<T>;
  struct alignas(16) Partial {
    double sum;  // of exp(x - max)
    Word<A> max;
  };
  static __device__ A larger(A a, A b) { return (b > a) | (b != b) ? b : a; }
  static __device__ A infinity() { return static_cast<A>(INFINITY); }
  __device__ Partial initial() const { return {0, {-infinity()}}; }
  template <int n>
  __device__ void take(Partial& partial, const T* values, int64_t, int) const {
    A max = partial.max.value;
#pragma unroll
    for (int k = 0; k < n; ++k) max = larger(max, widen(values[k]));
    if (max == -infinity()) return;
    if (max == infinity()) {  // infinity minus itself has no value
      partial = {1, {max}};
      return;
    }
    A sum = 0;
#pragma unroll
    for (int k = 0; k < n; ++k) sum += exp(widen(values[k]) - max);
    partial = {partial.sum * static_cast<double>(exp(partial.max.value - max)) + static_cast<double>(sum), {max}};
  }
  __device__ void join(Partial& partial, const Partial& other) const {
    const A a = partial.max.value, b = other.max.value, max = larger(a, b);
    if (b == -infinity()) return;
    if (max == infinity()) {
      partial = {1, {max}};
    } else {
      partial = {partial.sum * static_cast<double>(exp(a - max)) + other.sum * static_cast<double>(exp(b - max)), {max}};
    }
  }
  template <class Out>
  __device__ Out finish(const Partial& partial) const {
    return narrow<T>(static_cast<A>(static_cast<double>(partial.max.value) + log(partial.sum)));
  }
};

int32_t log_sum_exp(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, T>(args, LogSumExp<T>{});
  });
}

}  // namespace

LF_CUDA_KERNEL(log_sum_exp, log_sum_exp)
LF_CUDA_WORKSPACE(log_sum_exp, reduction_workspace)

}  // namespace lf::cuda
