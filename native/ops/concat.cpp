// concat: tensors one after another along an axis. Any dtype; bound by bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "concat",
       .inputs = {{.name = "xs", .variadic = true}},
       .attrs = {{"axis", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             if (call.num_inputs == 0) call.fail(kArgument, "no tensors given, needs at least one");
             const TensorView& first = call.in(0);
             const int axis = call.check_axis(0, first);
             int64_t shape[kMaxRank];
             for (int i = 0; i < first.rank; ++i) shape[i] = first.shape[i];
             for (int k = 1; k < call.num_inputs; ++k) {
               const TensorView& x = call.in(k);
               if (x.dtype != first.dtype) {
                 call.fail_hint(kDType, "cast one of them", "tensor %d is %s and tensor 0 is %s; they must be equal", k,
                                dtype_name(x.dtype), dtype_name(first.dtype));
               }
               bool fits = x.rank == first.rank;
               for (int i = 0; fits && i < x.rank; ++i) fits = i == axis || x.shape[i] == first.shape[i];
               if (!fits) {
                 call.fail(kShape, "tensor %d has shape %s, tensor 0 has %s; only axis %d may differ", k, shape_text(x).c_str(),
                           shape_text(first).c_str(), axis);
               }
               shape[axis] += x.shape[axis];
             }
             call.output(first.dtype, shape, first.rank);
           },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"

namespace lf {
namespace {

constexpr int64_t kPiece = 1 << 16;

int32_t concat(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const int64_t given = args->integer(0), size = dtype_size(out.dtype);
  const int axis = static_cast<int>(given < 0 ? given + out.rank : given);
  const int64_t outer = out.span(0, axis), out_run = out.span(axis, out.rank) * size;
  int64_t first = 0;
  for (int k = 0; k < args->num_inputs; ++k) {
    const TensorView& x = args->inputs[k];
    const int64_t run = x.span(axis, x.rank) * size;
    if (x.numel == 0) continue;
    const int64_t pieces = (run + kPiece - 1) / kPiece;
    cpu::parallel_for(outer * pieces, kPiece / run + 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / pieces, at = task % pieces * kPiece, bytes = run - at < kPiece ? run - at : kPiece;
        __builtin_memcpy(out.as<char>() + row * out_run + first + at, x.as<char>() + row * run + at, static_cast<size_t>(bytes));
      }
    });
    first += run;
  }
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(concat, concat)

}  // namespace lf
#endif
