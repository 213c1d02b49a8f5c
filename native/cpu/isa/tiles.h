// The tile registers of AMX: eight of 16 rows of 64 bytes. Only for files named *_amx.cpp.
#pragma once
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kAmxRows = 16, kAmxBytes = 64;

// While one lives, the tile registers may be used. Left over, their contents would be saved with every switch of threads.
struct TileRegisters {
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } shape{};
    shape.palette = 1;
    for (int i = 0; i < 8; ++i) {
      shape.row_bytes[i] = kAmxBytes;
      shape.rows[i] = kAmxRows;
    }
    tile_fence();
    _tile_loadconfig(&shape);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

  // The compiler does not know what memory the tile instructions read and write.
  static LF_INLINE void tile_fence() { asm volatile("" ::: "memory"); }
};

}  // namespace
}  // namespace lf
