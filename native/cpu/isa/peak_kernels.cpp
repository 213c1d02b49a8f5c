// Multiply-adds on registers alone, as many chains as hide their latency.
#include "cpu/peak.h"
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int kChains = LF_ISA == LF_ISA_AVX512 ? 24 : 12;

void multiply_adds(int64_t rounds, float* sink) {
  Vf sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = splat(static_cast<float>(i));
  const Vf factor = splat(0.999f), term = splat(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + term;
  }
  Vf total{};
  for (int i = 0; i < kChains; ++i) total += sums[i];
  store(sink, total);
}

struct Register {
  Register() { cpu::register_peak(LF_ISA, 2 * kChains * kVf, multiply_adds); }
} const registered;

}  // namespace
}  // namespace lf
