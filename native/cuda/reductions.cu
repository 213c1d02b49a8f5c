// sum, mean, prod, max, min over any set of axes (reduction.cuh): sums of f32 and 16-bit formats run in f32 over at most 8
// elements and in f64 from there on. Integers and bool: sum and prod give i64 and wrap around. In max and min NaN wins.
#include "cuda/reduction.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct SumFloating {
  using Partial = double;
  double factor;  // 1, or 1 / the number of elements for the mean
  __device__ Partial initial() const { return 0; }
  template <int n>
  __device__ void take(Partial& sum, const T* values, int64_t, int) const {
    Acc<T> some = widen(values[0]);
#pragma unroll
    for (int k = 1; k < n; ++k) some += widen(values[k]);
    sum += static_cast<double>(some);
  }
  __device__ void join(Partial& sum, Partial other) const { sum += other; }
  template <class Out>
  __device__ Out finish(Partial sum) const {
    return narrow<T>(static_cast<Acc<T>>(sum * factor));
  }
};

template <class T>
struct ProductFloating {
  using Partial = double;
  __device__ Partial initial() const { return 1; }
  template <int n>
  __device__ void take(Partial& product, const T* values, int64_t, int) const {
#pragma unroll
    for (int k = 0; k < n; ++k) product *= static_cast<double>(widen(values[k]));
  }
  __device__ void join(Partial& product, Partial other) const { product *= other; }
  template <class Out>
  __device__ Out finish(Partial product) const {
    return narrow<T>(static_cast<Acc<T>>(product));
  }
};

template <class T>
struct TotalWhole {
  using Partial = unsigned long long;
  bool product;
  __device__ Partial initial() const { return product ? 1 : 0; }
  template <int n>
  __device__ void take(Partial& total, const T* values, int64_t, int) const {
#pragma unroll
    for (int k = 0; k < n; ++k) join(total, static_cast<Partial>(values[k]));
  }
  __device__ void join(Partial& total, Partial other) const { total = product ? total * other : total + other; }
  template <class Out>
  __device__ Out finish(Partial total) const {
    return static_cast<Out>(total);
  }
};

template <class T>
struct Extremum {
  using Partial = std::conditional_t<std::is_integral_v<T>, int64_t, Acc<T>>;
  bool largest;
  __device__ Partial initial() const {
    if constexpr (std::is_integral_v<T>) return largest ? INT64_MIN : INT64_MAX;
    else return largest ? -static_cast<Partial>(INFINITY) : static_cast<Partial>(INFINITY);
  }
  template <int n>
  __device__ void take(Partial& best, const T* values, int64_t, int) const {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if constexpr (std::is_integral_v<T>) join(best, values[k]);
      else join(best, widen(values[k]));
    }
  }
  __device__ void join(Partial& best, Partial x) const {
    if ((largest ? x > best : x < best) || x != x) best = x;
  }
  template <class Out>
  __device__ Out finish(Partial best) const {
    if constexpr (std::is_integral_v<T>) return static_cast<Out>(best);
    else return narrow<T>(best);
  }
};

int32_t whole(const KernelArgs* args, bool product) {
  const DType dtype = args->inputs[0].dtype;
  return dispatch_integer(dtype == DType::kBool ? DType::kU8 : dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, int64_t>(args, TotalWhole<T>{product});
  });
}
int32_t sum_over(const KernelArgs* args, double factor) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, T>(args, SumFloating<T>{factor});
  });
}

int32_t sum(const KernelArgs* args) {
  return is_floating(args->inputs[0].dtype) ? sum_over(args, 1) : whole(args, false);
}
int32_t mean(const KernelArgs* args) {
  const int64_t results = args->outputs[0].numel;
  return results ? sum_over(args, 1.0 / static_cast<double>(args->inputs[0].numel / results)) : kOk;
}
int32_t prod(const KernelArgs* args) {
  if (!is_floating(args->inputs[0].dtype)) return whole(args, true);
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, T>(args, ProductFloating<T>{});
  });
}
template <bool largest>
int32_t extremum(const KernelArgs* args) {
  return dispatch_numbers(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return reduce<T, T>(args, Extremum<T>{largest});
  });
}

}  // namespace

LF_CUDA_KERNEL(sum, sum)
LF_CUDA_KERNEL(prod, prod)
LF_CUDA_KERNEL(mean, mean)
LF_CUDA_KERNEL(max, extremum<true>)
LF_CUDA_KERNEL(min, extremum<false>)
LF_CUDA_WORKSPACE(sum, reduction_workspace)
LF_CUDA_WORKSPACE(prod, reduction_workspace)
LF_CUDA_WORKSPACE(mean, reduction_workspace)
LF_CUDA_WORKSPACE(max, reduction_workspace)
LF_CUDA_WORKSPACE(min, reduction_workspace)

}  // namespace lf::cuda
