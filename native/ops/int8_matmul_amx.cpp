// int8_matmul with AMX: an instruction multiplies a tile of 16 rows by 64 codes with 64 codes by 16 columns. Codes need no shift.
#include "cpu/isa/tiles.h"
#include "ops/int8_matmul.inl"

namespace lf {
namespace {

// Panels are tiles, each in one piece of memory; those of 16 rows or columns follow each other along k.
struct CodeTiles {
  using Registers = TileRegisters;
  static constexpr int kCodes = 4, kMR = 2 * kAmxRows, kDepth = kVf;
  static constexpr int64_t kTaskBytes = int64_t{768} << 10;  // of an L2 cache of 2 MB
  static constexpr bool kShifted = false;
  static LF_INLINE int64_t place_a(int64_t i, int64_t u, int64_t stride) {
    return i / kVf * kVf * stride + (u / kVf * kVf + i % kVf) * kVf + u % kVf;
  }
  static LF_INLINE int64_t place_b(int64_t u, int64_t j) {
    return u / kVf * kVf * kNR + (j / kVf * kVf + u % kVf) * kVf + j % kVf;
  }

  static void multiply(const Int8Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out) {
    const uint32_t* lower = a + kAmxRows * s.stride;
    TileRegisters::tile_fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t u = 0; u < s.units; u += kVf) {
      _tile_loadd(6, b + u * kNR, kAmxBytes);
      _tile_loadd(4, a + u * kVf, kAmxBytes);
      _tile_dpbssd(0, 4, 6);
      _tile_loadd(7, b + u * kNR + kAmxRows * kVf, kAmxBytes);
      _tile_dpbssd(1, 4, 7);
      _tile_loadd(5, lower + u * kVf, kAmxBytes);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, out, kNR * 4);
    _tile_stored(1, out + kVf, kNR * 4);
    _tile_stored(2, out + kAmxRows * kNR, kNR * 4);
    _tile_stored(3, out + kAmxRows * kNR + kVf, kNR * 4);
    TileRegisters::tile_fence();
  }
};

struct Register {
  Register() { cpu::register_kernel("int8_matmul.tiles", LF_ISA, int8_matmul_by<CodeTiles>); }
} const registered;

}  // namespace
}  // namespace lf
