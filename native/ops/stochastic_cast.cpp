// stochastic_cast: f32 to bf16, up or down with the probability that makes the mean right: a random 16-bit number is added to
// the bits and the low half is cut off. Numbers that bf16 holds stay; NaN stays NaN. Element e takes the low (e even) or high
// half of word (e / 2) % 4 of Philox block e / 8 (api/philox.h), so every device draws the same. Bound by Philox.
// Source: Zamirai et al., arXiv 2010.06192.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "stochastic_cast",
       .inputs = {{"x"}},
       .attrs = {{"seed", AttrType::kInteger}, {"offset", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kF32);
             call.output_like(call.in(0), DType::kBF16);
           },
       .cost = io_cost<1>})

}  // namespace
}  // namespace lf
#else
#include "api/philox.h"
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kBlocks = 64;  // Philox blocks at a time; a loop over them that the compiler turns into vectors

int32_t stochastic_cast(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  const PhiloxKey key = philox_key(args->integer(0), args->integer(1));
  const float* from = x.as<const float>();
  bf16* to = args->outputs[0].as<bf16>();
  cpu::parallel_for(x.numel, 8 * kBlocks * 16, [=](int64_t begin, int64_t end) {
    uint32_t words[4][kBlocks];
    uint32_t noise[8 * kBlocks];
    for (int64_t first = begin; first < end; first += 8 * kBlocks) {
      const int64_t count = end - first < 8 * kBlocks ? end - first : 8 * kBlocks;
      for (int64_t b = 0; b < kBlocks; ++b) {
        uint32_t block[4];
        philox(key, static_cast<uint64_t>(first / 8 + b), block);
        for (int w = 0; w < 4; ++w) words[w][b] = block[w];
      }
      for (int64_t b = 0; b < kBlocks; ++b) {
        for (int w = 0; w < 4; ++w) {
          noise[8 * b + 2 * w] = words[w][b] & 0xffff;
          noise[8 * b + 2 * w + 1] = words[w][b] >> 16;
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = float_bits(from[first + i]);
        const uint32_t nan = (bits >> 16) | 0x40, sum = (bits + noise[i]) >> 16;
        to[first + i] = {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : sum)};
      }
    }
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(stochastic_cast, stochastic_cast)

}  // namespace lf
#endif
