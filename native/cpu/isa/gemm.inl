// The matrix product for one instruction set, as a template over what the packed operands hold.
//   C is divided among the threads. A task is some rows of a thread's part: it packs these rows of A, and those panels of kNR
//   columns of B that this thread has not packed before, and runs the register tile kMR x kNR over them.
// Packed units: one number, or a pair of neighbours along k for the bf16 instructions. Sums over k go in steps of at most
// kKC units in a fixed order, so the result does not depend on how tasks are cut or who runs them.
// Bound by FLOPs: per unit of k, kMR * kNV multiply-adds meet kNV loads and kMR broadcasts. Memory has that time to bring
// what comes next (Ahead).
// What a K says of its instructions: kTiles, whether they multiply tiles of 16 pairs along k, which want A by rows and zeros up
// to a whole tile; Registers, what must live around them; kUnitsAnAsk, the units of k for which they ask for one line of Ahead.
#pragma once
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/simd.h"
#include "cpu/sizes.h"

namespace lf {
namespace {

using cpu::Activation;
using cpu::Gemm;

template <class V>
LF_INLINE V activate(Activation activation, V x) {
  switch (activation) {
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kGeluErf: return gelu_erf(x);
    case Activation::kSilu: return silu(x);
    case Activation::kRelu: return relu(x);
    case Activation::kNone: break;
  }
  return x;
}
template <class V>
LF_INLINE V activation_derivative(Activation activation, V x) {
  switch (activation) {
    case Activation::kGeluTanh: return gelu_tanh_derivative(x);
    case Activation::kGeluErf: return gelu_erf_derivative(x);
    case Activation::kSilu: return silu_derivative(x);
    case Activation::kRelu: return relu_derivative(x);
    case Activation::kNone: break;
  }
  return constant<V>(1);
}

// The first `n` neighbours at p, at most a vector of them; the other lanes are zero.
template <class T>
LF_INLINE typename Lanes<T>::V load_first(const T* p, int64_t n) {
  if (n >= Lanes<T>::n) return load(p);
  return n > 0 ? load(p, n) : typename Lanes<T>::V{};
}

// Memory that will be wanted soon, a line at a time: the register tile asks for one with every unit it multiplies, so that it
// comes from far while there is much to compute.
struct Ahead {
  const char* line;
  int64_t row_lines, left_in_row;
  int64_t jump;        // bytes from the end of a row to the next one
  int64_t lines_left;  // of all rows; whoever multiplies counts them

  // Without rows, the same line again and again.
  Ahead(const void* first, int64_t rows, int64_t row_bytes, int64_t stride)
      : line(static_cast<const char*>(first)), row_lines(row_bytes / 64 + 1), left_in_row(row_lines),
        jump(stride - row_lines * 64), lines_left(rows * row_lines) {}

  LF_INLINE void ask() {
    __builtin_prefetch(line, 0, 2);
    line += 64;
    if (--left_in_row == 0) {
      left_in_row = row_lines;
      line += jump;
    }
  }
};

// Units from one row of a packed panel of A to the next; the odd number of cache lines keeps its rows in different sets.
template <class K>
constexpr int64_t kRowStride = K::kKC + 64 / static_cast<int64_t>(sizeof(typename K::Unit));

// Operands T converted to Acc (float or double) while packing; one number a unit.
template <class T, class Acc, int kMRows>
struct Numbers {
  using In = T;
  using Unit = Acc;
  using Sum = Acc;
  using V = typename Lanes<Acc>::V;
  struct Registers {};
  static constexpr int kPair = 1, kUnitsAnAsk = 1;
  static constexpr bool kTiles = false;
  static constexpr int64_t kTaskBytes = int64_t{288} << 10;  // two threads may share an L2 cache of 1 MB
  static constexpr int kMR = kMRows, kNV = 2, kLanes = Lanes<Acc>::n, kNR = kNV * kLanes;
  static constexpr int64_t kKC = 3072 / sizeof(Acc);

  // Unit u of a row that has `left` numbers from u on.
  static LF_INLINE Unit unit(const T* row, int64_t) { return get(row); }
  // The numbers of `count` units, those of one unit added up.
  static LF_INLINE V sums(const Unit* units, int64_t count) { return load_some(units, count); }

  // kWidth neighbouring columns of a row that has `count` of them, the others zero. Writes whole vectors, past kWidth as well.
  template <int kWidth>
  static LF_INLINE void pack_across(const T* rows, int64_t, int64_t, int64_t count, Unit* out) {
    for (int i = 0; i < kWidth; i += kLanes) store(out + i, load_first(rows + i, count - i));
  }

  // kDot neighbours along k, of which n are there, and their products added to as many sums.
  using Dot = V;
  static constexpr int kDot = kLanes;
  static LF_INLINE Dot load_dot(const T* p, int64_t n) { return load_some(p, n); }
  static LF_INLINE V dot(V sums, Dot x, Dot y) { return sums + x * y; }

  // `count` neighbours of a row as C, columns of a whole tile.
  template <class C>
  static LF_INLINE void store_row(C* out, const V* values) {
    for (int j = 0; j < kNV; ++j) store(out + j * kLanes, values[j]);
  }

