// gather: out[.., i, ..] = x[.., index[.., i, ..], ..] along an axis (index has out's shape, its other axes at most x's).
// index_select: the same with one list of indices for all: whole slices of x. scatter_add and index_add are their
// gradients: source is added into x (or into zeros), in the order of the indices, so results do not depend on threads.
// one_hot: 1 at the index along a new last axis. Indices are i32 or i64. Bound by bytes; 16-bit sums are kept in f32.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

void check_index(const OpCall& call, int i) {
  const DType dtype = call.in(i).dtype;
  if (dtype != DType::kI32 && dtype != DType::kI64) {
    call.fail_hint(kDType, "cast it to i32", "index is %s, needs i32 or i64", dtype_name(dtype));
  }
}

// index must fit into `whole` on every axis but `axis`.
void check_fits(const OpCall& call, const TensorView& index, const TensorView& whole, int axis) {
  bool fits = index.rank == whole.rank;
  for (int i = 0; fits && i < index.rank; ++i) fits = i == axis || index.shape[i] <= whole.shape[i];
  if (!fits) {
    call.fail(kShape, "index has shape %s, which must have as many axes as %s and be no larger on any but axis %d",
              shape_text(index).c_str(), shape_text(whole).c_str(), axis);
  }
}

// The tensor that is added to, from the optional x and the attribute shape.
TensorView target_of(const OpCall& call, const TensorView& source) {
  int64_t shape[kMaxRank];
  const int rank = call.list_size(1);
  if (rank > kMaxRank) call.fail(kShape, "%d axes are more than %d", rank, kMaxRank);
  for (int i = 0; i < rank; ++i) {
    shape[i] = call.item(1, i);
    if (shape[i] < 0) call.fail(kShape, "axis %d has the negative size %lld", i, (long long)shape[i]);
  }
  const TensorView target = make_view(source.dtype, shape, rank);
  if (call.has(0)) {
    call.check_same_dtype(0, 2);
    const TensorView& x = call.in(0);
    bool same = x.rank == rank;
    for (int i = 0; same && i < rank; ++i) same = x.shape[i] == shape[i];
    if (!same) call.fail(kShape, "x has shape %s, not %s", shape_text(x).c_str(), shape_text(target).c_str());
  }
  return target;
}

bool half_sums(const OpCall& call) { return call.in(2).dtype == DType::kF16 || call.in(2).dtype == DType::kBF16; }

int64_t sums_workspace(const OpCall& call) { return half_sums(call) ? call.outputs[0].numel * 4 : 0; }

// Only the addressed elements of x are read.
Cost pick_cost(const OpCall& call) {
  Cost cost;
  cost.bytes_written = bytes_of(call.outputs[0]);
  cost.bytes_read = cost.bytes_written + bytes_of(call.in(1));
  return cost;
}

// One addition per element of source.
Cost add_cost(const OpCall& call) { return io_cost_with_flops(call, static_cast<double>(call.in(2).numel)); }

