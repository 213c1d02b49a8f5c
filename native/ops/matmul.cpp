// matmul: C = op(A) op(B), with what neural networks do around it done while C is still in cache:
//   C = activation(A B + bias) + residual, or C = (A B) * activation'(grad_input), or C += A B.
// With save_activated_input the second form also gives activation(grad_input), which then nobody has to keep.
// a [..., m, k] (or [..., k, m]), b [..., k, n] (or [..., n, k]); leading axes are a batch, equal on both sides or of
// size 1 on one; with a two-axis b and a not transposed they simply belong to m. Bound by FLOPs: 2 m n k per batch entry.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

enum Input { kA, kB, kBias, kResidual, kGradInput, kInto, kRowSumsInto };
enum Attr { kTransposeA, kTransposeB, kActivation, kGradActivation, kSavePreActivation, kSaveActivatedInput, kRowSums, kOutDType };

constexpr const char* kActivations = "none|gelu|gelu_exact|silu|relu";

void shape(OpCall& call) {
  call.check_rank(kA, 2);
  call.check_rank(kB, 2);
  call.check_floating(kA);
  call.check_same_dtype(kA, kB);
  const TensorView &a = call.in(kA), &b = call.in(kB);
  const bool ta = call.flag(kTransposeA), tb = call.flag(kTransposeB);
  const int64_t m = a.dim(ta ? -1 : -2), k = a.dim(ta ? -2 : -1), n = b.dim(tb ? -2 : -1);
  const int64_t kb = b.dim(tb ? -1 : -2);
  if (k != kb) {
    call.fail(kShape, "%lld columns of %s%s meet %lld rows of %s%s", (long long)k, shape_text(a).c_str(),
              ta ? " (transposed)" : "", (long long)kb, shape_text(b).c_str(), tb ? " (transposed)" : "");
  }
  const DType out = call.dtype(kOutDType);
  if (out != a.dtype && out != DType::kF32) {
    call.fail(kDType, "the result of %s inputs can be %s or f32, not %s", dtype_name(a.dtype), dtype_name(a.dtype),
              dtype_name(out));
  }
  if (out != a.dtype && a.dtype == DType::kF64) call.fail(kDType, "the result of f64 inputs is f64");
  const int64_t batch_a = a.span(0, a.rank - 2), batch_b = b.span(0, b.rank - 2);
  const TensorView& leading = batch_a >= batch_b && a.rank >= b.rank ? a : b;
  if (batch_a != batch_b && batch_a != 1 && batch_b != 1) {
    call.fail(kShape, "the leading axes of %s and %s differ", shape_text(a).c_str(), shape_text(b).c_str());
  }
  int64_t sizes[kMaxRank];
  for (int i = 0; i < leading.rank - 2; ++i) sizes[i] = leading.shape[i];
  sizes[leading.rank - 2] = m;
  sizes[leading.rank - 1] = n;
  const TensorView c = make_view(out, sizes, leading.rank);
  auto check_like_c = [&](int i) {
    if (!call.has(i)) return;
    const TensorView& given = call.in(i);
    if (given.numel != c.numel || given.dim(-1) != n || given.dtype != out) {
      call.fail(kShape, "%s is %s, needs %s", call.op->inputs[static_cast<size_t>(i)].name, view_text(given).c_str(),
                view_text(c).c_str());
    }
  };
  check_like_c(kResidual);
  check_like_c(kGradInput);
  check_like_c(kInto);
  if (call.has(kBias) && (call.in(kBias).rank != 1 || call.in(kBias).numel != n)) {
    call.fail(kShape, "bias has shape %s, needs [%lld]", shape_text(call.in(kBias)).c_str(), (long long)n);
  }
  if (call.has(kInto) && (call.has(kBias) || call.has(kResidual) || call.integer(kActivation))) {
    call.fail(kArgument, "'into' adds the bare product; it excludes bias, residual and activation");
  }
  if (call.has(kGradInput) != (call.integer(kGradActivation) != 0)) {
    call.fail(kArgument, "grad_input and grad_activation come together or not at all");
  }
  if (call.flag(kSaveActivatedInput) && !call.has(kGradInput)) call.fail(kArgument, "save_activated_input needs a grad_input");
  if (!call.has(kInto)) call.output_like(c);
  if (call.flag(kSavePreActivation)) call.output_like(c);
  if (call.flag(kSaveActivatedInput)) call.output_like(c);
  if (call.flag(kRowSums)) {
    if (batch_a != 1) call.fail(kArgument, "row sums need an a without batch axes, got %s", shape_text(a).c_str());
    const DType sums = a.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    if (call.has(kInto) != call.has(kRowSumsInto)) {
      call.fail(kArgument, "with row sums, 'into' and 'row_sums_into' come together or not at all");
    }
    if (!call.has(kRowSumsInto)) {
      call.output(sums, {m});
    } else if (call.in(kRowSumsInto).numel != m || call.in(kRowSumsInto).dtype != sums) {
      call.fail(kShape, "row_sums_into is %s, needs %s [%lld]", view_text(call.in(kRowSumsInto)).c_str(),
                dtype_name(sums), (long long)m);
    }
  }
}

