// adamw_8bit: AdamW whose moments are u8 codes with one f32 scale (the largest absolute value) a block of `block` elements,
// decoded, updated in f32 and coded again in one pass. quantize_blocks and dequantize_blocks are the coding on its own.
// Inputs: clip, then `count` each of parameters, gradients, codes and scales of m, codes and scales of v, and maybe copies.
// An element whose gradient is not finite keeps its value and moments. Blocks do not straddle tensors. Bound by the search
// for codes, 2 a parameter. Source: Dettmers et al., arXiv 2110.02861.
#include "api/dynamic_map.h"
#include "ops/optimizer_group.h"

#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

int64_t blocks_of(int64_t numel, int64_t block) { return (numel + block - 1) / block; }

void check_block(const OpCall& call, int64_t block) {
  if (block < 1 || block > kChunk) call.fail(kArgument, "block is %lld, needs 1 to %lld", (long long)block, (long long)kChunk);
}

void check_coded(const OpCall& call, int64_t numel, int64_t block, int codes, int scales) {
  if (call.in(codes).dtype != DType::kU8 || call.in(codes).numel != numel) {
    call.fail(kShape, "codes are %s, needs %lld of u8", view_text(call.in(codes)).c_str(), (long long)numel);
  }
  if (call.in(scales).dtype != DType::kF32 || call.in(scales).numel != blocks_of(numel, block)) {
    call.fail(kShape, "scales are %s, needs %lld of f32", view_text(call.in(scales)).c_str(), (long long)blocks_of(numel, block));
  }
}

LF_OP({.name = "adamw_8bit",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger},
                 {"lr", AttrType::kNumber},
                 {"beta1", AttrType::kNumber},
                 {"beta2", AttrType::kNumber},
                 {"eps", AttrType::kNumber},
                 {"weight_decay", AttrType::kNumber},
                 {"block", AttrType::kInteger},
                 {"step", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             const int64_t count = call.integer(0), given = call.num_inputs - 1;
             if (given != 6 * count && given != 7 * count) {
               call.fail(kArgument, "%lld tensors for %lld parameters; needs 6 each and maybe copies", (long long)given, (long long)count);
             }
             check_block(call, call.integer(6));
             for (int64_t i = 0; i < count; ++i) {
               const auto at = [&](int64_t part) { return static_cast<int>(1 + part * count + i); };
               for (int part = 0; part < 2; ++part) call.check_dtype(at(part), DType::kF32);
               if (call.in(at(0)).numel != call.in(at(1)).numel) call.check_same_shape(at(0), at(1));
               for (int part = 2; part < 6; part += 2) {
                 check_coded(call, call.in(at(0)).numel, call.integer(6), at(part), at(part + 1));
               }
               if (given == 7 * count && call.has(at(6)) && call.in(at(6)).numel != call.in(at(0)).numel) {
                 call.check_same_shape(at(0), at(6));
               }
             }
           },
       .cost =
           [](const OpCall& call) {
             Cost cost;
             const int64_t count = call.integer(0);
             for (int64_t i = 1; i < call.num_inputs; ++i) {
               const int64_t part = (i - 1) / (count ? count : 1);
               if (part < 6) cost.bytes_read += bytes_of(call.in(static_cast<int>(i)));
               if (part != 1) cost.bytes_written += bytes_of(call.in(static_cast<int>(i)));
               if (part == 0) cost.flops += 35 * static_cast<double>(call.in(static_cast<int>(i)).numel);
             }
             return cost;
           },
       .workspace = [](const OpCall&) { return 2 * kCodes * int64_t{4}; }})

LF_OP({.name = "quantize_blocks",
       .inputs = {{"x"}},
       .attrs = {{"block", AttrType::kInteger}, {"with_sign", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kF32);
             check_block(call, call.integer(0));
             call.output_like(call.in(0), DType::kU8);
             call.output(DType::kF32, {blocks_of(call.in(0).numel, call.integer(0))});
           },
       .cost = io_cost<10>,
       .workspace = [](const OpCall&) { return 2 * kCodes * int64_t{4}; }})

LF_OP({.name = "dequantize_blocks",
       .inputs = {{"codes"}, {"scales"}},
       .attrs = {{"block", AttrType::kInteger}, {"with_sign", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             check_block(call, call.integer(0));
             check_coded(call, call.in(0).numel, call.integer(0), 0, 1);
             call.output_like(call.in(0), DType::kF32);
           },
       .cost = io_cost<1>,
       .workspace = [](const OpCall&) { return 2 * kCodes * int64_t{4}; }})

}  // namespace
}  // namespace lf
#else

