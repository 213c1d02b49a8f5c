// int8_matmul: Y = A B^T on int8 codes, summed exactly in i32, then one f32 factor an element:
//   y[i, j] = (sum_k (a[i, k] - z[i]) b[j, k]) (s[i] t[j]) + bias[j].
// a [..., k] with scales s and zero points z, one a row or one in all; b [n, k] with scales t, one a row or one in all. Sums
// must fit in i32: k up to 65536. quantize_rows: codes of each row by its largest magnitude, s = max |x| / top, x / s to even.
// Bound by multiply-adds: four a lane with the VNNI instructions, two with AVX2, one elsewhere. Rows of A are shifted by 128
// for VNNI, which wants unsigned codes there; that and the zero points are one correction by the row sums of B.
// Source: Dettmers et al., arXiv 2208.07339; Wortsman et al., arXiv 2304.13013.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

enum Input { kA, kB, kAScales, kBScales, kZeros, kBias };

void shape(OpCall& call) {
  call.check_rank(kA, 1);
  call.check_rank(kB, 2, 2);
  call.check_dtype(kA, DType::kI8);
  call.check_dtype(kB, DType::kI8);
  const TensorView &a = call.in(kA), &b = call.in(kB);
  const int64_t k = a.dim(-1), n = b.dim(0), m = a.span(0, a.rank - 1);
  if (k != b.dim(1)) call.fail(kShape, "rows of a have %lld codes, rows of b %lld", (long long)k, (long long)b.dim(1));
  if (k > 65536) call.fail(kShape, "%lld products do not fit in an i32 sum; at most 65536", (long long)k);
  const auto check = [&](int i, DType dtype, int64_t most) {
    if (!call.has(i)) return;
    const TensorView& given = call.in(i);
    if (given.dtype != dtype || (given.numel != most && (given.numel != 1 || i == kBias))) {
      call.fail(kShape, "%s is %s, needs %s [%lld]%s", call.input_name(i), view_text(given).c_str(), dtype_name(dtype),
                (long long)most, i == kBias ? "" : " or [1]");
    }
  };
  check(kAScales, DType::kF32, m);
  check(kBScales, DType::kF32, n);
  check(kZeros, DType::kI32, m);
  check(kBias, DType::kF32, n);
  const DType out = call.dtype(0);
  if (!is_floating(out) || out == DType::kF64) call.fail(kDType, "out_dtype is %s, needs f32, f16 or bf16", dtype_name(out));
  int64_t sizes[kMaxRank];
  for (int i = 0; i < a.rank; ++i) sizes[i] = a.shape[i];
  sizes[a.rank - 1] = n;
  call.output(out, sizes, a.rank);
}

Cost cost(const OpCall& call) {
  return io_cost_with_flops(call, 2.0 * static_cast<double>(call.in(kA).dim(-1)) * static_cast<double>(call.outputs[0].numel));
}

LF_OP({.name = "int8_matmul",
       .inputs = {{"a"}, {"b"}, {"a_scales"}, {"b_scales"}, {.name = "a_zeros", .optional = true}, {.name = "bias", .optional = true}},
       .attrs = {{"out_dtype", AttrType::kDType}},
       .shape = shape,
       .cost = cost})

LF_OP({.name = "quantize_rows",
       .inputs = {{"x"}},
       .attrs = {{"top", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             call.check_rank(0, 1);
             call.check_floating(0);
             if (call.in(0).dtype == DType::kF64) call.fail(kDType, "x is f64, needs f32, f16 or bf16");
             if (call.integer(0) < 1 || call.integer(0) > 127) call.fail(kArgument, "top must be from 1 to 127, got %lld", (long long)call.integer(0));
             call.output_like(call.in(0), DType::kI8);
             call.output(DType::kF32, call.in(0).shape, call.in(0).rank - 1);
           },
       .cost = io_cost<3>})

}  // namespace
}  // namespace lf
#else
#include "cpu/simd.h"

namespace lf {
namespace {

// --- codes of rows ------------------------------------------------------------------------------------------------------

template <class T>
int32_t quantize(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  const int64_t n = x.dim(-1), rows = n ? x.numel / n : args->outputs[1].numel;
  const float top = static_cast<float>(args->integer(0)), share = static_cast<float>(1.0 / static_cast<double>(args->integer(0)));
  int8_t* codes = args->outputs[0].as<int8_t>();
  float* scales = args->outputs[1].as<float>();
  cpu::parallel_for(rows, 1 + (1 << 14) / (n + 1), [=, &x](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x.as<const T>() + r * n;
      Vf largest{};
      for_lanes<float>(n, [&](int64_t i, int64_t count) {
        const Vf size = abs(load_some(from + i, count));
        largest = size > largest ? size : largest;
        largest = size != size ? size : largest;
      });
      float most = reduce_max(largest);
      if (most < 1e-30f) most = 1e-30f;  // rows of zeros stay zeros
      const float scale = most * share;
      scales[r] = scale;
      const Vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, ties to even
      for_lanes<float>(n, [&](int64_t i, int64_t count) {
        Vf q = (load_some(from + i, count) / splat(scale) + magic) - magic;
        q = min(max(q == q ? q : Vf{}, splat(-top)), splat(top));
        const Vi whole = __builtin_convertvector(q, Vi);
        for (int64_t l = 0; l < count; ++l) codes[r * n + i + l] = static_cast<int8_t>(whole[l]);
      });
    }
  });
  return kOk;
}

int32_t quantize_rows(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF16: return quantize<f16>(args);
    case DType::kBF16: return quantize<bf16>(args);
    default: return quantize<float>(args);
  }
}