Cost cost(const OpCall& call) {
  const TensorView& a = call.in(kA);
  const double k = static_cast<double>(a.dim(call.flag(kTransposeA) ? -2 : -1));
  const TensorView& c = call.has(kInto) ? call.in(kInto) : call.outputs[0];
  Cost cost = io_cost_with_flops(call, 2.0 * k * static_cast<double>(c.numel));
  if (call.has(kInto)) cost.bytes_written += bytes_of(c);
  return cost;
}

LF_OP({.name = "matmul",
       .inputs = {{"a"},
                  {"b"},
                  {.name = "bias", .optional = true},
                  {.name = "residual", .optional = true},
                  {.name = "grad_input", .optional = true},
                  {.name = "into", .optional = true, .mutated = true},
                  {.name = "row_sums_into", .optional = true, .mutated = true}},
       .attrs = {{"transpose_a", AttrType::kFlag},
                 {"transpose_b", AttrType::kFlag},
                 {"activation", AttrType::kChoice, kActivations},
                 {"grad_activation", AttrType::kChoice, kActivations},
                 {"save_pre_activation", AttrType::kFlag},
                 {"save_activated_input", AttrType::kFlag},
                 {"row_sums", AttrType::kFlag},
                 {"out_dtype", AttrType::kDType}},
       .shape = shape,
       .cost = cost})

}  // namespace
}  // namespace lf
#else
#include "cpu/gemm.h"
#include "cpu/kernel.h"

namespace lf {
namespace {

int32_t matmul(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &bias = args->inputs[2], &residual = args->inputs[3];
  const TensorView &grad_input = args->inputs[4], &into = args->inputs[5], &sums_into = args->inputs[6];
  cpu::Gemm gemm;
  gemm.trans_a = args->flag(0);
  gemm.trans_b = args->flag(1);
  gemm.m = a.dim(gemm.trans_a ? -1 : -2);
  gemm.k = a.dim(gemm.trans_a ? -2 : -1);
  gemm.n = b.dim(gemm.trans_b ? -2 : -1);
  int64_t batch_a = a.span(0, a.rank - 2);
  const int64_t batch_b = b.span(0, b.rank - 2);
  if (batch_b == 1 && !gemm.trans_a) {
    gemm.m *= batch_a;
    batch_a = 1;
  }
  gemm.batch = batch_a > batch_b ? batch_a : batch_b;
  gemm.stride_a = batch_a > 1 ? gemm.m * gemm.k : 0;
  gemm.stride_b = batch_b > 1 ? gemm.n * gemm.k : 0;
  gemm.stride_c = gemm.m * gemm.n;
  gemm.lda = gemm.trans_a ? gemm.m : gemm.k;
  gemm.ldb = gemm.trans_b ? gemm.k : gemm.n;
  gemm.ldc = gemm.n;
  gemm.a = a.data;
  gemm.b = b.data;
  gemm.dtype_ab = a.dtype;
  int output = 0;
  const TensorView& c = into.present() ? into : args->outputs[output++];
  gemm.c = c.data;
  gemm.dtype_c = c.dtype;
  gemm.accumulate = into.present();
  if (bias.present()) {
    gemm.epilogue.bias = bias.data;
    gemm.epilogue.bias_dtype = bias.dtype;
  }
  gemm.epilogue.activation = static_cast<cpu::Activation>(args->integer(2));
  gemm.epilogue.grad_activation = static_cast<cpu::Activation>(args->integer(3));
  if (grad_input.present()) gemm.epilogue.grad_input = grad_input.data;
  if (residual.present()) gemm.epilogue.residual = residual.data;
  if (args->flag(4)) gemm.epilogue.pre_activation = args->outputs[output++].data;
  if (args->flag(5)) gemm.epilogue.activated_input = args->outputs[output++].data;
  if (args->flag(6)) gemm.row_sums_a = sums_into.present() ? sums_into.data : args->outputs[output].data;
  cpu::gemm(gemm);
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(matmul, matmul)

}  // namespace lf
#endif
