// gather, index_select: elements or slices of x picked by indices. scatter_add, index_add: sources added into x (or zeros) where
// indices say, in the order of the indices, without atomics. one_hot: 1 at the index along a new last axis. Indices are
// i32 or i64; one outside of its axis is reported by the kernel that meets it, and picks 0 or adds nothing.
//   picking  a thread owns one element, or a unit of up to 16 bytes of a slice. Bound by bytes; full occupancy.
//   adding   (target, position) pairs are sorted (sort.cuh); where a new target begins in the sorted list, a thread adds up all
//            that belongs to it, in order of position, in f32 (f64), and writes it once. Bound by bytes, or by the
//            longest list of one target.
#include "cuda/pointwise.cuh"
#include "cuda/sort.cuh"
#include "cuda/strided.cuh"

namespace lf::cuda {
namespace {

constexpr const char* kOutside = "index %lld at position %lld is outside 0 .. %lld";

struct Index {
  const void* data;
  bool wide;  // i64, else i32
  int64_t limit;
  Faults faults;

  // The index at a position; -1 when it is outside, which is reported.
  __device__ __forceinline__ int64_t at(int64_t position) const {
    const int64_t found = wide ? static_cast<const int64_t*>(data)[position] : static_cast<const int32_t*>(data)[position];
    if (found >= 0 && found < limit) return found;
    faults.report(found, position, limit - 1);
    return -1;
  }
};

Index index_of(const KernelArgs* args, const TensorView& index, int64_t limit) {
  return {index.data, index.dtype == DType::kI64, limit, faults_of(args, kOutside)};
}

int axis_of(const KernelArgs* args, const TensorView& view) {
  const int64_t axis = args->integer(0);
  return static_cast<int>(axis < 0 ? axis + view.rank : axis);
}

// Where the lines of `part` begin in the larger `whole`: its axes but `axis`.
Axes lines_of(const TensorView& whole, const TensorView& part, int axis) {
  Strided lines;
  for (int i = part.rank - 1; i >= 0; --i) {
    lines.push(part.shape[i], i == axis ? 0 : whole.span(i + 1, whole.rank), part.span(i + 1, part.rank));
  }
  return Axes(lines);
}

template <class T>
__global__ void __launch_bounds__(256)
    gather_kernel(const T* x, T* out, int64_t n, Index index, int64_t step, const __grid_constant__ Axes lines) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < n; i += gridDim.x * int64_t{256}) {
    int64_t from = 0, to = 0;
    lines.place(i, from, to);
    const int64_t picked = index.at(i);
    out[i] = picked < 0 ? T{} : x[from + picked * step];
  }
}

int32_t gather(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  const int axis = axis_of(args, x);
  return dispatch_size(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    gather_kernel<<<blocks_for(args, out.numel, 256), 256, 0, stream_of(args).stream>>>(
        x.as<const T>(), out.as<T>(), out.numel, index_of(args, args->inputs[1], x.shape[axis]), x.span(axis + 1, x.rank),
        lines_of(x, out, axis));
    return launched(args);
  });
}

template <class Unit>
__global__ void __launch_bounds__(256)
    select_kernel(const Unit* x, Unit* out, int64_t n, Index index, Divisor inner, Divisor count) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < n; i += gridDim.x * int64_t{256}) {
    int64_t at, k;
    const int64_t outer = count.divide(inner.divide(i, at), k), picked = index.at(k);
    out[i] = picked < 0 ? Unit{} : x[(outer * index.limit + picked) * inner.by + at];
  }
}

int32_t index_select(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  const int axis = axis_of(args, x);
  const int64_t slice = x.span(axis + 1, x.rank) * dtype_size(x.dtype);
  const auto all = static_cast<uint64_t>(slice) | reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(out.data) | 16;
  const auto unit = static_cast<int64_t>(all & (~all + 1));
  const int64_t n = out.numel * dtype_size(x.dtype) / unit;
  const auto launch = [&](auto tag) {
    using Unit = typename decltype(tag)::Type;
    select_kernel<<<blocks_for(args, n, 256), 256, 0, stream_of(args).stream>>>(
        x.as<const Unit>(), out.as<Unit>(), n, index_of(args, args->inputs[1], x.shape[axis]), Divisor(slice / unit),
        Divisor(out.shape[axis]));
    return launched(args);
  };
  switch (unit) {
    case 1: return launch(Tag<uint8_t>{});
    case 2: return launch(Tag<uint16_t>{});
    case 4: return launch(Tag<uint32_t>{});
    case 8: return launch(Tag<uint64_t>{});
    default: return launch(Tag<uint4>{});
  }
}

constexpr uint32_t kNowhere = ~0u;  // sorts last

// Entries of index_add: the index, and its position. Of scatter_add: the place in the target, and the position in the source.
struct LoadIndex {
  Index index;
  __device__ Entry operator()(int64_t, int64_t k) const {
    const int64_t target = index.at(k);
    return static_cast<uint64_t>(target < 0 ? kNowhere : static_cast<uint32_t>(target)) << 32 | static_cast<uint64_t>(k);
  }
};
struct LoadPlace {
  Index index;
  int64_t step;
  Axes lines;
  __device__ Entry operator()(int64_t, int64_t k) const {
    int64_t from = 0, to = 0;
    lines.place(k, from, to);
    const int64_t target = index.at(k);
    return static_cast<uint64_t>(target < 0 ? kNowhere : static_cast<uint32_t>(from + target * step)) << 32 | static_cast<uint64_t>(k);
  }
};

