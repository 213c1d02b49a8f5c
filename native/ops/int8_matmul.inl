// int8_matmul for one kind of instructions. Kernel says which:
//   kCodes      the codes of a unit of 32 bits: four bytes, two i16 or one i32 that follow each other
//   kMR         the rows of its register tile of kNR columns
//   kDepth      the units that an instruction takes along k; packed operands are zeros up to a whole number of them
//   kTaskBytes  the packed rows of a task
//   kShifted    whether the instruction wants the codes of A unsigned: 128 is added, and taken off by the row sums of B
//   place_a, place_b   where unit u of row i or column j lies in a packed panel
//   multiply    out [kMR][kNR] = the sums of a tile, while a Registers lives
#pragma once
#include "cpu/simd.h"
#include "cpu/sizes.h"

namespace lf {
namespace {

constexpr int kNV = 2, kNR = kNV * kVf;

struct Int8Shape {
  int64_t m, n, k, units, stride;  // stride: units from one row of packed A to the next
};

// The codes from x on as one unit, `left` of them there.
template <class Kernel>
LF_INLINE uint32_t unit_of(const int8_t* x, int64_t left, uint32_t flip) {
  uint32_t unit = 0;
  if (left <= 0) return flip;
  if constexpr (Kernel::kCodes == 1) return static_cast<uint32_t>(static_cast<int32_t>(x[0]));
  if constexpr (Kernel::kCodes == 2) {
    unit = static_cast<uint16_t>(static_cast<int16_t>(x[0]));
    return left > 1 ? unit | static_cast<uint32_t>(static_cast<uint16_t>(static_cast<int16_t>(x[1]))) << 16 : unit;
  }
  if (left >= 4) {
    __builtin_memcpy(&unit, x, 4);
  } else {
    for (int64_t c = 0; c < left; ++c) unit |= static_cast<uint32_t>(static_cast<uint8_t>(x[c])) << (8 * c);
  }
  return unit ^ flip;
}

// A panel of B, and the sums of its rows.
template <class Kernel>
void pack_panel(const Int8Shape& s, const int8_t* b, int64_t first, uint32_t* panel, int32_t* sums) {
  const int64_t rows = min64(kNR, s.n - first);
  for (int64_t j = 0; j < kNR; ++j) {
    const int8_t* row = b + (first + j) * s.k;
    int32_t sum = 0;
    for (int64_t i = 0; j < rows && i < s.k; ++i) sum += row[i];
    sums[j] = sum;
  }
  int64_t u = 0;
  for (; Kernel::kCodes == 4 && u + kVf <= s.k / 4; u += kVf) {
    for (int strip = 0; strip < kNR; strip += kVf) {
      Vf block[kVf];
      for (int i = 0; i < kVf; ++i) {
        block[i] = Vf{};
        if (strip + i < rows) __builtin_memcpy(&block[i], b + (first + strip + i) * s.k + 4 * u, sizeof(Vf));
      }
      transpose(block);
      for (int i = 0; i < kVf; ++i) __builtin_memcpy(panel + Kernel::place_b(u + i, strip), &block[i], sizeof(Vf));
    }
  }
  for (; u < s.units; ++u) {
    for (int64_t j = 0; j < kNR; ++j) {
      const int64_t at = u * Kernel::kCodes;
      panel[Kernel::place_b(u, j)] = j < rows ? unit_of<Kernel>(b + (first + j) * s.k + at, s.k - at, 0) : 0u;
    }
  }
}

template <class T, class Kernel>
void product(const KernelArgs* args) {
  constexpr int kMR = Kernel::kMR;
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &y = args->outputs[0];
  Int8Shape s;
  s.k = a.dim(-1);
  s.n = b.dim(0);
  s.m = a.span(0, a.rank - 1);
  if (s.m == 0 || s.n == 0) return;
  s.units = round_up(ceil_div(s.k, Kernel::kCodes), Kernel::kDepth);
  s.stride = s.units + 16;  // rows of 4096 codes would all lie in the same sets of the cache
  const int8_t *codes_a = a.as<const int8_t>(), *codes_b = b.as<const int8_t>();
  const TensorView &sa = args->inputs[2], &sb = args->inputs[3], &zeros = args->inputs[4], &bias = args->inputs[5];
  const int64_t panels = ceil_div(s.n, kNR);
  auto* packed = static_cast<uint32_t*>(cpu::scratch(1, static_cast<size_t>(panels * kNR * (s.units + 1)) * 4));
  auto* sums_b = reinterpret_cast<int32_t*>(packed + panels * kNR * s.units);
  cpu::parallel_for(panels, 1 + (1 << 15) / (kNR * (s.k + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) pack_panel<Kernel>(s, codes_b, p * kNR, packed + p * kNR * s.units, sums_b + p * kNR);
  });
  // Rows of a task: packed, they keep to a part of the L2 cache; and enough tasks for all threads.
  const int64_t tiles = ceil_div(s.m, kMR), fit = Kernel::kTaskBytes / (kMR * s.stride * 4);
  int64_t tiles_each = min64(fit < 1 ? 1 : fit, 16);
  if (ceil_div(tiles, tiles_each) < 8) tiles_each = ceil_div(tiles, 8);
  constexpr uint32_t kFlip = Kernel::kShifted ? 0x80808080u : 0u;
  cpu::parallel_for(ceil_div(tiles, tiles_each), 1, [&](int64_t begin, int64_t end) {
    auto* rows = static_cast<uint32_t*>(cpu::scratch(2, static_cast<size_t>(tiles_each * kMR * s.stride) * 4));
    [[maybe_unused]] const typename Kernel::Registers registers;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * tiles_each * kMR, last = min64(first + tiles_each * kMR, s.m);
      const int64_t used = ceil_div(last - first, kMR) * kMR;
      for (int64_t i = 0; i < used; ++i) {
        const int8_t* row = codes_a + (first + i < last ? first + i : last - 1) * s.k;
        int64_t u = 0;
        for (; u + Kernel::kDepth <= s.k / Kernel::kCodes; u += Kernel::kDepth) {
          uint32_t* to = rows + Kernel::place_a(i, u, s.stride);
          for (int64_t d = 0; d < Kernel::kDepth; ++d) to[d] = unit_of<Kernel>(row + (u + d) * Kernel::kCodes, Kernel::kCodes, kFlip);
        }
        for (; u < s.units; ++u) {
          rows[Kernel::place_a(i, u, s.stride)] = unit_of<Kernel>(row + u * Kernel::kCodes, s.k - u * Kernel::kCodes, kFlip);
        }
      }
      alignas(64) int32_t tile[kMR * kNR];
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t columns = min64(kNR, s.n - p * kNR);
        for (int64_t i = 0; i < used; i += kMR) {
          Kernel::multiply(s, rows + i * s.stride, packed + p * kNR * s.units, tile);
          for (int64_t r = 0; r < kMR && first + i + r < last; ++r) {
            const int64_t at = first + i + r;
            const int32_t zero = (zeros.present() ? zeros.as<const int32_t>()[zeros.numel == 1 ? 0 : at] : 0) + (Kernel::kShifted ? 128 : 0);
            const float scale = sa.as<const float>()[sa.numel == 1 ? 0 : at];
            T* out = y.as<T>() + at * s.n + p * kNR;
            for_lanes<float>(columns, [&](int64_t j, int64_t count) {
              Vi sum, correction;
              __builtin_memcpy(&sum, tile + r * kNR + j, sizeof sum);
              __builtin_memcpy(&correction, sums_b + p * kNR + j, sizeof correction);
              sum -= correction * zero;
              const Vf factors = sb.numel == 1 ? splat(sb.as<const float>()[0]) : load_some(sb.as<const float>() + p * kNR + j, count);
              Vf t = __builtin_convertvector(sum, Vf) * (splat(scale) * factors);
              if (bias.present()) t += load_some(bias.as<const float>() + p * kNR + j, count);
              store_some(out + j, t, count);
            });
          }
        }
      }
    }
  });
}

template <class Kernel>
int32_t int8_matmul_by(const KernelArgs* args) {
  switch (args->outputs[0].dtype) {
    case DType::kF16: product<f16, Kernel>(args); break;
    case DType::kBF16: product<bf16, Kernel>(args); break;
    default: product<float, Kernel>(args);
  }
  return kOk;
}

}  // namespace
}  // namespace lf
