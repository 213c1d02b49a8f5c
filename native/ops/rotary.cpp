// rotary: turns pairs of numbers (a, b) of each head by the angle position * base^(-2 j / width), pair j:
//   (a cos - b sin, a sin + b cos). Pairs are (j, j + width / 2), or neighbours (2 j, 2 j + 1) when interleaved.
// x is [batch, tokens, heads, width], or packed [batch, tokens, (heads + 2 kv_heads) * width] where queries and keys turn and
// values are copied. The gradient is the turn by the opposite angle. Bound by bytes. Source: Su et al., arXiv 2104.09864.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

struct Sizes {
  int64_t tokens, heads, width;
};

Sizes sizes(const OpCall& call) {
  const TensorView& x = call.in(0);
  const int64_t heads = call.integer(0), kv_heads = call.integer(1);
  if (heads == 0) return {x.shape[1], x.shape[2], x.shape[3]};
  const int64_t parts = heads + 2 * kv_heads;
  return {x.shape[1], parts, x.shape[2] / parts};
}

LF_OP({.name = "rotary",
       .inputs = {{"x"}, {.name = "positions", .optional = true}},
       .attrs = {{"heads", AttrType::kInteger},
                 {"kv_heads", AttrType::kInteger},
                 {"base", AttrType::kNumber},
                 {"interleaved", AttrType::kFlag},
                 {"offset", AttrType::kInteger},
                 {"inverse", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             call.check_floating(0);
             const TensorView& x = call.in(0);
             if (call.integer(0) == 0) {
               call.check_rank(0, 4, 4);
             } else {
               call.check_rank(0, 3, 3);
               const int64_t parts = call.integer(0) + 2 * call.integer(1);
               if (parts <= 0 || x.shape[2] % parts) {
                 call.fail(kShape, "x has shape %s; its last axis must be a multiple of heads + 2 kv_heads = %lld",
                           shape_text(x).c_str(), (long long)parts);
               }
             }
             if (sizes(call).width % 2) call.fail(kShape, "the width per head must be even, got %lld", (long long)sizes(call).width);
             if (!(call.number(2) > 0)) call.fail(kArgument, "base must be above 0, got %g", call.number(2));
             if (call.has(1)) {
               call.check_dtype(1, DType::kI32);
               if (call.in(1).numel != x.shape[0] * x.shape[1]) {
                 call.fail(kShape, "positions have shape %s for x of shape %s; needs [batch, tokens]",
                           shape_text(call.in(1)).c_str(), shape_text(x).c_str());
               }
             }
             call.output_like(x);
           },
       .cost = io_cost<3>,
       // cos and sin for every place and pair, in f64
       .workspace =
           [](const OpCall& call) {
             const int64_t places = call.has(1) ? call.in(1).numel : call.in(0).shape[1];
             return places * sizes(call).width * int64_t{8} + 64;
           }})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"

namespace lf {
namespace {

template <class T>
int32_t turn(const KernelArgs* args) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView &x = args->inputs[0], &positions = args->inputs[1];
  const bool packed = args->integer(0) != 0, interleaved = args->flag(3);
  const int64_t batch = x.shape[0], tokens = x.shape[1];
  const int64_t kv_heads = packed ? args->integer(1) : 0;
  const int64_t heads = packed ? args->integer(0) + 2 * kv_heads : x.shape[2];
  const int64_t width = packed ? x.shape[2] / heads : x.shape[3], half = width / 2;
  const int64_t turned = heads - kv_heads;  // the last kv_heads are values
  const double direction = args->flag(5) ? -1 : 1;
  double* table = static_cast<double*>(args->workspace);
  const int64_t places = positions.present() ? positions.numel : tokens;
  double* frequencies = static_cast<double*>(cpu::scratch(3, static_cast<size_t>(half + 1) * 8));
  for (int64_t j = 0; j < half; ++j) {
    frequencies[j] = __builtin_pow(args->number(2), -2.0 * static_cast<double>(j) / static_cast<double>(width));
  }
  cpu::parallel_for(places, 16, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = positions.present() ? positions.as<const int32_t>()[p] : p + args->integer(4);
      for (int64_t j = 0; j < half; ++j) {
        const double angle = direction * static_cast<double>(at) * frequencies[j];
        table[(p * half + j) * 2] = __builtin_cos(angle);
        table[(p * half + j) * 2 + 1] = __builtin_sin(angle);
      }
    }
  });
  cpu::parallel_for(batch * tokens, 32768 / (heads * width + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const double* angles = table + (positions.present() ? t : t % tokens) * half * 2;
      const T* from = x.as<const T>() + t * heads * width;
      T* to = args->outputs[0].as<T>() + t * heads * width;
      for (int64_t h = 0; h < turned; ++h, from += width, to += width) {
        for (int64_t j = 0; j < half; ++j) {
          const int64_t first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + half;
          const Acc c = static_cast<Acc>(angles[2 * j]), s = static_cast<Acc>(angles[2 * j + 1]);
          const Acc a = get(from + first), b = get(from + second);
          put(to + first, a * c - b * s);
          put(to + second, a * s + b * c);
        }
      }
      __builtin_memcpy(to, from, static_cast<size_t>(kv_heads * width) * sizeof(T));
    }
  });
  return kOk;
}

int32_t rotary(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return turn<float>(args);
    case DType::kF16: return turn<f16>(args);
    case DType::kBF16: return turn<bf16>(args);
    default: return turn<double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(rotary, rotary)

}  // namespace lf
#endif