  // out [kRows][kNR] = start (nullptr: zeros) + the product of two panels, of which A's first kRows rows count; rows `start_ld`
  // and `ld` apart.
  template <bool kRowPanel, int kRows, class C>
  static LF_INLINE void multiply(int64_t units, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld, C* out,
                                 int64_t ld, Ahead& ahead_of) {
    Ahead ahead = ahead_of;
    V sums[kRows][kNV];
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kNV; ++j) sums[i][j] = start ? load(start + i * start_ld + j * kLanes) : V{};
    for (int64_t u = 0; u < units; ++u) {
      V columns[kNV];
      for (int j = 0; j < kNV; ++j) columns[j] = load(b + u * kNR + j * kLanes);
      ahead.ask();
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const V row = splat(kRowPanel ? a[i * kRowStride<Numbers> + u] : a[u * kMR + i]);
#pragma GCC unroll 4
        for (int j = 0; j < kNV; ++j) sums[i][j] += row * columns[j];
      }
    }
    ahead_of = ahead;
    for (int i = 0; i < kRows; ++i) store_row(out + i * ld, sums[i]);
  }
};

enum FinishFlags { kWithBias = 1, kWithPreActivation = 2, kWithResidual = 4, kWithActivatedInput = 8 };

// What one product needs in every task.
template <class K>
struct Product {
  using In = typename K::In;
  using Unit = typename K::Unit;
  using Sum = typename K::Sum;
  using V = typename K::V;
  using Finish = void (Product::*)(const Sum* tile, int64_t row, int64_t column) const;
  static constexpr int kMR = K::kMR, kNR = K::kNR, kNV = K::kNV, kLanes = K::kLanes;
  static constexpr int64_t kPair = K::kPair, kStride = kRowStride<K>;
  static constexpr int64_t kDepth = K::kTiles ? kVf : 1;  // units that an instruction takes along k
  static constexpr int64_t kPanelUnits = kMR * kStride;
  static constexpr int64_t kMostRegions = 64;

  const Gemm& g;
  const In* a;
  const In* b;
  char* c;
  const int64_t threads;  // that take part
  const int64_t units = round_up(ceil_div(g.k, kPair), kDepth);
  // Units of one step over k: equal steps of whole vectors, so that none is left with little to do.
  const int64_t step = units <= K::kKC ? max64(units, 1) : round_up(ceil_div(units, ceil_div(units, K::kKC)), kVf);
  const bool narrow_c = !(g.dtype_c == DType::kF32 && sizeof(Sum) == 4);  // C holds In, not Sum
  const Finish finish = narrow_c ? choose_finish<In>() : choose_finish<Sum>();

  // --- packing ---------------------------------------------------------------------------------------------------

  // Units [u0, u0 + n) of kNR columns from `column` on: out[n][kNR].
  void pack_b(int64_t column, int64_t u0, int64_t n, Unit* out) const {
    if constexpr (K::kTiles) {
      for (int64_t u = 0; u < n; u += kDepth) pack_b_tiles(column, u0 + u, out + u * kNR);
    } else if (g.trans_b) {
      pack_b_transposed(column, u0, n, out);
    } else {
      for (int64_t u = 0; u < n; ++u) {
        const In* row = b + (u0 + u) * kPair * g.ldb + column;
        K::template pack_across<kNR>(row, g.ldb, g.k - (u0 + u) * kPair, g.n - column, out + u * kNR);
      }
    }
  }

  void pack_b_transposed(int64_t column, int64_t u0, int64_t n, Unit* out) const {
    const int64_t count = min64(kNR, g.n - column);
    const In* first = b + column * g.ldb + u0 * kPair;
    const int64_t whole = min64(n, (g.k - u0 * kPair) / kPair);  // units without padding
    int64_t u = 0;
    if constexpr (sizeof(Unit) == 4) {
      for (; u + kVf <= whole; u += kVf) {
        for (int strip = 0; strip < kNR; strip += kVf) {
          Vf rows[kVf];
          for (int i = 0; i < kVf; ++i) {
            rows[i] = strip + i < count ? K::load_units(first + (strip + i) * g.ldb + u * kPair) : Vf{};
          }
          transpose(rows);
          for (int i = 0; i < kVf; ++i) store(reinterpret_cast<float*>(out) + (u + i) * kNR + strip, rows[i]);
        }
      }
    }
    for (; u < n; ++u) {
      for (int i = 0; i < kNR; ++i) {
        out[u * kNR + i] = i < count ? K::unit(first + i * g.ldb + u * kPair, g.k - (u0 + u) * kPair) : Unit{};
      }
    }
  }

  // Units [u0, u0 + n) of rows [row, row_end), panel by panel: out[kMR][kStride] by rows, else [n][kMR].
  void pack_a(int64_t row, int64_t row_end, int64_t u0, int64_t n, Unit* out, Sum* row_sums) const {
    if constexpr (K::kTiles) {
      pack_a_tiles(row, row_end, u0, n, out, row_sums);
    } else {
      pack_a_vectors(row, row_end, u0, n, out, row_sums);
    }
  }
  void pack_a_vectors(int64_t row, int64_t row_end, int64_t u0, int64_t n, Unit* out, Sum* row_sums) const {
    const int64_t panels = ceil_div(row_end - row, kMR);
    if (g.trans_a) {
      for (int64_t u = 0; u < n; ++u) {
        const In* from = a + (u0 + u) * kPair * g.lda + row;
        // Rows that lie far apart: nothing but this brings them in time.
        constexpr int64_t kRowsAhead = 8, kBytes = sizeof(In);
        for (int64_t r = 0; r < kPair; ++r) {
          const char* later = reinterpret_cast<const char*>(from + (kRowsAhead * kPair + r) * g.lda);
          for (int64_t i = 0; i < (row_end - row) * kBytes; i += 64) __builtin_prefetch(later + i, 0, 3);
        }
        for (int64_t p = 0; p < panels; ++p) {
          K::template pack_across<kMR>(from + p * kMR, g.lda, g.k - (u0 + u) * kPair, g.m - row - p * kMR,
                                       out + p * kPanelUnits + u * kMR);
        }
      }
      for (int64_t p = 0; row_sums && p < panels; ++p) {
        sum_columns(out + p * kPanelUnits, n, row_sums + p * kMR, min64(kMR, row_end - row - p * kMR));
      }
      return;
    }
    for (int64_t i = 0; i < panels * kMR; ++i) {
      Unit* to = out + i / kMR * kPanelUnits + i % kMR * kStride;
      if (row + i >= row_end) {
        for (int64_t u = 0; u < n; ++u) to[u] = Unit{};
        continue;
      }
      const In* from = a + (row + i) * g.lda + u0 * kPair;
      const int64_t whole = min64(n, (g.k - u0 * kPair) / kPair);
      int64_t u = 0;
      if constexpr (sizeof(Unit) == 4) {
        for (; u + kVf <= whole; u += kVf) store(reinterpret_cast<float*>(to) + u, K::load_units(from + u * kPair));
      }
      for (; u < n; ++u) to[u] = K::unit(from + u * kPair, g.k - (u0 + u) * kPair);
      if (row_sums) row_sums[i] += sum_row(to, n);
    }
  }

