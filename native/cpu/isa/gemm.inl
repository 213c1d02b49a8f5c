// The matrix product for one instruction set, as a template over what the packed operands hold.
//   B (all of it, or a block of columns) is packed once by all threads into panels of kNR columns; then tasks of some rows
//   by some columns are claimed by the threads. A task packs its rows of A and runs the register tile kMR x kNR over them.
// Packed units: one number, or a pair of neighbours along k for the bf16 instructions. Sums over k go in steps of at most
// kKC units in a fixed order, so the result does not depend on how tasks are cut or who runs them.
// Bound by FLOPs: per unit of k, kMR * kNV multiply-adds meet kNV loads and kMR broadcasts.
#pragma once
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/simd.h"

namespace lf {
namespace {

using cpu::Activation;
using cpu::Gemm;

LF_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LF_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
LF_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

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
  static constexpr int kPair = 1;
  static constexpr int kMR = kMRows, kNV = 2, kLanes = Lanes<Acc>::n, kNR = kNV * kLanes;
  static constexpr int64_t kKC = 3072 / sizeof(Acc);

  // Unit u of a row that has `left` numbers from u on.
  static LF_INLINE Unit unit(const T* row, int64_t) { return get(row); }
  // The numbers of `count` units, those of one unit added up.
  static LF_INLINE V sums(const Unit* units, int64_t count) { return load_some(units, count); }