// --- products -----------------------------------------------------------------------------------------------------------

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// B is packed into panels of kNR rows: unit u of all of them side by side, then unit u + 1. A unit is 32 bits of codes that
// follow each other: four bytes, two i16, or one i32. A is packed by rows, in the same units.
struct Shape {
  int64_t m, n, k, units, stride;  // stride: units from one row of packed A to the next
};

#if LF_ISA == LF_ISA_AVX512
constexpr int kMR = 14;
#else
constexpr int kMR = 6;
#endif
constexpr int kNV = 2, kNR = kNV * kVf;

// out [kMR][kNR] = the sums of a tile.
using Multiply = void (*)(const Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out);

#if LF_ISA >= LF_ISA_AVX2
#if LF_ISA == LF_ISA_AVX512
using Wide = __m512i;
LF_INLINE Wide zero_wide() { return _mm512_setzero_si512(); }
LF_INLINE Wide load_wide(const uint32_t* p) { return _mm512_loadu_si512(p); }
LF_INLINE Wide splat_wide(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
LF_INLINE void store_wide(int32_t* p, Wide v) { _mm512_storeu_si512(p, v); }
LF_INLINE Wide add_pairs(Wide sum, Wide a, Wide b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
#define LF_VNNI_TARGET "avx512f,avx512bw,avx512vl,avx512vnni"
#define LF_VNNI_CPU "avx512vnni"
#define LF_VNNI(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#else
using Wide = __m256i;
LF_INLINE Wide zero_wide() { return _mm256_setzero_si256(); }
LF_INLINE Wide load_wide(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const Wide*>(p)); }
LF_INLINE Wide splat_wide(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
LF_INLINE void store_wide(int32_t* p, Wide v) { _mm256_storeu_si256(reinterpret_cast<Wide*>(p), v); }
LF_INLINE Wide add_pairs(Wide sum, Wide a, Wide b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
#define LF_VNNI_TARGET "avx2,avxvnni"
#define LF_VNNI_CPU "avxvnni"
#define LF_VNNI(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#endif

// Two functions of one text: the second is for machines with the VNNI instructions, which nothing else here may use.
#define LF_MULTIPLY(name, attributes, add)                                                              \
  attributes void name(const Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out) {            \
    Wide sums[kMR][kNV];                                                                                \
    _Pragma("GCC unroll 16") for (int i = 0; i < kMR; ++i) {                                            \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) sums[i][j] = zero_wide();                   \
    }                                                                                                   \
    for (int64_t u = 0; u < s.units; ++u) {                                                             \
      Wide columns[kNV];                                                                                \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) columns[j] = load_wide(b + u * kNR + j * kVf); \
      _Pragma("GCC unroll 16") for (int i = 0; i < kMR; ++i) {                                          \
        const Wide row = splat_wide(a[i * s.stride + u]);                                               \
        _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) sums[i][j] = add(sums[i][j], row, columns[j]); \
      }                                                                                                 \
    }                                                                                                   \
    _Pragma("GCC unroll 16") for (int i = 0; i < kMR; ++i) {                                            \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) store_wide(out + i * kNR + j * kVf, sums[i][j]); \
    }                                                                                                   \
  }
LF_MULTIPLY(multiply_pairs, , add_pairs)
LF_MULTIPLY(multiply_quads, __attribute__((target(LF_VNNI_TARGET), noinline)), LF_VNNI)
#else
void multiply_ones(const Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out) {
  Vi sums[kMR][kNV] = {};
  for (int64_t u = 0; u < s.units; ++u) {
    Vi columns[kNV];
    for (int j = 0; j < kNV; ++j) __builtin_memcpy(&columns[j], b + u * kNR + j * kVf, sizeof(Vi));
    for (int i = 0; i < kMR; ++i) {
      const Vi row = static_cast<int32_t>(a[i * s.stride + u]) + Vi{};
      for (int j = 0; j < kNV; ++j) sums[i][j] += row * columns[j];
    }
  }
  __builtin_memcpy(out, sums, sizeof sums);
}
#endif

struct Method {
  Multiply multiply;
  int codes;  // in a unit
  bool shifted;
};

Method best_method() {
#if LF_ISA >= LF_ISA_AVX2
  return __builtin_cpu_supports(LF_VNNI_CPU) ? Method{multiply_quads, 4, true} : Method{multiply_pairs, 2, false};
#else
  return {multiply_ones, 1, false};
#endif
}

