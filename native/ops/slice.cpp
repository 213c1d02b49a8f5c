// slice: a box of a tensor, with steps. slice_backward: the box's gradient in zeros of the whole shape. write_slice: writes a
// box of a tensor in place (key-value caches). Any dtype; bound by bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// Sizes of the box start : stop : step of `whole`; throws when it does not fit.
void box(const OpCall& call, const TensorView& whole, int64_t* sizes) {
  for (int list = 0; list < 3; ++list) {
    if (call.list_size(list) != whole.rank) {
      call.fail(kShape, "%s has %d entries for shape %s; needs one an axis", call.op->attrs[static_cast<size_t>(list)].name,
                call.list_size(list), shape_text(whole).c_str());
    }
  }
  for (int i = 0; i < whole.rank; ++i) {
    const int64_t start = call.item(0, i), stop = call.item(1, i), step = call.item(2, i);
    if (start < 0 || stop > whole.shape[i] || stop < start || step < 1) {
      call.fail_hint(kShape, "0 <= start <= stop <= size, and step at least 1", "%lld:%lld:%lld does not fit axis %d of shape %s",
                     (long long)start, (long long)stop, (long long)step, i, shape_text(whole).c_str());
    }
    sizes[i] = stop == start ? 0 : (stop - start - 1) / step + 1;
  }
}

const std::vector<AttrSpec>& box_attrs() {
  static const std::vector<AttrSpec> kAttrs = {
      {"start", AttrType::kIntegers}, {"stop", AttrType::kIntegers}, {"step", AttrType::kIntegers}};
  return kAttrs;
}

Cost box_cost(const OpCall& call) {
  Cost cost;
  cost.bytes_read = cost.bytes_written = bytes_of(call.outputs[0]);
  return cost;
}

LF_OP({.name = "slice",
       .inputs = {{"x"}},
       .attrs = box_attrs(),
       .shape =
           [](OpCall& call) {
             int64_t sizes[kMaxRank];
             box(call, call.in(0), sizes);
             call.output(call.in(0).dtype, sizes, call.in(0).rank);
           },
       .cost = box_cost})

LF_OP({.name = "slice_backward",
       .inputs = {{"grad"}},
       .attrs = {{"start", AttrType::kIntegers},
                 {"stop", AttrType::kIntegers},
                 {"step", AttrType::kIntegers},
                 {"shape", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             int64_t whole[kMaxRank], sizes[kMaxRank];
             const int rank = call.list_size(3);
             if (rank > kMaxRank) call.fail(kShape, "%d axes are more than %d", rank, kMaxRank);
             for (int i = 0; i < rank; ++i) whole[i] = call.item(3, i);
             const TensorView out = make_view(call.in(0).dtype, whole, rank);
             box(call, out, sizes);
             const TensorView expected = make_view(out.dtype, sizes, rank);
             if (expected.numel != call.in(0).numel) {
               call.fail(kShape, "grad has shape %s, needs %s", shape_text(call.in(0)).c_str(), shape_text(expected).c_str());
             }
             call.output_like(out);
           },
       .cost = io_cost<0>,
       .zero_outputs = true})

LF_OP({.name = "write_slice",
       .inputs = {{.name = "target", .mutated = true}, {"source"}},
       .attrs = {{"start", AttrType::kIntegers}},
       .shape =
           [](OpCall& call) {
             const TensorView &target = call.in(0), &source = call.in(1);
             call.check_same_dtype(0, 1);
             if (target.rank != source.rank || call.list_size(0) != target.rank) {
               call.fail(kShape, "target %s, source %s and %d starts must have as many axes", shape_text(target).c_str(),
                         shape_text(source).c_str(), call.list_size(0));
             }
             for (int i = 0; i < target.rank; ++i) {
               if (call.item(0, i) >= 0 && call.item(0, i) <= target.shape[i] - source.shape[i]) continue;
               call.fail(kShape, "source %s from %lld on does not fit axis %d of target %s", shape_text(source).c_str(),
                         (long long)call.item(0, i), i, shape_text(target).c_str());
             }
           },
       .cost =
           [](const OpCall& call) {
             Cost cost;
             cost.bytes_read = cost.bytes_written = bytes_of(call.in(1));
             return cost;
           }})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"

namespace lf {
namespace {

// Where a box lies in a whole tensor, in elements.
struct Box {
  int rank;
  int64_t sizes[kMaxRank], strides[kMaxRank], first = 0;

  Box(const TensorView& whole, const TensorView& part, const KernelArgs* args, bool with_steps) : rank(whole.rank) {
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      first += args->item(0, i) * stride;
      strides[i] = stride * (with_steps ? args->item(2, i) : 1);
      sizes[i] = part.shape[i];
      stride *= whole.shape[i];
    }
  }
};

// f(offset in the whole, offset in the part, run): runs of elements that are contiguous in both.
template <class F>
void for_runs(const Box& box, int64_t numel, F&& f) {
  if (numel == 0) return;
  const int last = box.rank - 1;
  const bool dense = box.rank == 0 || box.strides[last] == 1;
  const int64_t run = box.rank == 0 ? 1 : dense ? box.sizes[last] : 1;
  cpu::parallel_for(numel / run, 16384 / run + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t rest = r, at = box.first;
      for (int i = dense ? last - 1 : last; i >= 0; --i) {
        at += rest % box.sizes[i] * box.strides[i];
        rest /= box.sizes[i];
      }
      f(at, r * run, run);
    }
  });
}

LF_INLINE char* at(const TensorView& view, int64_t element) {
  return view.as<char>() + element * dtype_size(view.dtype);
}

// Copies between a whole tensor and its part; `into_whole` says which way.
void copy_box(const Box& box, const TensorView& whole, const TensorView& part, bool into_whole) {
  const int64_t size = dtype_size(part.dtype);
  for_runs(box, part.numel, [&](int64_t in_whole, int64_t in_part, int64_t run) {
    char *a = at(whole, in_whole), *b = at(part, in_part);
    __builtin_memcpy(into_whole ? a : b, into_whole ? b : a, static_cast<size_t>(run * size));
  });
}

int32_t slice(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  copy_box(Box(x, out, args, true), x, out, false);
  return kOk;
}

int32_t slice_backward(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  TensorView grad = args->inputs[0];
  grad.rank = out.rank;
  for (int i = 0; i < out.rank; ++i) {
    const int64_t span = args->item(1, i) - args->item(0, i);
    grad.shape[i] = span == 0 ? 0 : (span - 1) / args->item(2, i) + 1;
  }
  copy_box(Box(out, grad, args, true), out, grad, true);
  return kOk;
}

int32_t write_slice(const KernelArgs* args) {
  const TensorView &target = args->inputs[0], &source = args->inputs[1];
  copy_box(Box(target, source, args, false), target, source, true);
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(slice, slice)
LF_CPU_KERNEL(slice_backward, slice_backward)
LF_CPU_KERNEL(write_slice, write_slice)

}  // namespace lf
#endif