  static Sum sum_row(const Unit* units, int64_t n) {
    return reduce_add(sum_lanes<Sum>(n, [&](int64_t u, int64_t count) { return K::sums(units + u, count); }));
  }

  // 16 pairs along k of 16 neighbours (rows of A or columns of B) that start at x, `ld` apart, of which `lines` are there and
  // have `left` numbers, a line in each vector; zeros elsewhere.
  static LF_INLINE void read_along(const In* x, int64_t ld, int64_t lines, int64_t left, Vf (&tile)[kVf]) {
    for (int64_t i = 0; i < kVf; ++i) tile[i] = K::read_pairs(x + i * ld, i < lines ? left : 0);
  }
  // The same of neighbours that lie side by side, rows of k `ld` apart: a pair of all in each vector.
  static LF_INLINE void read_across(const In* x, int64_t ld, int64_t lines, int64_t left, Vf (&tile)[kVf]) {
    for (int64_t i = 0; i < kVf; ++i) tile[i] = K::read_pairs_across(x + i * kPair * ld, ld, left - i * kPair, lines);
  }
  // A tile lies in one piece of memory; those of 16 rows or columns follow each other along k.
  static LF_INLINE void store_tile(const Vf (&tile)[kVf], Unit* out) {
    for (int64_t i = 0; i < kVf; ++i) store(reinterpret_cast<float*>(out + i * kVf), tile[i]);
  }

  // The kDepth units from u0 on of a panel: a tile of its first 16 columns and one of the others.
  void pack_b_tiles(int64_t column, int64_t u0, Unit* out) const {
    const int64_t k = u0 * kPair, left = g.k - k;
    for (int64_t strip = 0; strip < kNR; strip += kVf) {
      const int64_t first = column + strip;
      Vf tile[kVf];
      if (g.trans_b) {
        read_along(b + first * g.ldb + k, g.ldb, g.n - first, left, tile);
        transpose(tile);
      } else {
        read_across(b + k * g.ldb + first, g.ldb, g.n - first, left, tile);
      }
      store_tile(tile, out + strip * kVf);
    }
  }

  // pack_a for tiles: a panel is its upper 16 rows' tiles along k, then, half a panel further, the lower ones'.
  void pack_a_tiles(int64_t row, int64_t row_end, int64_t u0, int64_t n, Unit* out, Sum* row_sums) const {
    const int64_t rows = round_up(row_end - row, kMR);
    const auto place = [&](int64_t i) { return out + i / kVf * kVf * kStride; };
    for (int64_t u = 0; g.trans_a && u < n; u += kDepth) {
      const int64_t k = (u0 + u) * kPair;
      const In* from = a + k * g.lda + row;
      // Rows that lie far apart: nothing but this brings the next ones in time.
      for (int64_t r = kVf * kPair; r < 2 * kVf * kPair; ++r) {
        const char* later = reinterpret_cast<const char*>(from + r * g.lda);
        for (int64_t i = 0; i < (row_end - row) * static_cast<int64_t>(sizeof(In)); i += 64) __builtin_prefetch(later + i, 0, 3);
      }
      for (int64_t i = 0; i < rows; i += kVf) {
        Vf tile[kVf];
        read_across(from + i, g.lda, row_end - row - i, g.k - k, tile);
        transpose(tile);
        store_tile(tile, place(i) + u * kVf);
      }
    }
    for (int64_t i = 0; !g.trans_a && i < rows; i += kVf) {
      for (int64_t u = 0; u < n; u += kDepth) {
        const int64_t k = (u0 + u) * kPair;
        Vf tile[kVf];
        read_along(a + (row + i) * g.lda + k, g.lda, row_end - row - i, g.k - k, tile);
        store_tile(tile, place(i) + u * kVf);
      }
    }
    for (int64_t i = 0; row_sums && i < row_end - row; ++i) {
      V sums{};
      for (int64_t u = 0; u < n; u += kDepth) sums += K::sums(place(i) + u * kVf + i % kVf * kVf, kVf);
      row_sums[i] += reduce_add(sums);
    }
  }

  // sums[i] += units [n][kMR] over n, for `count` columns i; four chains, because an addition takes a while.
  static void sum_columns(const Unit* units, int64_t n, Sum* sums, int64_t count) {
    for_lanes<Sum>(count, [&](int64_t i, int64_t lanes) {
      V chains[4] = {};
      int64_t u = 0;
      for (; u + 4 <= n; u += 4) {
        for (int k = 0; k < 4; ++k) chains[k] += K::sums(units + (u + k) * kMR + i, lanes);
      }
      for (; u < n; ++u) chains[0] += K::sums(units + u * kMR + i, lanes);
      store_some(sums + i, load_some(sums + i, lanes) + ((chains[0] + chains[1]) + (chains[2] + chains[3])), lanes);
    });
  }

