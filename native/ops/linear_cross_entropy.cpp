// linear_cross_entropy: the head of a language model and its loss in one operator that never holds [tokens, vocab] logits.
//   loss = scale * sum over counted tokens i of  (1 - s) (L_i - z_i[t_i]) + s (L_i - mean_v z_i[v]),
//   z = x W^T (+ bias), L_i = log sum exp z_i, s = label smoothing. Tokens with target `ignore_index` do not count.
// It walks the tokens in chunks of about kChunkBytes of logits, or kChunkRows tokens if these are more. With gradients, dx and dW come out of the same walk, so
// backward costs nothing more: d z = scale (softmax(z) - (1 - s) onehot - s / V), dx = dz W, dW = dz^T x.
// Bound by FLOPs: 2 N V C for the loss, three times that with gradients.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

constexpr int64_t kChunkBytes = int64_t{8} << 20;
constexpr int64_t kChunkRows = 256;  // at least: fewer would spend their time on packing the weight again and again

int64_t workspace(const OpCall& call) {
  const TensorView &x = call.in(0), &weight = call.in(1);
  const int64_t vocab = weight.shape[0], acc = x.dtype == DType::kF64 ? 8 : 4;
  int64_t rows = kChunkBytes / (vocab * acc + 1);
  rows = rows < kChunkRows ? kChunkRows : rows;
  rows = rows > x.shape[0] ? x.shape[0] : rows;
  const bool narrow = x.dtype == DType::kF16 || x.dtype == DType::kBF16;
  // Logits, and beside 16-bit inputs their gradient in 16 bits.
  return rows * vocab * (acc + (narrow ? 2 : 0)) + 64;
}

