// Pointwise kernels with NumPy broadcasting: out = f(in...), for any number of inputs of any formats. The result is walked
// flat; axes that run alike in all inputs were joined before, so equal shapes are one axis and need no division.
//
// A thread owns a pack of neighbouring results, of 16 bytes in the widest format; each input is one load of the pack, or of
// a single number where the innermost axis stands still. Where a tensor or row does not start at a multiple of the pack,
// a thread owns one result. Blocks of 256 threads loop over the grid. Bound by bytes. Warps an SM: pointwise_kernel 48.
#pragma once
#include <type_traits>
#include <utility>

#include "cuda/kernel.cuh"

namespace lf::cuda {

template <class T, int count>
struct alignas(count * sizeof(T)) Items {
  T at[count];
};

// f64 goes one by one: it serves checks, and its functions are long.
template <class... Ts>
constexpr int kPackItems = (std::is_same_v<Ts, double> || ...) ? 1 : 16 / [] {
  int widest = 1;
  ((widest = static_cast<int>(sizeof(Ts)) > widest ? static_cast<int>(sizeof(Ts)) : widest), ...);
  return widest;
}();

// A functor of more than some twenty instructions says `using Long = void;`.
template <class F, class = void>
constexpr bool kLong = false;
template <class F>
constexpr bool kLong<F, std::void_t<typename F::Long>> = true;

template <int kInputs>
struct Walk {
  int rank = 0;  // axes from the last to the first; at least 1
  bool packed = true;
  Divisor size[kMaxRank];
  int64_t step[kInputs > 0 ? kInputs : 1][kMaxRank];  // in elements