  // --- results ---------------------------------------------------------------------------------------------------

  // Any part of a finished tile, rows `tile_ld` apart: everything that cpu/gemm.h promises after the product.
  template <class C>
  void finish_part(const Sum* tile, int64_t tile_ld, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    const cpu::GemmEpilogue& e = g.epilogue;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (row + r) * g.ldc + column;
      C* out = reinterpret_cast<C*>(c) + at;
      for_lanes<Sum>(columns, [&](int64_t i, int64_t n) {
        V t = load_some(tile + r * tile_ld + i, n) * constant<V>(g.alpha);
        if (g.accumulate) t += load_some(out + i, n);
        if (e.bias) t += load_bias(column + i, n);
        if (e.pre_activation) store_some(static_cast<C*>(e.pre_activation) + at + i, t, n);
        t = activate(e.activation, t);
        if (e.grad_input) {
          const V x = load_some(static_cast<const C*>(e.grad_input) + at + i, n);
          t *= activation_derivative(e.grad_activation, x);
          if (e.activated_input) store_some(static_cast<C*>(e.activated_input) + at + i, activate(e.grad_activation, x), n);
        }
        if (e.residual) t += load_some(static_cast<const C*>(e.residual) + at + i, n);
        store_some(out + i, t, n);
      });
    }
  }
  void finish_part(const Sum* tile, int64_t tile_ld, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    if (narrow_c) {
      finish_part<In>(tile, tile_ld, row, rows, column, columns);
    } else {
      finish_part<Sum>(tile, tile_ld, row, rows, column, columns);
    }
  }

  // A whole tile with one combination of the usual steps, known at compile time.
  template <class C, int kActivation, int kGradActivation, int kFlags>
  void finish_whole(const Sum* tile, int64_t row, int64_t column) const {
    const cpu::GemmEpilogue& e = g.epilogue;
    V bias[kNV];
    if constexpr (kFlags & kWithBias) {
      for (int j = 0; j < kNV; ++j) bias[j] = load_bias(column + j * kLanes, kLanes);
    }
    for (int i = 0; i < kMR; ++i) {
      const int64_t at = (row + i) * g.ldc + column;
      V t[kNV];
      for (int j = 0; j < kNV; ++j) {
        t[j] = load(tile + i * kNR + j * kLanes);
        if constexpr (kFlags & kWithBias) t[j] += bias[j];
      }
      if constexpr (kFlags & kWithPreActivation) K::store_row(static_cast<C*>(e.pre_activation) + at, t);
      [[maybe_unused]] V activated[kNV];
      for (int j = 0; j < kNV; ++j) {
        if constexpr (kActivation != 0) t[j] = activate(static_cast<Activation>(kActivation), t[j]);
        if constexpr (kGradActivation != 0) {
          const V x = load(static_cast<const C*>(e.grad_input) + at + j * kLanes);
          t[j] *= activation_derivative(static_cast<Activation>(kGradActivation), x);
          if constexpr (kFlags & kWithActivatedInput) activated[j] = activate(static_cast<Activation>(kGradActivation), x);
        }
        if constexpr (kFlags & kWithResidual) t[j] += load(static_cast<const C*>(e.residual) + at + j * kLanes);
      }
      K::store_row(reinterpret_cast<C*>(c) + at, t);
      if constexpr (kFlags & kWithActivatedInput) K::store_row(static_cast<C*>(e.activated_input) + at, activated);
    }
  }
  template <class C>
  void finish_any(const Sum* tile, int64_t row, int64_t column) const {
    finish_part<C>(tile, kNR, row, kMR, column, kNR);
  }

  template <class C>
  Finish choose_finish() const {
    const cpu::GemmEpilogue& e = g.epilogue;
    constexpr int kGelu = static_cast<int>(Activation::kGeluTanh);
    const int flags = (e.bias ? kWithBias : 0) | (e.pre_activation ? kWithPreActivation : 0) | (e.residual ? kWithResidual : 0);
    const bool plain = g.alpha == 1 && !g.accumulate;
    if (plain && e.activation == Activation::kNone && !e.grad_input) {
      if (flags == 0) return &Product::template finish_whole<C, 0, 0, 0>;
      if (flags == kWithBias) return &Product::template finish_whole<C, 0, 0, kWithBias>;
      if (flags == kWithResidual) return &Product::template finish_whole<C, 0, 0, kWithResidual>;
      if (flags == (kWithBias | kWithResidual)) return &Product::template finish_whole<C, 0, 0, kWithBias | kWithResidual>;
    }
    if (plain && e.activation == Activation::kGeluTanh && !e.grad_input) {
      if (flags == kWithBias) return &Product::template finish_whole<C, kGelu, 0, kWithBias>;
      if (flags == (kWithBias | kWithPreActivation)) {
        return &Product::template finish_whole<C, kGelu, 0, kWithBias | kWithPreActivation>;
      }
    }
    if (plain && e.activation == Activation::kNone && e.grad_input && e.grad_activation == Activation::kGeluTanh && flags == 0) {
      return e.activated_input ? &Product::template finish_whole<C, 0, kGelu, kWithActivatedInput>
                               : &Product::template finish_whole<C, 0, kGelu, 0>;
    }
    return &Product::template finish_any<C>;
  }

  V load_bias(int64_t i, int64_t n) const {
    const void* bias = g.epilogue.bias;
    if constexpr (sizeof(Sum) == 8) {
      return load_some(static_cast<const double*>(bias) + i, n);
    } else {
      switch (g.epilogue.bias_dtype) {
        case DType::kF16: return load_some(static_cast<const f16*>(bias) + i, n);
        case DType::kBF16: return load_some(static_cast<const bf16*>(bias) + i, n);
        default: return load_some(static_cast<const float*>(bias) + i, n);
      }
    }
  }

  // --- tasks -----------------------------------------------------------------------------------------------------

  // Columns [column, column_end) of B by units [unit, unit_end). Every thread packs for itself what its tasks come to: nobody
  // waits, and no memory is written that another thread reads.
  struct Block {
    int64_t column, column_end, unit, unit_end;
    int64_t panels;  // of kNR columns
  };
  // What this thread has packed of it.
  struct PackedBlock {
    Unit* units;      // [steps][panels][units of the step][kNR]
    uint8_t* states;  // [steps][panels]: whether it is packed
  };

  uint8_t& state_of(const Block& block, const PackedBlock& packed, int64_t panel, int64_t u0) const {
    return packed.states[(u0 - block.unit) / step * block.panels + panel];
  }
  static Unit* place_of(const Block& block, const PackedBlock& packed, int64_t panel, int64_t u0, int64_t n) {
    return packed.units + ((u0 - block.unit) * block.panels + panel * n) * kNR;
  }

  // Units [u0, u0 + n) of a panel, which are a step.
  const Unit* packed_panel(const Block& block, const PackedBlock& packed, int64_t panel, int64_t u0, int64_t n) const {
    Unit* place = place_of(block, packed, panel, u0, n);
    uint8_t& done = state_of(block, packed, panel, u0);
    if (!done) pack_b(block.column + panel * kNR, u0, n, place);
    done = 1;
    return place;
  }

  // Rows [row, row_end) of A, units [u0, u0 + n), where they are stored.
  Ahead look_at_a(int64_t row, int64_t row_end, int64_t u0, int64_t n) const {
    constexpr int64_t kBytes = sizeof(In);
    if (g.trans_a) return Ahead(a + u0 * kPair * g.lda + row, n * kPair, (row_end - row) * kBytes, g.lda * kBytes);
    return Ahead(a + row * g.lda + u0 * kPair, row_end - row, n * kPair * kBytes, g.lda * kBytes);
  }
  // A panel of B where it is: packed or stored.
  Ahead look_at_b(const Block& block, const PackedBlock& packed, int64_t panel, int64_t u0, int64_t n) const {
    constexpr int64_t kBytes = sizeof(In), kUnitBytes = sizeof(Unit);
    if (state_of(block, packed, panel, u0)) return Ahead(place_of(block, packed, panel, u0, n), 1, n * kNR * kUnitBytes, 0);
    const int64_t column = block.column + panel * kNR, columns = min64(kNR, g.n - column);
    if (g.trans_b) return Ahead(b + column * g.ldb + u0 * kPair, columns, n * kPair * kBytes, g.ldb * kBytes);
    return Ahead(b + u0 * kPair * g.ldb + column, n * kPair, columns * kBytes, g.ldb * kBytes);
  }

  // A register tile of which `rows` rows count.
  template <bool kRowPanel>
  static LF_INLINE void multiply_rows(int64_t rows, int64_t n, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld,
                                      Sum* out, int64_t ld, Ahead& ahead) {
    if constexpr (K::kTiles) {
      if (rows <= 16) return K::template multiply<kRowPanel, 16>(n, a, b, start, start_ld, out, ld, ahead);
    } else {
      if constexpr (kMR > 8) {
        if (rows > 4 && rows <= 8) return K::template multiply<kRowPanel, 8>(n, a, b, start, start_ld, out, ld, ahead);
      }
      if (rows <= 4) return K::template multiply<kRowPanel, 4>(n, a, b, start, start_ld, out, ld, ahead);
    }
    K::template multiply<kRowPanel, kMR>(n, a, b, start, start_ld, out, ld, ahead);
  }

  // A tile that is summed up in C itself, of which only some rows and columns exist.
  template <bool kRowPanel>
  void multiply_edge(int64_t n, const Unit* a, const Unit* b, bool add, int64_t row, int64_t rows, int64_t column,
                     int64_t columns, Ahead& ahead) const {
    alignas(64) Sum tile[kMR * kNR] = {};
    Sum* out = reinterpret_cast<Sum*>(c) + row * g.ldc + column;
    for (int64_t r = 0; add && r < rows; ++r) {
      for_lanes<Sum>(columns, [&](int64_t i, int64_t lanes) { store(tile + r * kNR + i, load_some(out + r * g.ldc + i, lanes)); });
    }
    multiply_rows<kRowPanel>(rows, n, a, b, add ? tile : nullptr, kNR, tile, kNR, ahead);
    for (int64_t r = 0; r < rows; ++r) {
      for_lanes<Sum>(columns, [&](int64_t i, int64_t lanes) { store_some(out + r * g.ldc + i, load(tile + r * kNR + i), lanes); });
    }
  }

  // Rows [row, row_end) by panels [first, first + count) of B. This thread will probably go on with rows [next_row, next_end).
  template <bool kRowPanel>
  void task(const Block& block, const PackedBlock& packed, int64_t row, int64_t row_end, int64_t next_row, int64_t next_end,
            int64_t first, int64_t count, bool sum_rows) const {
    const int64_t panels = ceil_div(row_end - row, kMR);
    const bool plain = is_plain(), bare = finish == &Product::template finish_whole<In, 0, 0, 0>;
    [[maybe_unused]] const typename K::Registers registers;
    // Sums of the steps before, where they are not in C: whole tiles with what lies over the edges.
    const int64_t width = count * kNR;
    const size_t a_bytes = static_cast<size_t>(panels * kPanelUnits) * sizeof(Unit);
    const size_t partial_bytes = units > step && !plain ? static_cast<size_t>(panels * kMR * width) * sizeof(Sum) : 0;
    char* memory = static_cast<char*>(cpu::scratch(0, a_bytes + partial_bytes + 64));
    Unit* packed_a = reinterpret_cast<Unit*>(memory);
    Sum* partial = reinterpret_cast<Sum*>(memory + (a_bytes + 63) / 64 * 64);
    alignas(64) Sum tile[kMR * kNR];
    const Ahead nothing(memory, 0, 0, 0);
    int64_t u0 = block.unit;
    do {
      const int64_t n = min64(step, block.unit_end - u0), after = u0 + n;
      const bool last = after >= units;
      Ahead of_a = after < block.unit_end ? look_at_a(row, row_end, after, min64(step, block.unit_end - after))
                                          : look_at_a(next_row, next_end, block.unit, min64(step, block.unit_end - block.unit));
      Ahead of_b = nothing;
      pack_a(row, row_end, u0, n, packed_a, sum_rows ? static_cast<Sum*>(g.row_sums_a) + row : nullptr);
      for (int64_t t = 0; t < count; ++t) {
        const int64_t panel = first + t;
        const int64_t j = block.column + panel * kNR, columns = min64(kNR, block.column_end - j);
        const Unit* panel_b = packed_panel(block, packed, panel, u0, n);
        if (t + 1 < count) of_b = look_at_b(block, packed, panel + 1, u0, n);
        // A is wanted last. What came too early would have left the L2 cache by then.
        const bool a_next = (count - t - 1) * panels * n <= 2 * of_a.lines_left * K::kUnitsAnAsk + panels * n;
        for (int64_t p = 0; p < panels; ++p) {
          const int64_t i = row + p * kMR, rows = min64(kMR, row_end - i);
          const Unit* panel_a = packed_a + p * kPanelUnits;
          Ahead none = nothing;
          Ahead& ahead = of_b.lines_left > 0 ? of_b : a_next && of_a.lines_left > 0 ? of_a : none;
          ahead.lines_left -= n / K::kUnitsAnAsk;
          const bool whole = rows == kMR && columns == kNR;
          if (plain) {
            const bool add = g.accumulate || u0 > 0;
            Sum* out = reinterpret_cast<Sum*>(c) + i * g.ldc + j;
            if (whole) {
              // Wanted when the tile is done. Before a short sum, asking would take longer than it saves.
              constexpr int64_t kLong = 128;
              for (int64_t r = 0; n >= kLong && r < kMR; ++r) {
                for (int v = 0; v < kNV; ++v) __builtin_prefetch(out + r * g.ldc + v * kLanes, 1, 2);
              }
              K::template multiply<kRowPanel, kMR>(n, panel_a, panel_b, add ? out : nullptr, g.ldc, out, g.ldc, ahead);
            } else {
              multiply_edge<kRowPanel>(n, panel_a, panel_b, add, i, rows, j, columns, ahead);
            }
            continue;
          }
          Sum* before = partial + p * kMR * width + (panel - first) * kNR;
          if (bare && whole && last) {
            In* out = reinterpret_cast<In*>(c) + i * g.ldc + j;
            K::template multiply<kRowPanel, kMR>(n, panel_a, panel_b, u0 > 0 ? before : nullptr, width, out, g.ldc, ahead);
            continue;
          }
          multiply_rows<kRowPanel>(rows, n, panel_a, panel_b, u0 > 0 ? before : nullptr, width, last ? tile : before,
                                   last ? kNR : width, ahead);
          if (!last) continue;
          if (whole) {
            (this->*finish)(tile, i, j);
          } else {
            finish_part(tile, kNR, i, rows, j, columns);
          }
        }
      }
      u0 += n;
    } while (u0 < block.unit_end);
  }

  // Whether tiles can be summed up in C itself.
  bool is_plain() const {
    const cpu::GemmEpilogue& e = g.epilogue;
    return !narrow_c && g.alpha == 1 && !e.bias && !e.pre_activation && e.activation == Activation::kNone && !e.grad_input &&
           !e.residual;
  }

  static constexpr int64_t kBlockBytes = int64_t{8} << 20;   // packed B at a time, and sums beside C
  static constexpr int64_t kTaskBytes = K::kTaskBytes;       // packed A of a task

  // How C is divided among the threads: rows x columns regions.
  struct Grid {
    int64_t rows, columns;
  };
  // The one whose largest region takes the least time, multiplied and packed. In vector instructions a unit of k:
  Grid choose_grid(int64_t row_panels, int64_t panels) const {
    const int64_t pack_row_panel = g.trans_a ? 12 : 6, pack_panel = 16;  // as measured
    Grid best{1, 1};
    int64_t least = INT64_MAX;
    for (int64_t rows = 1; rows <= threads; ++rows) {
      const Grid grid{rows, threads / rows};
      const int64_t r = ceil_div(row_panels, grid.rows), c = ceil_div(panels, grid.columns);
      const int64_t time = r * c * kMR * kNV + r * pack_row_panel + c * pack_panel;
      if (time < least) {
        least = time;
        best = grid;
      }
    }
    return best;
  }

  void run() const {
    if (g.row_sums_a && !g.accumulate) __builtin_memset(g.row_sums_a, 0, static_cast<size_t>(g.m) * sizeof(Sum));
    run_blocks();
  }

  void run_blocks() const {
    const int64_t panels = ceil_div(g.n, kNR), steps = max64(ceil_div(units, step), 1);
    const Grid grid = choose_grid(ceil_div(g.m, kMR), panels);
    const int64_t fit = kBlockBytes / static_cast<int64_t>(sizeof(Unit)) / kNR;  // units of one panel
    // All of k for the columns that fit. If they are so few that packing A again for every block of them would cost, a part of
    // k for more columns, where something can hold the sums.
    const bool sums_beside_c = g.m * g.n <= kBlockBytes / static_cast<int64_t>(sizeof(Sum));
    const bool divisible = is_plain() || sums_beside_c;
    const int64_t columns = equal_part(panels, max64(fit / max64(units, 1), divisible ? 32 : 4)) * kNR;
    const int64_t some = equal_part(steps, max64(fit * kNR / max64(columns, kNR) / step, 1)) * step;
    const int64_t part = divisible ? some : max64(units, 1);
    if (part < units && !is_plain()) return run_through_sums();
    int64_t column = 0;
    do {
      for (int64_t unit = 0; unit == 0 || unit < units; unit += part) {
        run_block(grid, column, min64(column + columns, g.n), unit, min64(unit + part, units));
      }
      column += columns;
    } while (column < g.n);
  }
  // The largest of equal parts of `count` that are at most `most`.
  static int64_t equal_part(int64_t count, int64_t most) { return ceil_div(count, max64(ceil_div(count, most), 1)); }

  // A long sum for a C that cannot hold it: beside C, with what comes after it in a second pass.
  void run_through_sums() const {
    Sum* sums = static_cast<Sum*>(cpu::scratch(3, static_cast<size_t>(g.m * g.n) * sizeof(Sum)));
    Gemm product = g;
    product.c = sums;
    product.dtype_c = sizeof(Sum) == 8 ? DType::kF64 : DType::kF32;
    product.ldc = g.n;
    product.alpha = 1;
    product.accumulate = false;
    product.epilogue = {};
    Product{product, a, b, reinterpret_cast<char*>(sums), threads}.run_blocks();
    cpu::parallel_for(g.m, max64(1, 16384 / g.n), [&](int64_t begin, int64_t end) {
      finish_part(sums + begin * g.n, g.n, begin, end - begin, 0, g.n);
    });
  }

  // Its tasks are groups of a region's row panels by the region's columns. A thread has a region, the same one every time, so
  // that C stays where it is; when that is done it helps with the others. Groups are so large that a panel of B is loaded for
  // many rows, and so small that A keeps to a part of the L2 cache.
  void run_block(const Grid& grid, int64_t column, int64_t column_end, int64_t unit, int64_t unit_end) const {
    const Block block{column, column_end, unit, unit_end, ceil_div(column_end - column, kNR)};
    const size_t bytes = static_cast<size_t>((unit_end - unit) * block.panels * kNR) * sizeof(Unit);
    const size_t states = static_cast<size_t>(max64(ceil_div(unit_end - unit, step), 1) * block.panels);
    const int64_t most = max64(2, min64(kTaskBytes / (kMR * step * static_cast<int64_t>(sizeof(Unit))), 16));
    const int64_t row_panels = ceil_div(g.m, kMR), regions = grid.rows * grid.columns;
    struct alignas(64) Claimed {
      int64_t tasks;
    } claimed[kMostRegions];
    for (int64_t i = 0; i < regions; ++i) claimed[i].tasks = 0;
    cpu::parallel_for(regions, 1, [&](int64_t, int64_t) {
      PackedBlock packed{};
      for (int64_t i = 0; i < regions; ++i) {
        const int64_t region = (cpu::thread_index() + i) % regions;
        const int64_t r = region / grid.columns, c = region % grid.columns;
        const int64_t panel = r * row_panels / grid.rows, count = (r + 1) * row_panels / grid.rows - panel;
        const int64_t first = c * block.panels / grid.columns, width = (c + 1) * block.panels / grid.columns - first;
        const bool sum_rows = g.row_sums_a && column == 0 && c == 0;
        const int64_t tasks = width > 0 || sum_rows ? ceil_div(count, most) : 0;
        for (int64_t t; (t = __atomic_fetch_add(&claimed[region].tasks, 1, __ATOMIC_RELAXED)) < tasks;) {
          if (!packed.units) {
            char* memory = static_cast<char*>(cpu::scratch(1, bytes + states));
            packed = {reinterpret_cast<Unit*>(memory), reinterpret_cast<uint8_t*>(memory + bytes)};
            __builtin_memset(packed.states, 0, states);
          }
          const auto row = [&](int64_t of) { return min64((panel + min64(of, tasks) * count / tasks) * kMR, g.m); };
          if constexpr (!K::kTiles) {
            if (g.trans_a) {
              task<false>(block, packed, row(t), row(t + 1), row(t + 1), row(t + 2), first, width, sum_rows);
              continue;
            }
          }
          task<true>(block, packed, row(t), row(t + 1), row(t + 1), row(t + 2), first, width, sum_rows);
        }
      }
    });
  }
};