LF_OP({.name = "gather",
       .inputs = {{"x"}, {"index"}},
       .attrs = {{"axis", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             check_index(call, 1);
             check_fits(call, call.in(1), call.in(0), call.check_axis(0, call.in(0)));
             call.output_like(call.in(1), call.in(0).dtype);
           },
       .cost = pick_cost})

LF_OP({.name = "scatter_add",
       .inputs = {{.name = "x", .optional = true}, {"index"}, {"source"}},
       .attrs = {{"axis", AttrType::kInteger}, {"shape", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             check_index(call, 1);
             call.check_floating(2);
             call.check_same_shape(1, 2);
             const TensorView target = target_of(call, call.in(2));
             check_fits(call, call.in(1), target, call.check_axis(0, target));
             call.output_like(target);
           },
       .cost = add_cost,
       .workspace = sums_workspace})

LF_OP({.name = "index_select",
       .inputs = {{"x"}, {"index"}},
       .attrs = {{"axis", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             check_index(call, 1);
             call.check_rank(1, 1, 1);
             const TensorView& x = call.in(0);
             int64_t shape[kMaxRank];
             const int axis = call.check_axis(0, x);
             for (int i = 0; i < x.rank; ++i) shape[i] = i == axis ? call.in(1).numel : x.shape[i];
             call.output(x.dtype, shape, x.rank);
           },
       .cost = pick_cost})

LF_OP({.name = "index_add",
       .inputs = {{.name = "x", .optional = true}, {"index"}, {"source"}},
       .attrs = {{"axis", AttrType::kInteger}, {"shape", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             check_index(call, 1);
             call.check_rank(1, 1, 1);
             call.check_floating(2);
             const TensorView target = target_of(call, call.in(2));
             const TensorView& source = call.in(2);
             const int axis = call.check_axis(0, target);
             bool fits = source.rank == target.rank;
             for (int i = 0; fits && i < source.rank; ++i) {
               fits = source.shape[i] == (i == axis ? call.in(1).numel : target.shape[i]);
             }
             if (!fits) {
               call.fail(kShape, "source has shape %s, needs that of %s with %lld on axis %d", shape_text(source).c_str(),
                         shape_text(target).c_str(), (long long)call.in(1).numel, axis);
             }
             call.output_like(target);
           },
       .cost = add_cost,
       .workspace = sums_workspace})

LF_OP({.name = "one_hot",
       .inputs = {{"index"}},
       .attrs = {{"classes", AttrType::kInteger}, {"dtype", AttrType::kDType}},
       .shape =
           [](OpCall& call) {
             check_index(call, 0);
             const TensorView& index = call.in(0);
             if (index.rank == kMaxRank) call.fail(kShape, "index has %d axes, the most possible", kMaxRank);
             int64_t shape[kMaxRank];
             for (int i = 0; i < index.rank; ++i) shape[i] = index.shape[i];
             shape[index.rank] = call.integer(0);
             call.output(call.dtype(1), shape, index.rank + 1);
           },
       .cost = io_cost<0>,
       .zero_outputs = true})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kBlock = 64;     // neighbouring lines that are walked together
constexpr int64_t kGrain = 16384;  // elements

// Finds the first index outside of [0, limit). Whether there is one is known from a pass without branches.
template <class I>
int32_t check_range(const KernelArgs* args, const TensorView& indices, int64_t limit) {
  const I* index = indices.as<const I>();
  int outside = 0;
  cpu::parallel_for(indices.numel, kGrain * 4, [&](int64_t begin, int64_t end) {
    int64_t wrong = 0;
    for (int64_t i = begin; i < end; ++i) wrong |= (index[i] < 0) | (static_cast<int64_t>(index[i]) >= limit);
    if (wrong) __atomic_store_n(&outside, 1, __ATOMIC_RELAXED);
  });
  for (int64_t i = 0; outside && i < indices.numel; ++i) {
    const int64_t found = index[i];
    if (found >= 0 && found < limit) continue;
    std::snprintf(args->error, kErrorText, "index %lld at position %lld is outside 0 .. %lld", static_cast<long long>(found),
                  static_cast<long long>(i), static_cast<long long>(limit - 1));
    return kKernel;
  }
  return kOk;
}

// f(first element of the line in `whole`, in `part`) for the lines along `axis`; the other axes count as in `part`. Both
// tensors are dense, `part` is the smaller. `inner` lines are neighbours in `part`.
struct Lines {
  const TensorView &whole, &part;
  int axis;
  int64_t inner, whole_step, count;
  bool same_inner;  // neighbours in part are neighbours in whole

  Lines(const TensorView& whole, const TensorView& part, int axis)
      : whole(whole),
        part(part),
        axis(axis),
        inner(part.span(axis + 1, part.rank)),
        whole_step(whole.span(axis + 1, whole.rank)),
        count(part.shape[axis]),
        same_inner(inner == whole_step) {}

  int64_t outer() const { return part.span(0, axis); }
  LF_INLINE int64_t at(int64_t flat, int begin, int end) const {
    int64_t place = 0, stride = whole.span(end, whole.rank);
    for (int i = end - 1; i >= begin; --i) {
      place += flat % part.shape[i] * stride;
      flat /= part.shape[i];
      stride *= whole.shape[i];
    }
    return place;
  }
  // f(whole_offsets, part_offset, lanes): element k of lane i is whole[whole_offsets[i] + index * whole_step] and
  // part[part_offset + k * inner + i].
  template <class F>
  LF_INLINE void each(F&& f) const {
    const int64_t blocks = (inner + kBlock - 1) / kBlock, lanes = inner < kBlock ? inner : kBlock;
    cpu::parallel_for(outer() * blocks, kGrain / (count * lanes + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / blocks, first = task % blocks * kBlock;
        const int64_t n = inner - first < kBlock ? inner - first : kBlock;
        const int64_t base = at(row, 0, axis);
        int64_t offsets[kBlock];
        for (int64_t i = 0; i < n; ++i) offsets[i] = base + (same_inner ? first + i : at(first + i, axis + 1, part.rank));
        f(offsets, row * count * inner + first, n);
      }
    });
  }
};

LF_INLINE int axis_of(const KernelArgs* args, const TensorView& view) {
  const int64_t axis = args->integer(0);
  return static_cast<int>(axis < 0 ? axis + view.rank : axis);
}

template <class T, class I, bool kSelect>
void pick(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  const I* index = args->inputs[1].as<const I>();
  const Lines lines(x, out, axis_of(args, x));
  lines.each([&](const int64_t* offsets, int64_t first, int64_t n) {
    for (int64_t k = 0; k < lines.count; ++k) {
      const int64_t at = first + k * lines.inner;
      T* to = out.as<T>() + at;
      if constexpr (kSelect) {
        const T* from = x.as<const T>() + index[k] * lines.whole_step + offsets[0];
        __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
      } else {
        for (int64_t i = 0; i < n; ++i) to[i] = x.as<const T>()[offsets[i] + index[at + i] * lines.whole_step];
      }
    }
  });
}

template <class I, bool kSelect>
int32_t pick_by(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  if (args->outputs[0].numel == 0) return kOk;
  if (int32_t code = check_range<I>(args, args->inputs[1], x.shape[axis_of(args, x)])) return code;
  switch (dtype_size(x.dtype)) {
    case 1: pick<uint8_t, I, kSelect>(args); break;
    case 2: pick<uint16_t, I, kSelect>(args); break;
    case 4: pick<uint32_t, I, kSelect>(args); break;
    default: pick<uint64_t, I, kSelect>(args); break;
  }
  return kOk;
}

template <bool kSelect>
int32_t pick_any(const KernelArgs* args) {
  return args->inputs[1].dtype == DType::kI32 ? pick_by<int32_t, kSelect>(args) : pick_by<int64_t, kSelect>(args);
}

// Every line belongs to one task, which adds in the order of the indices.
template <class T, class I, bool kSelect>
void add(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView &x = args->inputs[0], &source = args->inputs[2], &out = args->outputs[0];
  const I* index = args->inputs[1].as<const I>();
  Acc* sums = kIsHalf<T> ? static_cast<Acc*>(args->workspace) : out.as<Acc>();
  cpu::parallel_for(out.numel, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[i] = x.present() ? get(x.as<const T>() + i) : Acc{};
  });
  const Lines lines(out, source, axis_of(args, out));
  if (source.numel > 0) {
    lines.each([&](const int64_t* offsets, int64_t first, int64_t n) {
      for (int64_t k = 0; k < lines.count; ++k) {
        const int64_t at = first + k * lines.inner;
        const T* from = source.as<const T>() + at;
        if constexpr (kSelect) {
          Acc* to = sums + index[k] * lines.whole_step + offsets[0];
          for_lanes<T>(n, [&](int64_t i, int64_t m) { store_some(to + i, load_some(to + i, m) + load_some(from + i, m), m); });
        } else {
          for (int64_t i = 0; i < n; ++i) sums[offsets[i] + index[at + i] * lines.whole_step] += get(from + i);
        }
      }
    });
  }
  if constexpr (kIsHalf<T>) {
    cpu::parallel_for(out.numel, kGrain, [&](int64_t begin, int64_t end) {
      for_lanes<T>(end - begin, [&](int64_t i, int64_t n) {
        store_some(out.as<T>() + begin + i, load_some(sums + begin + i, n), n);
      });
    });
  }
}

template <class I, bool kSelect>
int32_t add_by(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  if (args->inputs[2].numel > 0) {
    if (int32_t code = check_range<I>(args, args->inputs[1], out.shape[axis_of(args, out)])) return code;
  }
  visit_floating(out.dtype, [&](auto type) { add<decltype(type), I, kSelect>(args); });
  return kOk;
}

template <bool kSelect>
int32_t add_any(const KernelArgs* args) {
  return args->inputs[1].dtype == DType::kI32 ? add_by<int32_t, kSelect>(args) : add_by<int64_t, kSelect>(args);
}

template <class I>
int32_t one_hot_by(const KernelArgs* args) {
  const TensorView &indices = args->inputs[0], &out = args->outputs[0];
  const I* index = indices.as<const I>();
  const int64_t classes = args->integer(0);
  if (int32_t code = check_range<I>(args, indices, classes)) return code;
  visit_all(out.dtype, [&](auto type) {
    using T = decltype(type);
    T one{};
    if constexpr (kInVf<T> || kIsSame<T, double>) {
      put(&one, 1);
    } else if constexpr (kIsSame<T, Bool>) {
      one.value = 1;
    } else {
      one = 1;
    }
    cpu::parallel_for(indices.numel, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out.as<T>()[i * classes + index[i]] = one;
    });
  });
  return kOk;
}

int32_t one_hot(const KernelArgs* args) {
  return args->inputs[0].dtype == DType::kI32 ? one_hot_by<int32_t>(args) : one_hot_by<int64_t>(args);
}

}  // namespace

LF_CPU_KERNEL(gather, pick_any<false>)
LF_CPU_KERNEL(index_select, pick_any<true>)
LF_CPU_KERNEL(scatter_add, add_any<false>)
LF_CPU_KERNEL(index_add, add_any<true>)
LF_CPU_KERNEL(one_hot, one_hot)

}  // namespace lf
#endif
