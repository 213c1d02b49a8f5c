// int8_matmul: Y = A B^T on int8 codes, summed exactly in i32, then one f32 factor an element:
//   y[i, j] = (sum_k (a[i, k] - z[i]) b[j, k]) (s[i] t[j]) + bias[j].
// a [..., k] with scales s and zero points z, one a row or one in all; b [n, k] with scales t, one a row or one in all. Sums
// must fit in i32: k up to 65536. quantize_rows: codes of each row by its largest magnitude, s = max |x| / top, x / s to even.
// Bound by multiply-adds: tiles of AMX (int8_matmul_amx.cpp), four a lane with the VNNI instructions, two with AVX2, one
// elsewhere. Rows of A are shifted by 128 for VNNI, which wants unsigned codes there; that and the zero points are one
// correction by the row sums of B.
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
#include "cpu/isa.h"
#include "ops/int8_matmul.inl"

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

#if LF_ISA == LF_ISA_AVX512
constexpr int kRows = 14;
#else
constexpr int kRows = 6;
#endif

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
#define LF_MULTIPLY(name, attributes, add)                                                               \
  attributes void name(const Int8Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out) {         \
    Wide sums[kRows][kNV];                                                                               \
    _Pragma("GCC unroll 16") for (int i = 0; i < kRows; ++i) {                                           \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) sums[i][j] = zero_wide();                    \
    }                                                                                                    \
    for (int64_t u = 0; u < s.units; ++u) {                                                              \
      Wide columns[kNV];                                                                                 \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) columns[j] = load_wide(b + u * kNR + j * kVf);\
      _Pragma("GCC unroll 16") for (int i = 0; i < kRows; ++i) {                                         \
        const Wide row = splat_wide(a[i * s.stride + u]);                                                \
        _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) sums[i][j] = add(sums[i][j], row, columns[j]);\
      }                                                                                                  \
    }                                                                                                    \
    _Pragma("GCC unroll 16") for (int i = 0; i < kRows; ++i) {                                           \
      _Pragma("GCC unroll 4") for (int j = 0; j < kNV; ++j) store_wide(out + i * kNR + j * kVf, sums[i][j]);\
    }                                                                                                    \
  }
LF_MULTIPLY(multiply_pairs, , add_pairs)
LF_MULTIPLY(multiply_quads, __attribute__((target(LF_VNNI_TARGET), noinline)), LF_VNNI)
#else
void multiply_ones(const Int8Shape& s, const uint32_t* a, const uint32_t* b, int32_t* out) {
  Vi sums[kRows][kNV] = {};
  for (int64_t u = 0; u < s.units; ++u) {
    Vi columns[kNV];
    for (int j = 0; j < kNV; ++j) __builtin_memcpy(&columns[j], b + u * kNR + j * kVf, sizeof(Vi));
    for (int i = 0; i < kRows; ++i) {
      const Vi row = static_cast<int32_t>(a[i * s.stride + u]) + Vi{};
      for (int j = 0; j < kNV; ++j) sums[i][j] += row * columns[j];
    }
  }
  __builtin_memcpy(out, sums, sizeof sums);
}
#endif

struct Vectors {
  struct Registers {};
  static constexpr int kMR = kRows, kDepth = 1;
  static constexpr int64_t kTaskBytes = int64_t{192} << 10;
  static constexpr bool kShifted = false;
  static LF_INLINE int64_t place_a(int64_t i, int64_t u, int64_t stride) { return i * stride + u; }
  static LF_INLINE int64_t place_b(int64_t u, int64_t j) { return u * kNR + j; }
};
#if LF_ISA >= LF_ISA_AVX2
struct Quads : Vectors {
  static constexpr int kCodes = 4;
  static constexpr bool kShifted = true;
  static constexpr auto multiply = multiply_quads;
};
struct Couples : Vectors {
  static constexpr int kCodes = 2;
  static constexpr auto multiply = multiply_pairs;
};
#else
struct Ones : Vectors {
  static constexpr int kCodes = 1;
  static constexpr auto multiply = multiply_ones;
};
#endif

int32_t int8_matmul(const KernelArgs* args) {
#if LF_ISA == LF_ISA_AVX512
  if (cpu::bf16_unit() == cpu::Bf16Unit::kTiles) {
    if (const KernelFn run = cpu::find_kernel("int8_matmul.tiles")) return run(args);
  }
#endif
#if LF_ISA >= LF_ISA_AVX2
  return __builtin_cpu_supports(LF_VNNI_CPU) ? int8_matmul_by<Quads>(args) : int8_matmul_by<Couples>(args);
#else
  return int8_matmul_by<Ones>(args);
#endif
}

}  // namespace

LF_CPU_KERNEL(int8_matmul, int8_matmul)
LF_CPU_KERNEL(quantize_rows, quantize_rows)

}  // namespace lf
#endif