// Where C has few rows or few columns, its elements are sums along k of two rows in memory and nothing is packed: the longer
// operand is read once. Bound by bytes for a row or two.
constexpr int kFew = 16;

// sums[i * x_step + j * y_step] of kRows rows of x and up to kLanes rows of y.
template <class K, int kRows>
LF_INLINE void dots(int64_t length, const typename K::In* x, int64_t ldx, const typename K::In* y, int64_t ldy, int64_t count,
                    typename K::Sum* sums, int64_t x_step, int64_t y_step) {
  using V = typename K::V;
  // At least eight sums at a time, so that none waits for the one before.
  constexpr int kColumns = kRows == 1 ? 2 : 4, kDot = K::kDot, kParts = kRows == 1 ? 4 : 1;
  for (int64_t q = 0; q < count; q += kColumns) {
    const typename K::In* columns[kColumns];
    for (int j = 0; j < kColumns; ++j) columns[j] = y + min64(q + j, count - 1) * ldy;
    V s[kParts][kRows][kColumns] = {};
    auto step = [&](V(&to)[kRows][kColumns], int64_t k, int64_t n) {
      typename K::Dot column[kColumns];
      for (int j = 0; j < kColumns; ++j) column[j] = K::load_dot(columns[j] + k, n);
      for (int i = 0; i < kRows; ++i) {
        const typename K::Dot row = K::load_dot(x + i * ldx + k, n);
        for (int j = 0; j < kColumns; ++j) to[i][j] = K::dot(to[i][j], row, column[j]);
      }
    };
    int64_t k = 0;
    for (; k + kParts * kDot <= length; k += kParts * kDot) {
      for (int part = 0; part < kParts; ++part) step(s[part], k + part * kDot, kDot);
    }
    for (; k < length; k += kDot) step(s[0], k, min64(kDot, length - k));
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns && q + j < count; ++j) {
        V sum = s[0][i][j];
        if constexpr (kParts == 4) sum = (sum + s[1][i][j]) + (s[2][i][j] + s[3][i][j]);
        sums[i * x_step + (q + j) * y_step] = reduce_add(sum);
      }
    }
  }
}