// Entries that begin a target, times `inner` elements of each, times `outer` blocks; scatter_add has 1 of both.
template <class T>
__global__ void __launch_bounds__(256) add_kernel(const Entry* sorted, int64_t count, const T* x, const T* source, T* out,
                                                  int64_t rows, Divisor inner, Divisor entries, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < n; i += gridDim.x * int64_t{256}) {
    int64_t at, first;
    const int64_t outer = entries.divide(inner.divide(i, at), first);
    const auto target = static_cast<uint32_t>(sorted[first] >> 32);
    if (target == kNowhere || (first > 0 && static_cast<uint32_t>(sorted[first - 1] >> 32) == target)) continue;
    const int64_t to = (outer * rows + target) * inner.by + at;
    Acc<T> sum = x ? widen(x[to]) : Acc<T>{};
    for (int64_t k = first; k < count; ++k) {
      const Entry entry = sorted[k];
      if (static_cast<uint32_t>(entry >> 32) != target) break;
      sum += widen(source[(outer * count + place_of(entry)) * inner.by + at]);
    }
    out[to] = narrow<T>(sum);
  }
}

template <class Load>
int32_t add(const KernelArgs* args, const Load& load, int64_t count, int64_t targets, int64_t inner) {
  const TensorView &x = args->inputs[0], &source = args->inputs[2], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  const auto bytes = static_cast<size_t>(out.numel * dtype_size(out.dtype));
  const auto stream = stream_of(args).stream;
  const cudaError_t code = x.present() ? cudaMemcpyAsync(out.data, x.data, bytes, cudaMemcpyDeviceToDevice, stream)
                                       : cudaMemsetAsync(out.data, 0, bytes, stream);
  if (code) return report(args, code);
  if (source.numel == 0) return kOk;
  if (targets >= kNowhere || count >= kNowhere) {
    std::snprintf(args->error, kErrorText, "%lld targets and %lld indices are more than the CUDA kernel can number (2^32 - 1)",
                  static_cast<long long>(targets), static_cast<long long>(count));
    return kShape;
  }
  const Entry* sorted = nullptr;
  if (const int32_t failed = sort_lines(args, SortPlan(1, count, count), load, &sorted)) return failed;
  return dispatch_floating(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    add_kernel<<<blocks_for(args, source.numel, 256), 256, 0, stream>>>(
        sorted, count, x.present() ? x.as<const T>() : nullptr, source.as<const T>(), out.as<T>(), targets,
        Divisor(inner), Divisor(count), source.numel);
    return launched(args);
  });
}

int32_t index_add(const KernelArgs* args) {
  const TensorView &index = args->inputs[1], &out = args->outputs[0];
  const int axis = axis_of(args, out);
  return add(args, LoadIndex{index_of(args, index, out.shape[axis])}, index.numel, out.shape[axis], out.span(axis + 1, out.rank));
}
int32_t scatter_add(const KernelArgs* args) {
  const TensorView &index = args->inputs[1], &source = args->inputs[2], &out = args->outputs[0];
  const int axis = axis_of(args, out);
  return add(args, LoadPlace{index_of(args, index, out.shape[axis]), out.span(axis + 1, out.rank), lines_of(out, source, axis)},
             source.numel, out.numel, 1);
}
int64_t add_workspace(const KernelArgs* args) {
  const int64_t count = args->inputs[1].numel;
  return sort_workspace<Entry>(SortPlan(1, count, count));
}

template <class T>
__global__ void __launch_bounds__(256) one_hot_kernel(T* out, int64_t n, Index index, T one) {
  const int64_t i = blockIdx.x * int64_t{256} + threadIdx.x;
  if (i >= n) return;
  const int64_t hot = index.at(i);
  if (hot >= 0) out[i * index.limit + hot] = one;
}

// The stream has zeroed the output before.
int32_t one_hot(const KernelArgs* args) {
  const TensorView &index = args->inputs[0], &out = args->outputs[0];
  if (index.numel == 0) return kOk;
  const auto launch = [&](auto one) {
    using T = decltype(one);
    one_hot_kernel<<<static_cast<unsigned>((index.numel + 255) / 256), 256, 0, stream_of(args).stream>>>(
        out.as<T>(), index.numel, index_of(args, index, args->integer(0)), one);
    return launched(args);
  };
  switch (out.dtype) {
    case DType::kF32: return launch(float_bits(1));
    case DType::kF16: return launch(to_f16(1).bits);
    case DType::kBF16: return launch(to_bf16(1).bits);
    case DType::kF64: return launch(uint64_t{0x3ff0000000000000});
    case DType::kI32: return launch(uint32_t{1});
    case DType::kI64: return launch(uint64_t{1});
    default: return launch(uint8_t{1});
  }
}

}  // namespace

LF_CUDA_KERNEL(gather, gather)
LF_CUDA_KERNEL(index_select, index_select)
LF_CUDA_KERNEL(scatter_add, scatter_add)
LF_CUDA_KERNEL(index_add, index_add)
LF_CUDA_KERNEL(one_hot, one_hot)
LF_CUDA_WORKSPACE(scatter_add, add_workspace)
LF_CUDA_WORKSPACE(index_add, add_workspace)

}  // namespace lf::cuda
