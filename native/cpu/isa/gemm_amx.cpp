// bf16 products with AMX: an instruction multiplies a tile of 16 rows by 32 numbers of k with 32 numbers of k by 16 columns.
// The register tile is two by two of them, for which 4 KB are loaded for 64 cycles of sums.
#include "cpu/gemm_registry.h"
#include "cpu/isa/gemm_pairs.inl"
#include "cpu/isa/tiles.h"

namespace lf {
namespace {

struct Tiles : Pairs {
  using Registers = TileRegisters;
  static constexpr bool kTiles = true;
  static constexpr int kMR = 2 * kAmxRows, kUnitsAnAsk = 4;
  static constexpr int64_t kKC = 384, kTaskBytes = int64_t{768} << 10;  // of an L2 cache of 2 MB

  // 16 pairs, of which `left` numbers are there.
  static LF_INLINE Vf read_pairs(const bf16* p, int64_t left) {
    return left > 0 ? reinterpret_cast<Vf>(load_dot(p, min64(left, kDot))) : Vf{};
  }
  // A pair of each of 16 columns, of which `count` are there.
  static LF_INLINE Vf read_pairs_across(const bf16* rows, int64_t ld, int64_t left, int64_t count) {
    count = max64(count, 0);
    const __m256i low = left > 0 ? load_bits(rows, count) : _mm256_setzero_si256();
    const __m256i high = left > 1 ? load_bits(rows + ld, count) : _mm256_setzero_si256();
    return reinterpret_cast<Vf>(interleave(low, high));
  }

  template <bool kRowPanel, int kRows, class C>
  static LF_INLINE void multiply(int64_t units, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld, C* out,
                                 int64_t ld, Ahead& ahead_of) {
    static_assert(kRowPanel);
    constexpr bool kTwo = kRows == kMR;
    TileRegisters::tile_fence();
    if (start) {
      _tile_loadd(0, start, start_ld * 4);
      _tile_loadd(1, start + kVf, start_ld * 4);
      if constexpr (kTwo) {
        _tile_loadd(2, start + kAmxRows * start_ld, start_ld * 4);
        _tile_loadd(3, start + kAmxRows * start_ld + kVf, start_ld * 4);
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    constexpr int64_t kLower = kAmxRows * kRowStride<Tiles>;
    Ahead ahead = ahead_of;
    for (int64_t u = 0; u < units; u += kVf) {
      _tile_loadd(6, b + u * kNR, kAmxBytes);
      _tile_loadd(4, a + u * kVf, kAmxBytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + u * kNR + kAmxRows * kVf, kAmxBytes);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTwo) {
        _tile_loadd(5, a + kLower + u * kVf, kAmxBytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      for (int i = 0; i < kVf / kUnitsAnAsk; ++i) ahead.ask();
    }
    ahead_of = ahead;
    if constexpr (sizeof(C) == 4) {
      store_sums<kTwo>(out, ld);
    } else {
      alignas(64) float sums[kRows * kNR];
      store_sums<kTwo>(sums, kNR);
      for (int i = 0; i < kRows; ++i) store_two(out + i * ld, load(sums + i * kNR), load(sums + i * kNR + kLanes));
    }
  }

  template <bool kTwo>
  static LF_INLINE void store_sums(float* out, int64_t ld) {
    _tile_stored(0, out, ld * 4);
    _tile_stored(1, out + kVf, ld * 4);
    if constexpr (kTwo) {
      _tile_stored(2, out + kAmxRows * ld, ld * 4);
      _tile_stored(3, out + kAmxRows * ld + kVf, ld * 4);
    }
    TileRegisters::tile_fence();
  }
};

struct Register {
  Register() { cpu::register_gemm(cpu::Bf16Unit::kTiles, run_gemm<Tiles>); }
} const registered;

}  // namespace
}  // namespace lf