  __device__ __forceinline__ void offsets(int64_t flat, int64_t* at) const {
    int64_t inner = flat;
    if (rank > 1) flat = size[0].divide(flat, inner);
#pragma unroll
    for (int k = 0; k < kInputs; ++k) at[k] = inner * step[k][0];
#pragma unroll 1
    for (int axis = 1; axis < rank; ++axis) {
      int64_t index = flat;
      if (axis + 1 < rank) flat = size[axis].divide(flat, index);
#pragma unroll
      for (int k = 0; k < kInputs; ++k) at[k] += index * step[k][axis];
    }
  }
};

// `items` in a pack; element sizes of the inputs in `bytes`.
template <int kInputs>
Walk<kInputs> plan_walk(const TensorView& out, const TensorView* const* inputs, const int* bytes, int out_bytes, int items) {
  Walk<kInputs> walk;
  int64_t sizes[kMaxRank], reach[kInputs + 1];
  for (int64_t& r : reach) r = 1;
  for (int axis = 1; axis <= out.rank; ++axis) {
    const int64_t size = out.dim(-axis);
    if (size == 1) continue;
    int64_t step[kInputs + 1];
    bool joins = walk.rank > 0;
    for (int k = 0; k < kInputs; ++k) {
      const bool runs = axis <= inputs[k]->rank && inputs[k]->dim(-axis) != 1;
      step[k] = runs ? reach[k] : 0;
      if (runs) reach[k] *= size;
      if (joins) joins = step[k] == walk.step[k][walk.rank - 1] * sizes[walk.rank - 1];
    }
    if (joins) {
      sizes[walk.rank - 1] *= size;
      continue;
    }
    sizes[walk.rank] = size;
    for (int k = 0; k < kInputs; ++k) walk.step[k][walk.rank] = step[k];
    ++walk.rank;
  }
  if (walk.rank == 0) {
    sizes[walk.rank++] = out.numel;
    for (int k = 0; k < kInputs; ++k) walk.step[k][0] = 0;
  }
  const auto fits = [&](const void* data, int size) { return reinterpret_cast<uintptr_t>(data) % (items * size) == 0; };
  walk.packed = fits(out.data, out_bytes) && (walk.rank == 1 || sizes[0] % items == 0);
  for (int k = 0; k < kInputs; ++k) {
    if (walk.step[k][0] == 0) continue;
    walk.packed = walk.packed && fits(inputs[k]->data, bytes[k]);
    for (int axis = 1; axis < walk.rank; ++axis) walk.packed = walk.packed && walk.step[k][axis] % items == 0;
  }
  for (int axis = 0; axis < walk.rank; ++axis) walk.size[axis] = Divisor(sizes[axis]);
  return walk;
}

template <int count, class T>
__device__ __forceinline__ Items<T, count> load_items(const T* from, int64_t step) {
  if (step) return *reinterpret_cast<const Items<T, count>*>(from);
  Items<T, count> same;
  const T value = *from;
#pragma unroll
  for (int k = 0; k < count; ++k) same.at[k] = value;
  return same;
}

template <class F, class Out, class... Ins, int... k>
__device__ __forceinline__ void pointwise_block(const F& f, int64_t n, const Walk<sizeof...(Ins)>& walk, Out* out,
                                                std::integer_sequence<int, k...>, const Ins*... ins) {
  constexpr int kItems = kPackItems<Out, Ins...>;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t at[sizeof...(Ins) + 1];
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (kItems > 1 && walk.packed) {
    for (; (i + 1) * kItems <= n; i += stride) {
      walk.offsets(i * kItems, at);
      const auto whole = [&](const Items<Ins, kItems>&... in) {
        Items<Out, kItems> result;
        if constexpr (kItems > 4 && kLong<F>) {
          // The function four times in the code, not eight.
#pragma unroll 1
          for (int part = 0; part < 2; ++part) {
#pragma unroll
            for (int j = 0; j < kItems / 2; ++j) {
              const Out one = f((part ? in.at[j + kItems / 2] : in.at[j])...);
              if (part) result.at[j + kItems / 2] = one;
              else result.at[j] = one;
            }
          }
        } else {
#pragma unroll
          for (int j = 0; j < kItems; ++j) result.at[j] = f(in.at[j]...);
        }
        *reinterpret_cast<Items<Out, kItems>*>(out + i * kItems) = result;
      };
      whole(load_items<kItems>(ins + at[k], walk.step[k][0])...);
    }
    // What is left is less than a pack: one by one, by as many of the threads.
    i -= n / kItems;
    if (i < 0 || i >= n % kItems) return;
    i += n / kItems * kItems;
  }
  for (; i < n; i += stride) {
    walk.offsets(i, at);
    out[i] = f(ins[at[k]]...);
  }
}

template <class F, class Out, class... Ins>
__global__ void __launch_bounds__(256)
    pointwise_kernel(F f, int64_t n, const __grid_constant__ Walk<sizeof...(Ins)> walk, Out* out, const Ins*... ins) {
  pointwise_block<F, Out, Ins...>(f, n, walk, out, std::make_integer_sequence<int, sizeof...(Ins)>(), ins...);
}

// pointwise<Out, Ins...>(args, f, out, ins...): f is a device functor from Ins to Out; outputs of no
// elements need no kernel.
template <class Out, class... Ins, class F, class... Views>
int32_t pointwise(const KernelArgs* args, F f, const TensorView& out, const Views&... ins) {
  if (out.numel == 0) return kOk;
  constexpr int kItems = kPackItems<Out, Ins...>;
  const TensorView* const inputs[] = {&ins..., nullptr};
  const int bytes[] = {static_cast<int>(sizeof(Ins))..., 0};
  const auto walk = plan_walk<sizeof...(Ins)>(out, inputs, bytes, sizeof(Out), kItems);
  const int blocks = blocks_for(args, out.numel, 256 * (walk.packed ? kItems : 1));
  pointwise_kernel<F, Out, Ins...>
      <<<blocks, 256, 0, stream_of(args).stream>>>(f, out.numel, walk, out.as<Out>(), ins.template as<const Ins>()...);
  return launched(args);
}

}  // namespace lf::cuda