// The few rows x of one operand (up to kFew) by the many rows y of the other; C's rows are those of x, or those of y.
template <class K, bool kRowsAreFew>
void product_of_few(const Gemm& g, int64_t few, const typename K::In* x, int64_t ldx, int64_t many, const typename K::In* y,
                    int64_t ldy, const Product<K>& finish) {
  constexpr int kLanes = K::kLanes, kFour = 4;
  const int64_t grain = max64(8, (int64_t{1} << 16) / (g.k * static_cast<int64_t>(sizeof(*y)) + 1) / 8 * 8);
  constexpr int64_t kXStep = kRowsAreFew ? kLanes : 1, kYStep = kRowsAreFew ? 1 : kFew;
  cpu::parallel_for(many, grain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += kLanes) {
      const int64_t count = min64(kLanes, end - j);
      typename K::Sum sums[kFew * kLanes];
      for (int64_t i = 0; i < few; i += kFour) {
        const auto of = [&](auto rows) {
          dots<K, rows>(g.k, x + i * ldx, ldx, y + j * ldy, ldy, count, sums + i * kXStep, kXStep, kYStep);
        };
        if (few - i == 1) of(std::integral_constant<int, 1>{});
        else if (few - i == 2) of(std::integral_constant<int, 2>{});
        else if (few - i == 3) of(std::integral_constant<int, 3>{});
        else of(std::integral_constant<int, kFour>{});
      }
      if (kRowsAreFew) finish.finish_part(sums, kLanes, 0, few, j, count);
      else finish.finish_part(sums, kFew, j, count, 0, few);
    }
  });
}