// `codes` codes from x on as one unit, `left` of them there.
LF_INLINE uint32_t unit_of(const int8_t* x, int codes, int64_t left, uint32_t flip) {
  uint32_t unit = 0;
  if (codes == 1) return static_cast<uint32_t>(static_cast<int32_t>(x[0]));
  if (codes == 2) {
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
void pack_panel(const Shape& s, int codes, const int8_t* b, int64_t first, uint32_t* panel, int32_t* sums) {
  const int64_t rows = min64(kNR, s.n - first);
  for (int64_t j = 0; j < kNR; ++j) {
    const int8_t* row = b + (first + j) * s.k;
    int32_t sum = 0;
    for (int64_t i = 0; j < rows && i < s.k; ++i) sum += row[i];
    sums[j] = sum;
  }
  int64_t u = 0;
  for (; codes == 4 && u + kVf <= s.k / 4; u += kVf) {
    for (int strip = 0; strip < kNR; strip += kVf) {
      Vf block[kVf];
      for (int i = 0; i < kVf; ++i) {
        block[i] = Vf{};
        if (strip + i < rows) __builtin_memcpy(&block[i], b + (first + strip + i) * s.k + 4 * u, sizeof(Vf));
      }
      transpose(block);
      for (int i = 0; i < kVf; ++i) __builtin_memcpy(panel + (u + i) * kNR + strip, &block[i], sizeof(Vf));
    }
  }
  for (; u < s.units; ++u) {
    for (int64_t j = 0; j < kNR; ++j) {
      panel[u * kNR + j] = j < rows ? unit_of(b + (first + j) * s.k + u * codes, codes, s.k - u * codes, 0) : 0u;
    }
  }
}

template <class T>
void product(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &y = args->outputs[0];
  const Method method = best_method();
  Shape s;
  s.k = a.dim(-1);
  s.n = b.dim(0);
  s.m = a.span(0, a.rank - 1);
  if (s.m == 0 || s.n == 0) return;
  s.units = ceil_div(s.k, method.codes);
  s.stride = s.units + 16;  // rows of 4096 codes would all lie in the same sets of the cache
  const int8_t *codes_a = a.as<const int8_t>(), *codes_b = b.as<const int8_t>();
  const TensorView &sa = args->inputs[2], &sb = args->inputs[3], &zeros = args->inputs[4], &bias = args->inputs[5];
  const int64_t panels = ceil_div(s.n, kNR);
  auto* packed = static_cast<uint32_t*>(cpu::scratch(1, static_cast<size_t>(panels * kNR * (s.units + 1)) * 4));
  auto* sums_b = reinterpret_cast<int32_t*>(packed + panels * kNR * s.units);
  cpu::parallel_for(panels, 1 + (1 << 15) / (kNR * (s.k + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) pack_panel(s, method.codes, codes_b, p * kNR, packed + p * kNR * s.units, sums_b + p * kNR);
  });
  // Rows of a task: packed, they keep to a part of the L2 cache; and enough tasks for all threads.
  const int64_t tiles = ceil_div(s.m, kMR), fit = (int64_t{192} << 10) / (kMR * s.stride * 4);
  int64_t tiles_each = min64(fit < 1 ? 1 : fit, 16);
  if (ceil_div(tiles, tiles_each) < 8) tiles_each = ceil_div(tiles, 8);
  const uint32_t flip = method.shifted ? 0x80808080u : 0u;
  cpu::parallel_for(ceil_div(tiles, tiles_each), 1, [&](int64_t begin, int64_t end) {
    auto* rows = static_cast<uint32_t*>(cpu::scratch(2, static_cast<size_t>(tiles_each * kMR * s.stride) * 4));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * tiles_each * kMR, last = min64(first + tiles_each * kMR, s.m);
      const int64_t used = ceil_div(last - first, kMR) * kMR;
      for (int64_t i = 0; i < used; ++i) {
        const int8_t* row = codes_a + (first + i < last ? first + i : last - 1) * s.k;
        uint32_t* to = rows + i * s.stride;
        const int64_t whole = s.k / method.codes;
        for (int64_t u = 0; u < whole; ++u) to[u] = unit_of(row + u * method.codes, method.codes, method.codes, flip);
        if (whole < s.units) to[whole] = unit_of(row + whole * method.codes, method.codes, s.k - whole * method.codes, flip);
      }
      int32_t tile[kMR * kNR];
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t columns = min64(kNR, s.n - p * kNR);
        for (int64_t i = 0; i < used; i += kMR) {
          method.multiply(s, rows + i * s.stride, packed + p * kNR * s.units, tile);
          for (int64_t r = 0; r < kMR && first + i + r < last; ++r) {
            const int64_t at = first + i + r;
            const int32_t zero = (zeros.present() ? zeros.as<const int32_t>()[zeros.numel == 1 ? 0 : at] : 0) + (method.shifted ? 128 : 0);
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

int32_t int8_matmul(const KernelArgs* args) {
  switch (args->outputs[0].dtype) {
    case DType::kF16: product<f16>(args); break;
    case DType::kBF16: product<bf16>(args); break;
    default: product<float>(args);
  }
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(int8_matmul, int8_matmul)
LF_CPU_KERNEL(quantize_rows, quantize_rows)

}  // namespace lf
#endif
