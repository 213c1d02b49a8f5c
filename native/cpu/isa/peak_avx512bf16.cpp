// The same with vdpbf16ps: four FLOPs a lane.
#include "cpu/peak.h"
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int kChains = 24;

void multiply_adds(int64_t rounds, float* sink) {
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3c003c00));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
  }
  __m512 total = _mm512_setzero_ps();
  for (int i = 0; i < kChains; ++i) total = _mm512_add_ps(total, sums[i]);
  _mm512_storeu_ps(sink, total);
}

struct Register {
  Register() { cpu::register_peak(cpu::Bf16Unit::kPairs, 4 * kChains * kVf, multiply_adds); }
} const registered;

}  // namespace
}  // namespace lf