// Whether it was one of those.
template <class K>
bool product_by_dots(const Gemm& g, const typename K::In* a, const typename K::In* b, const Product<K>& finish) {
  constexpr int64_t kMany = 64;
  if (g.trans_a || g.row_sums_a || max64(g.m, g.n) < kMany) return false;
  if (g.m <= kFew && g.trans_b) {
    product_of_few<K, true>(g, g.m, a, g.lda, g.n, b, g.ldb, finish);
    return true;
  }
  if (g.n > kFew) return false;
  const typename K::In* columns = b;
  int64_t ld = g.ldb;
  if (!g.trans_b) {
    auto* turned = static_cast<typename K::In*>(cpu::scratch(1, static_cast<size_t>(g.n * g.k) * sizeof(*b)));
    for (int64_t k = 0; k < g.k; ++k) {
      for (int64_t j = 0; j < g.n; ++j) turned[j * g.k + k] = b[k * g.ldb + j];
    }
    columns = turned;
    ld = g.k;
  }
  product_of_few<K, false>(g, g.n, columns, ld, g.m, a, g.lda, finish);
  return true;
}

// All batch entries: side by side when there are several, otherwise one with all threads.
template <class K>
void run_gemm(const Gemm& g) {
  using In = typename K::In;
  const int64_t size_c = dtype_size(g.dtype_c);
  auto entry = [&](int64_t i, const Gemm& problem) {
    const In* a = static_cast<const In*>(g.a) + i * g.stride_a;
    const In* b = static_cast<const In*>(g.b) + i * g.stride_b;
    char* c = static_cast<char*>(g.c) + i * g.stride_c * size_c;
    const double flops = 2.0 * static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
    const int64_t threads = g.batch > 1 || flops < 4e5 ? 1 : min64(cpu::num_threads(), Product<K>::kMostRegions);
    const Product<K> product{problem, a, b, c, threads};
    if (!product_by_dots(problem, a, b, product)) product.run();
  };
  if (g.batch == 1) return entry(0, g);
  cpu::parallel_for(g.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Gemm one = g;
      one.batch = 1;
      if (i) one.row_sums_a = nullptr;
      auto shift = [&](const void* p) -> const void* {
        return p ? static_cast<const char*>(p) + i * g.stride_c * size_c : nullptr;
      };
      one.epilogue.pre_activation = const_cast<void*>(shift(g.epilogue.pre_activation));
      one.epilogue.grad_input = shift(g.epilogue.grad_input);
      one.epilogue.activated_input = const_cast<void*>(shift(g.epilogue.activated_input));
      one.epilogue.residual = shift(g.epilogue.residual);
      entry(i, one);
    }
  });
}

}  // namespace
}  // namespace lf
