// The same with tiles: 16 x 16 sums of 32 products an instruction.
#include "cpu/isa/tiles.h"
#include "cpu/peak.h"

namespace lf {
namespace {

constexpr int kChains = 4;

void multiply_adds(int64_t rounds, float* sink) {
  const TileRegisters registers;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  alignas(64) float sums[kAmxRows * kVf];
  _tile_stored(0, sums, kAmxBytes);
  TileRegisters::tile_fence();
  store(sink, load(sums));
}

struct Register {
  Register() { cpu::register_peak(cpu::Bf16Unit::kTiles, kChains * 2 * kAmxRows * kVf * 2 * kVf, multiply_adds); }
} const registered;

}  // namespace
}  // namespace lf