LF_OP({.name = "linear_cross_entropy",
       .inputs = {{"x"}, {"weight"}, {"targets"}, {.name = "bias", .optional = true}},
       .attrs = {{"ignore_index", AttrType::kInteger},
                 {"label_smoothing", AttrType::kNumber},
                 {"scale", AttrType::kNumber},
                 {"with_gradients", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             call.check_rank(0, 2, 2);
             call.check_rank(1, 2, 2);
             call.check_rank(2, 1, 1);
             call.check_floating(0);
             call.check_same_dtype(0, 1);
             call.check_dtype(2, DType::kI32);
             const TensorView &x = call.in(0), &weight = call.in(1);
             if (x.shape[1] != weight.shape[1]) {
               call.fail(kShape, "x has shape %s and weight %s; their last axes must be equal", shape_text(x).c_str(),
                         shape_text(weight).c_str());
             }
             if (call.in(2).numel != x.shape[0]) {
               call.fail(kShape, "%lld targets for %lld tokens", (long long)call.in(2).numel, (long long)x.shape[0]);
             }
             if (!(call.number(1) >= 0 && call.number(1) < 1)) {
               call.fail(kArgument, "label smoothing must be at least 0 and below 1, got %g", call.number(1));
             }
             const DType acc = x.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
             if (call.has(3)) {
               call.check_rank(3, 1, 1);
               call.check_floating(3);
               if (call.in(3).numel != weight.shape[0] || (call.in(3).dtype == DType::kF64) != (acc == DType::kF64)) {
                 call.fail(kShape, "bias is %s beside a weight %s", view_text(call.in(3)).c_str(), view_text(weight).c_str());
               }
             }
             call.output(acc, {});
             call.output(acc, {x.shape[0]});
             if (call.flag(3)) {
               call.output_like(x);
               call.output_like(weight, acc);
               if (call.has(3)) call.output(acc, {weight.shape[0]});
             }
           },
       .cost =
           [](const OpCall& call) {
             const double product = 2.0 * static_cast<double>(call.in(0).numel) * static_cast<double>(call.in(1).shape[0]);
             return io_cost_with_flops(call, product * (call.flag(3) ? 3 : 1));
           },
       .workspace = workspace})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/gemm.h"
#include "cpu/simd.h"

namespace lf {
namespace {

// Loss of one row of logits; with gradients the row becomes d loss / d logits times `scale`, as Out.
template <class Acc, class Out>
Acc finish_row(Acc* z, Out* grad, int64_t vocab, int64_t target, double smoothing, double scale) {
  using V = typename Lanes<Acc>::V;
  V best = constant<V>(-__builtin_inf());
  for_lanes<Acc>(vocab, [&](int64_t i, int64_t n) {
    V v = load_some(z + i, n);
    for (int64_t k = n; k < Lanes<Acc>::n; ++k) v[k] = static_cast<Acc>(-__builtin_inf());
    best = max(best, v);
  });
  const Acc highest = reduce_max(best);
  V exps{}, total{};
  for_lanes<Acc>(vocab, [&](int64_t i, int64_t n) {
    const V v = load_some(z + i, n);
    V e = exp(v - highest);
    for (int64_t k = n; k < Lanes<Acc>::n; ++k) e[k] = 0;
    exps += e;
    total += v;
  });
  const Acc sum = reduce_add(exps);
  const Acc log_sum = highest + log(splat(sum))[0];
  const Acc hit = static_cast<Acc>(1 - smoothing), spread = static_cast<Acc>(smoothing);
  Acc loss = hit * (log_sum - z[target]);
  if (smoothing > 0) loss += spread * (log_sum - reduce_add(total) / static_cast<Acc>(vocab));
  if (!grad) return loss;
  const Acc picked = z[target];
  const Acc uniform = spread / static_cast<Acc>(vocab);
  const V factor = constant<V>(scale);
  for_lanes<Acc>(vocab, [&](int64_t i, int64_t n) {
    const V p = exp(load_some(z + i, n) - log_sum);
    store_some(grad + i, (p - uniform) * factor, n);
  });
  const Acc p = exp(splat(picked - log_sum))[0];
  put(grad + target, (p - uniform - hit) * static_cast<Acc>(scale));
  return loss;
}

template <class T, class Acc>
int32_t run(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &weight = args->inputs[1], &bias = args->inputs[3];
  const int32_t* targets = args->inputs[2].as<const int32_t>();
  const int64_t tokens = x.shape[0], width = x.shape[1], vocab = weight.shape[0];
  const int64_t ignored = args->integer(0);
  const double smoothing = args->number(1);
  const bool with_gradients = args->flag(3);
  int64_t counted = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    if (targets[i] == ignored) continue;
    ++counted;
    if (targets[i] < 0 || targets[i] >= vocab) {
      std::snprintf(args->error, kErrorText, "target %d at position %lld is outside the vocabulary of %lld", targets[i],
                    static_cast<long long>(i), static_cast<long long>(vocab));
      return kKernel;
    }
  }
  const double scale = args->number(2) != 0 ? args->number(2) : counted ? 1.0 / static_cast<double>(counted) : 0.0;
  Acc* losses = args->outputs[1].as<Acc>();
  constexpr bool kNarrow = sizeof(T) == 2;
  const int64_t row_bytes = vocab * static_cast<int64_t>(sizeof(Acc) + (kNarrow ? sizeof(T) : 0));
  const int64_t chunk = vocab ? (args->workspace_bytes - 64) / row_bytes : 0;
  Acc* logits = static_cast<Acc*>(args->workspace);
  T* grads = kNarrow ? reinterpret_cast<T*>(logits + chunk * vocab) : reinterpret_cast<T*>(logits);

  cpu::Gemm base;
  base.dtype_ab = x.dtype;
  base.dtype_c = sizeof(Acc) == 8 ? DType::kF64 : DType::kF32;
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = tokens - first < chunk ? tokens - first : chunk;
    const T* x_rows = x.as<const T>() + first * width;
    cpu::Gemm head = base;
    head.m = rows, head.n = vocab, head.k = width;
    head.a = x_rows, head.lda = width;
    head.b = weight.data, head.ldb = width, head.trans_b = true;
    head.c = logits, head.ldc = vocab;
    if (bias.present()) head.epilogue.bias = bias.data, head.epilogue.bias_dtype = bias.dtype;
    cpu::gemm(head);
    cpu::parallel_for(rows, 16384 / vocab + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t target = targets[first + r];
        T* grad = with_gradients ? grads + r * vocab : nullptr;
        if (target == ignored) {
          losses[first + r] = 0;
          if (grad) __builtin_memset(grad, 0, static_cast<size_t>(vocab) * sizeof(T));
        } else {
          losses[first + r] = finish_row(logits + r * vocab, grad, vocab, target, smoothing, scale);
        }
      }
    });
    if (!with_gradients) continue;
    cpu::Gemm dx = base;
    dx.dtype_c = x.dtype;
    dx.m = rows, dx.n = width, dx.k = vocab;
    dx.a = grads, dx.lda = vocab;
    dx.b = weight.data, dx.ldb = width;
    dx.c = args->outputs[2].as<T>() + first * width, dx.ldc = width;
    cpu::gemm(dx);
    cpu::Gemm dw = base;
    dw.m = vocab, dw.n = width, dw.k = rows;
    dw.a = grads, dw.lda = vocab, dw.trans_a = true;
    dw.b = x_rows, dw.ldb = width;
    dw.c = args->outputs[3].data, dw.ldc = width;
    dw.accumulate = first > 0;
    if (bias.present()) dw.row_sums_a = args->outputs[4].data;
    cpu::gemm(dw);
  }
  if (with_gradients && tokens == 0) {
    __builtin_memset(args->outputs[3].data, 0, static_cast<size_t>(vocab * width) * sizeof(Acc));
    if (bias.present()) __builtin_memset(args->outputs[4].data, 0, static_cast<size_t>(vocab) * sizeof(Acc));
  }
  double sum = 0;
  for (int64_t i = 0; i < tokens; ++i) sum += static_cast<double>(losses[i]);
  args->outputs[0].as<Acc>()[0] = static_cast<Acc>(sum * scale);
  return kOk;
}

int32_t linear_cross_entropy(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return run<float, float>(args);
    case DType::kF16: return run<f16, float>(args);
    case DType::kBF16: return run<bf16, float>(args);
    default: return run<double, double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(linear_cross_entropy, linear_cross_entropy)

}  // namespace lf
#endif