  // `count` neighbouring columns of a row, padded with zeros to `width`.
  static LF_INLINE void pack_across(const T* rows, int64_t, int64_t, int64_t count, int width, Unit* out) {
    if (count == width) {
      int i = 0;
      for (; i + kLanes <= width; i += kLanes) store(out + i, load(rows + i));
      if (i < width) store(out + i, load(rows + i, width - i), width - i);
      return;
    }
    for (int i = 0; i < width; ++i) out[i] = i < count ? get(rows + i) : Acc{};
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

  // out [kMR][kNR] = start (nullptr: zeros) + the product of two panels; rows `start_ld` and `ld` apart.
  template <bool kRowPanel>
  static LF_INLINE void multiply(int64_t units, const Unit* a, const Unit* b, const Sum* start, int64_t start_ld, Sum* out,
                                 int64_t ld) {
    V sums[kMR][kNV];
    for (int i = 0; i < kMR; ++i)
      for (int j = 0; j < kNV; ++j) sums[i][j] = start ? load(start + i * start_ld + j * kLanes) : V{};
    for (int64_t u = 0; u < units; ++u) {
      V columns[kNV];
      for (int j = 0; j < kNV; ++j) columns[j] = load(b + u * kNR + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kMR; ++i) {
        const V row = splat(kRowPanel ? a[i * kRowStride<Numbers> + u] : a[u * kMR + i]);
#pragma GCC unroll 4
        for (int j = 0; j < kNV; ++j) sums[i][j] += row * columns[j];
      }
    }
    for (int i = 0; i < kMR; ++i)
      for (int j = 0; j < kNV; ++j) store(out + i * ld + j * kLanes, sums[i][j]);
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
  static constexpr int64_t kPanelUnits = kMR * kStride;

  const Gemm& g;
  const In* a;
  const In* b;
  char* c;
  const int64_t units = ceil_div(g.k, kPair);
  // Units of one step over k: equal steps of whole vectors, so that none is left with little to do.
  const int64_t step = units <= K::kKC ? max64(units, 1) : ceil_div(ceil_div(units, ceil_div(units, K::kKC)), kVf) * kVf;
  const bool narrow_c = !(g.dtype_c == DType::kF32 && sizeof(Sum) == 4);  // C holds In, not Sum
  const Finish finish = narrow_c ? choose_finish<In>() : choose_finish<Sum>();

  // --- packing ---------------------------------------------------------------------------------------------------

  static constexpr int64_t kGroup = 4;  // panels of B packed side by side: longer reads of a row at a time

  // Units [u0, u0 + n) of `panels` panels of kNR columns from `column` on: out[panels][n][kNR].
  void pack_b_panels(int64_t column, int64_t panels, int64_t u0, int64_t n, Unit* out) const {
    if (g.trans_b) {
      for (int64_t p = 0; p < panels; ++p) pack_b_transposed(column + p * kNR, u0, n, out + p * n * kNR);
      return;
    }
    for (int64_t u = 0; u < n; ++u) {
      const In* rows = b + (u0 + u) * kPair * g.ldb;
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t at = column + p * kNR;
        K::pack_across(rows + at, g.ldb, g.k - (u0 + u) * kPair, min64(kNR, g.n - at), kNR, out + (p * n + u) * kNR);
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

  // Units [u0, u0 + n) of rows [row, row_end), panel by panel: out[kMR][kStride] when A is stored by rows, else [n][kMR].
  void pack_a(int64_t row, int64_t row_end, int64_t u0, int64_t n, Unit* out, Sum* row_sums) const {
    const int64_t panels = ceil_div(row_end - row, kMR);
    if (g.trans_a) {
      for (int64_t u = 0; u < n; ++u) {
        const In* from = a + (u0 + u) * kPair * g.lda + row;
        for (int64_t p = 0; p < panels; ++p) {
          K::pack_across(from + p * kMR, g.lda, g.k - (u0 + u) * kPair, min64(kMR, g.m - row - p * kMR), kMR,
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
      if (row_sums) {
        for (u = 0; u < n; ++u) row_sums[i] += K::sums(to + u, 1)[0];
      }
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

  // Rows [row, row_end) by columns [column, column_end), which B panels of this block start at `first_column`.
  template <bool kRowPanel>
  void task(const Unit* packed_b, int64_t first_column, int64_t row, int64_t row_end, int64_t column, int64_t column_end,
            bool sum_rows) const {
    const int64_t panels = ceil_div(row_end - row, kMR);
    // Sums of the steps before, whole tiles with what lies over the edges. Plain whole tiles are summed up in C instead.
    const int64_t width = ceil_div(column_end - column, kNR) * kNR;
    const size_t a_bytes = static_cast<size_t>(panels * kPanelUnits) * sizeof(Unit);
    const size_t partial_bytes = units > step ? static_cast<size_t>(panels * kMR * width) * sizeof(Sum) : 0;
    char* memory = static_cast<char*>(cpu::scratch(0, a_bytes + partial_bytes + 64));
    Unit* packed_a = reinterpret_cast<Unit*>(memory);
    Sum* partial = reinterpret_cast<Sum*>(memory + (a_bytes + 63) / 64 * 64);
    alignas(64) Sum tile[kMR * kNR];
    const bool plain = is_plain();
    Sum* sums = sum_rows ? static_cast<Sum*>(g.row_sums_a) : nullptr;
    if (sums && !g.accumulate) {
      for (int64_t i = row; i < row_end; ++i) sums[i] = 0;
    }
    int64_t u0 = 0;
    do {
      const int64_t n = min64(step, units - u0);
      const bool last = u0 + n >= units;
      pack_a(row, row_end, u0, n, packed_a, sums ? sums + row : nullptr);
      // Panels of one step lie together: [steps][panels of the block][n][kNR].
      const Unit* step_b = packed_b + u0 * block_width(first_column);
      for (int64_t j = column; j < column_end; j += kNR) {
        const Unit* panel_b = step_b + (j - first_column) * n;
        for (int64_t p = 0; p < panels; ++p) {
          const int64_t i = row + p * kMR;
          const Unit* panel_a = packed_a + p * kPanelUnits;
          const bool whole = i + kMR <= row_end && j + kNR <= column_end;
          if (plain && whole) {
            Sum* out = reinterpret_cast<Sum*>(c) + i * g.ldc + j;
            K::template multiply<kRowPanel>(n, panel_a, panel_b, g.accumulate || u0 > 0 ? out : nullptr, g.ldc, out, g.ldc);
            continue;
          }
          Sum* before = partial + p * kMR * width + (j - column);
          K::template multiply<kRowPanel>(n, panel_a, panel_b, u0 > 0 ? before : nullptr, width, last ? tile : before,
                                          last ? kNR : width);
          if (!last) continue;
          if (whole) {
            (this->*finish)(tile, i, j);
          } else {
            finish_part(tile, kNR, i, min64(kMR, row_end - i), j, min64(kNR, column_end - j));
          }
        }
      }
      u0 += n;
    } while (u0 < units);
  }

  // Whether whole tiles can be summed up in C itself.
  bool is_plain() const {
    const cpu::GemmEpilogue& e = g.epilogue;
    const bool same = sizeof(Sum) == 8 || g.dtype_c == DType::kF32;
    return same && g.alpha == 1 && !e.bias && !e.pre_activation && e.activation == Activation::kNone && !e.grad_input &&
           !e.residual;
  }

  static constexpr int64_t kBlockBytes = int64_t{8} << 20;   // packed B at a time
  static constexpr int64_t kTaskBytes = int64_t{288} << 10;  // packed A of a task: two threads may share an L2 cache of 1 MB

  int64_t block_columns() const {
    const int64_t fit = kBlockBytes / (max64(units, 1) * static_cast<int64_t>(sizeof(Unit))) / kNR * kNR;
    return max64(fit, 4 * kNR);
  }
  int64_t block_width(int64_t first_column) const {
    return ceil_div(min64(block_columns(), g.n - first_column), kNR) * kNR;
  }

  void run() const {
    const int64_t block = block_columns();
    int64_t column = 0;
    do {
      run_block(column, min64(column + block, g.n));
      column += block;
    } while (column < g.n);
  }

  struct Cut {
    int64_t rows, columns;
  };
  // Rows and columns of a task: those for which the slowest thread ends first. In register tiles, a task of p by q panels
  // takes p q, and packing its rows about p / 8 more; rows stay few enough for A to keep to a part of the L2 cache.
  static Cut cut(int64_t row_panels, int64_t column_panels, int64_t max_panels, int64_t threads) {
    Cut best{};
    double best_time = 0;
    for (int64_t p = min64(row_panels, max_panels); p > 0; --p) {
      const int64_t row_tasks = ceil_div(row_panels, p);
      for (int64_t parts = 1; parts <= 4 * threads; parts += 1 + parts / 4) {
        const int64_t q = ceil_div(column_panels, parts);
        const int64_t tasks = row_tasks * ceil_div(column_panels, q);
        const double task = static_cast<double>(p) * (static_cast<double>(q) + 0.125) + 0.25;
        const double time = static_cast<double>(ceil_div(tasks, threads)) * task;
        if (best_time == 0 || time < best_time) {
          best = {p * kMR, q * kNR};
          best_time = time;
        }
        if (q == 1) break;
      }
    }
    return best;
  }

  void run_block(int64_t column, int64_t column_end) const {
    const int64_t width = block_width(column), panels = width / kNR;
    Unit* packed = static_cast<Unit*>(cpu::scratch(1, static_cast<size_t>(max64(units, 1) * width) * sizeof(Unit)));
    const int64_t steps = max64(ceil_div(units, step), 1), groups = ceil_div(panels, kGroup);
    cpu::parallel_for(groups * steps, max64(1, 8192 / (step * kNR * kGroup + 1)), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t u0 = t / groups * step, panel = t % groups * kGroup;
        const int64_t n = min64(step, units - u0);
        if (n > 0) {
          pack_b_panels(column + panel * kNR, min64(kGroup, panels - panel), u0, n, packed + u0 * width + panel * n * kNR);
        }
      }
    });
    const double flops = 2.0 * static_cast<double>(g.m) * static_cast<double>(column_end - column) * static_cast<double>(g.k);
    const int64_t fit = kTaskBytes / (kMR * step * static_cast<int64_t>(sizeof(Unit)));
    const auto [task_rows, task_columns] = cut(ceil_div(g.m, kMR), max64(panels, 1), max64(2, min64(fit, 16)),
                                               flops < 4e5 ? 1 : cpu::num_threads());
    const int64_t row_tasks = ceil_div(g.m, task_rows), column_tasks = max64(1, ceil_div(width, task_columns));
    cpu::parallel_for(row_tasks * column_tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t row = t / column_tasks * task_rows, first = column + t % column_tasks * task_columns;
        const int64_t row_end = min64(row + task_rows, g.m), last = min64(first + task_columns, column_end);
        const bool sum_rows = g.row_sums_a && first == 0;
        if (g.trans_a) {
          task<false>(packed, column, row, row_end, first, last, sum_rows);
        } else {
          task<true>(packed, column, row, row_end, first, last, sum_rows);
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
    const Product<K> product{problem, a, b, c};
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
