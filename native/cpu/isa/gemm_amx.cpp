// bf16 products with AMX: an instruction multiplies a tile of 16 rows by 32 numbers of k with 32 numbers of k by 16 columns.
// The register tile is two by two of them, 4 KB loaded for 64 cycles of sums: B's panel comes from the L1 cache, A from L2.
#include "cpu/gemm_registry.h"
#include "cpu/isa/gemm_pairs.inl"
#include "cpu/isa/tiles.h"

namespace lf {
namespace {

struct Tiles : Pairs {
  using Registers = TileRegisters;
  static constexpr int kDepth = 16, kMR = 32;
  static constexpr bool kByRows = true;
  static constexpr int64_t kKC = 384;

  template <bool kRowPanel, int kRows, class C>
  static LF_INLINE void multiply(int64_t units, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld, C* out,
                                 int64_t ld, Ahead& ahead_of) {
    static_assert(kRowPanel && (kRows == 16 || kRows == 32));
    constexpr bool kTwo = kRows == 32;
    constexpr int64_t kStrideA = kRowStride<Tiles> * 4, kStrideB = kNR * 4;
    const char* rows = reinterpret_cast<const char*>(a);
    const char* columns = reinterpret_cast<const char*>(b);
    Registers::tile_fence();
    if (start) {
      _tile_loadd(0, start, start_ld * 4);
      _tile_loadd(1, start + 16, start_ld * 4);
      if constexpr (kTwo) {
        _tile_loadd(2, start + 16 * start_ld, start_ld * 4);
        _tile_loadd(3, start + 16 * start_ld + 16, start_ld * 4);
      }
    } else {
      _tile_zero(0);
      _tile_zero(1);
      if constexpr (kTwo) {
        _tile_zero(2);
        _tile_zero(3);
      }
    }
    Ahead ahead = ahead_of;
    for (int64_t u = 0; u < units; u += kDepth, rows += kAmxBytes, columns += kDepth * kStrideB) {
      _tile_loadd(6, columns, kStrideB);
      _tile_loadd(4, rows, kStrideA);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, columns + kAmxBytes, kStrideB);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (kTwo) {
        _tile_loadd(5, rows + 16 * kStrideA, kStrideA);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      for (int i = 0; i < kDepth; ++i) ahead.ask();
    }
    ahead_of = ahead;
    if constexpr (sizeof(C) == 4) {
      store_tiles<kTwo>(out, ld);
    } else {
      alignas(64) float sums[kRows * kNR];
      store_tiles<kTwo>(sums, kNR);
      for (int i = 0; i < kRows; ++i) store_two(out + i * ld, load(sums + i * kNR), load(sums + i * kNR + kLanes));
    }
  }

  template <bool kTwo>
  static LF_INLINE void store_tiles(float* out, int64_t ld) {
    _tile_stored(0, out, ld * 4);
    _tile_stored(1, out + 16, ld * 4);
    if constexpr (kTwo) {
      _tile_stored(2, out + 16 * ld, ld * 4);
      _tile_stored(3, out + 16 * ld + 16, ld * 4);
    }
    Registers::tile_fence();
  }
};

struct Register {
  Register() { cpu::register_gemm(cpu::Bf16Unit::kTiles, run_gemm<Tiles>); }
} const registered;

}  // namespace
}  // namespace lf
