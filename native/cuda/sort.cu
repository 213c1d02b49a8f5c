// sort: values and places (i32) along an axis; top_k: of the k largest. Stable, NaN last either way, -0 equals 0, as on the CPU
// (native/ops/sort.cpp). Elements become unsigned keys whose order is the wanted one, 32 bits of them (64 for f64 and i64) with
// the place behind, and are sorted as sort.cuh says. Lines of up to 1024 take one launch.
#include "cuda/sort.cuh"

namespace lf::cuda {
namespace {

// Ascending keys in the order of the elements; NaN has the largest of all in either direction.
template <class T>
__device__ __forceinline__ auto key_of(T x, bool descending) {
  if constexpr (std::is_same_v<T, double>) {
    if (x != x) return ~uint64_t{0};
    const auto bits = static_cast<uint64_t>(__double_as_longlong(x + 0.0));
    const uint64_t key = bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
    return descending ? ~key : key;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    const uint64_t key = static_cast<uint64_t>(x) ^ uint64_t{1} << 63;
    return descending ? ~key : key;
  } else if constexpr (std::is_integral_v<T>) {
    const uint32_t key = static_cast<uint32_t>(static_cast<int32_t>(x)) ^ 0x80000000u;
    return descending ? ~key : key;
  } else {
    const float value = widen(x);
    if (value != value) return ~0u;
    const uint32_t bits = __float_as_uint(value + 0.0f);
    const uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
    return descending ? ~key : key;
  }
}

template <class T>
using EntryOf = std::conditional_t<sizeof(T) == 8, WideEntry, Entry>;

template <class T>
struct Load {
  const T* x;
  int64_t n, inner;
  bool descending;
  __device__ EntryOf<T> operator()(int64_t line, int64_t k) const {
    const auto key = key_of(x[line / inner * n * inner + line % inner + k * inner], descending);
    if constexpr (sizeof(T) == 8) return {key, static_cast<uint64_t>(k)};
    else return static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(k);
  }
};

template <class Unit>
struct ToResult {
  const Unit* x;
  Unit* values;
  int32_t* places;
  int64_t n, keep, inner;
  template <class E>
  __device__ void operator()(int64_t line, int64_t, int64_t i, const E& entry) const {
    if (i >= keep) return;
    const int64_t place = place_of(entry), outer = line / inner, lane = line % inner;
    const int64_t to = (outer * keep + i) * inner + lane;
    values[to] = x[(outer * n + place) * inner + lane];
    places[to] = static_cast<int32_t>(place);
  }
};

template <class E, class Unit>
__global__ void __launch_bounds__(256) results_kernel(const E* sorted, int64_t lines, ToResult<Unit> write) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < lines * write.keep; i += gridDim.x * int64_t{256}) {
    write(i / write.keep, 0, i % write.keep, sorted[i]);
  }
}

SortPlan plan_of(const TensorView& x, int axis, int64_t keep) {
  return SortPlan(x.span(0, axis) * x.span(axis + 1, x.rank), x.shape[axis], keep);
}
int axis_of(const TensorView& x, int64_t axis) { return static_cast<int>(axis < 0 ? axis + x.rank : axis); }

int32_t order(const KernelArgs* args, int axis, int64_t keep, bool descending) {
  const TensorView &x = args->inputs[0], &values = args->outputs[0];
  if (values.numel == 0) return kOk;
  const SortPlan plan = plan_of(x, axis, keep);
  const int64_t inner = x.span(axis + 1, x.rank);
  return dispatch_numbers(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    using E = EntryOf<T>;
    using Unit = std::conditional_t<sizeof(T) == 8, uint64_t,
                                    std::conditional_t<sizeof(T) == 4, uint32_t, std::conditional_t<sizeof(T) == 2, uint16_t, uint8_t>>>;
    const Load<T> load{x.as<const T>(), plan.n, inner, descending};
    const ToResult<Unit> write{x.as<const Unit>(), values.as<Unit>(), args->outputs[1].as<int32_t>(), plan.n, keep, inner};
    if (plan.tiles == 1) return sort_tiles<E>(args, plan, load, write);
    const E* sorted = nullptr;
    if (const int32_t code = sort_lines(args, plan, load, &sorted)) return code;
    results_kernel<<<blocks_for(args, plan.lines * keep, 256), 256, 0, stream_of(args).stream>>>(sorted, plan.lines, write);
    return launched(args);
  });
}

int32_t sort(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  const int axis = axis_of(x, args->integer(0));
  return order(args, axis, x.shape[axis], args->flag(1));
}
int32_t top_k(const KernelArgs* args) {
  return order(args, axis_of(args->inputs[0], args->integer(1)), args->integer(0), true);
}

int64_t workspace(const TensorView& x, int axis, int64_t keep) {
  const SortPlan plan = plan_of(x, axis, keep);
  if (keep == 0 || plan.lines == 0 || plan.tiles <= 1) return 0;
  return dtype_size(x.dtype) == 8 ? sort_workspace<WideEntry>(plan) : sort_workspace<Entry>(plan);
}
int64_t workspace_of_sort(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  const int axis = axis_of(x, args->integer(0));
  return workspace(x, axis, x.shape[axis]);
}
int64_t workspace_of_top_k(const KernelArgs* args) {
  return workspace(args->inputs[0], axis_of(args->inputs[0], args->integer(1)), args->integer(0));
}

}  // namespace

LF_CUDA_KERNEL(sort, sort)
LF_CUDA_KERNEL(top_k, top_k)
LF_CUDA_WORKSPACE(sort, workspace_of_sort)
LF_CUDA_WORKSPACE(top_k, workspace_of_top_k)

}  // namespace lf::cuda