namespace lf {
namespace {

int64_t whole(int64_t n, int64_t part) { return (n + part - 1) / part; }

// Codes `values` [n] in place of `codes`, returns the scale; a block of zeros has scale 0.
float encode_block(const float* map, const float* values, int64_t n, uint8_t* codes) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float size = __builtin_fabsf(values[i]);
    if (size > largest) largest = size;
  }
  const float inverse = largest > 0 ? 1 / largest : 0;
  for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(nearest_code(map, values[i] * inverse));
  return largest;
}

int32_t adamw_8bit(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  const int64_t count = args->integer(0), block = args->integer(6);
  if (clip.skip || count == 0) return kOk;
  const TensorView* tensors = args->inputs + 1;
  const bool with_copies = args->num_inputs - 1 == 7 * count;
  float* maps = static_cast<float*>(args->workspace);
  dynamic_map(true, maps);
  dynamic_map(false, maps + kCodes);
  const double lr = args->number(1), beta1 = args->number(2), beta2 = args->number(3), step = args->number(7);
  const float decay = static_cast<float>(1 - lr * args->number(5)), rest1 = static_cast<float>(1 - beta1);
  const float b2 = static_cast<float>(beta2), rest2 = static_cast<float>(1 - beta2), eps = static_cast<float>(args->number(4));
  const float size = static_cast<float>(lr / (1 - __builtin_pow(beta1, step)));
  const float root = static_cast<float>(__builtin_sqrt(1 - __builtin_pow(beta2, step)));
  const float factor = static_cast<float>(clip.multiplier);
  for (int64_t i = 0; i < count; ++i) {
    const auto part = [&](int64_t k) -> const TensorView& { return tensors[k * count + i]; };
    const int64_t numel = part(0).numel;
    cpu::parallel_for(whole(numel, block), whole(4096, block), [&](int64_t begin, int64_t end) {
      float* m = static_cast<float*>(cpu::scratch(2, static_cast<size_t>(2 * block) * 4));
      float* v = m + block;
      for (int64_t b = begin; b < end; ++b) {
        const int64_t from = b * block, n = (from + block < numel ? block : numel - from);
        float* p = part(0).as<float>() + from;
        const float* grad = part(1).as<const float>() + from;
        uint8_t *m_codes = part(2).as<uint8_t>() + from, *v_codes = part(4).as<uint8_t>() + from;
        float *m_scale = part(3).as<float>() + b, *v_scale = part(5).as<float>() + b;
        for (int64_t k = 0; k < n; ++k) {
          m[k] = maps[m_codes[k]] * *m_scale;
          v[k] = maps[kCodes + v_codes[k]] * *v_scale;
          const float d = grad[k] * factor;
          if (!(d - d == 0)) continue;
          m[k] += (d - m[k]) * rest1;
          v[k] = v[k] * b2 + d * d * rest2;
          p[k] = p[k] * decay - size * (m[k] / (__builtin_sqrtf(v[k]) / root + eps));
        }
        *m_scale = encode_block(maps, m, n, m_codes);
        *v_scale = encode_block(maps + kCodes, v, n, v_codes);
        if (with_copies && part(6).present()) {
          for_lanes<float>(n, [&](int64_t k, int64_t some) { store_copy<float>(&part(6), from + k, load_some(p + k, some), some); });
        }
      }
    });
  }
  return kOk;
}

int32_t quantize_blocks(const KernelArgs* args) {
  float* map = static_cast<float*>(args->workspace);
  dynamic_map(args->flag(1), map);
  const TensorView& x = args->inputs[0];
  const int64_t block = args->integer(0);
  cpu::parallel_for(whole(x.numel, block), whole(4096, block), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t from = b * block, n = from + block < x.numel ? block : x.numel - from;
      args->outputs[1].as<float>()[b] = encode_block(map, x.as<const float>() + from, n, args->outputs[0].as<uint8_t>() + from);
    }
  });
  return kOk;
}

int32_t dequantize_blocks(const KernelArgs* args) {
  float* map = static_cast<float*>(args->workspace);
  dynamic_map(args->flag(1), map);
  const int64_t block = args->integer(0);
  const uint8_t* codes = args->inputs[0].as<const uint8_t>();
  const float* scales = args->inputs[1].as<const float>();
  float* out = args->outputs[0].as<float>();
  cpu::parallel_for(args->inputs[0].numel, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = map[codes[i]] * scales[i / block];
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(adamw_8bit, adamw_8bit)
LF_CPU_KERNEL(quantize_blocks, quantize_blocks)
LF_CPU_KERNEL(dequantize_blocks, dequantize_blocks)

}  // namespace lf
#endif
