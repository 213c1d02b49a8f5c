// to_fp8, from_fp8: numbers, times a scale f32 [1] where one is given, as codes of an 8-bit floating format (api/fp8.h), and
// back. The product with the scale is f32. Bound by bytes.
// fp8_matmul: y [m, n] = a [m, k] b [n, k]^T factor_a factor_b of codes, in f32. GPUs from sm_89 on multiply the codes
// themselves; elsewhere they become numbers first. Bound by multiply-adds.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

constexpr const char* kFormats = "e4m3|e5m2";

void check_narrow(const OpCall& call, DType dtype, const char* what) {
  if (!is_floating(dtype) || dtype == DType::kF64) call.fail(kDType, "%s is %s, needs f32, f16 or bf16", what, dtype_name(dtype));
}

LF_OP({.name = "to_fp8",
       .inputs = {{"x"}, {.name = "scale", .optional = true}},
       .attrs = {{"format", AttrType::kChoice, kFormats}, {"saturate", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             check_narrow(call, call.in(0).dtype, "x");
             if (call.has(1) && (call.in(1).numel != 1 || call.in(1).dtype != DType::kF32)) {
               call.fail(kShape, "scale is %s, needs f32 [1]", view_text(call.in(1)).c_str());
             }
             call.output_like(call.in(0), DType::kU8);
           },
       .cost = io_cost<1>})

LF_OP({.name = "from_fp8",
       .inputs = {{"codes"}},
       .attrs = {{"format", AttrType::kChoice, kFormats}, {"dtype", AttrType::kDType}},
       .shape =
           [](OpCall& call) {
             call.check_dtype(0, DType::kU8);
             check_narrow(call, call.dtype(1), "dtype");
             call.output_like(call.in(0), call.dtype(1));
           },
       .cost = io_cost<1>})

LF_OP({.name = "fp8_matmul",
       .inputs = {{"a"}, {"b"}, {"factor_a"}, {"factor_b"}},
       .attrs = {{"format_a", AttrType::kChoice, kFormats}, {"format_b", AttrType::kChoice, kFormats}},
       .shape =
           [](OpCall& call) {
             for (int i = 0; i < 2; ++i) {
               call.check_dtype(i, DType::kU8);
               call.check_rank(i, 2, 2);
             }
             for (int i = 2; i < 4; ++i) {
               if (call.in(i).numel == 1 && call.in(i).dtype == DType::kF32) continue;
               call.fail(kShape, "%s is %s, needs f32 [1]", call.input_name(i), view_text(call.in(i)).c_str());
             }
             const long long k = call.in(0).dim(1), of_b = call.in(1).dim(1);
             if (k != of_b) call.fail(kShape, "rows of a have %lld codes, rows of b %lld", k, of_b);
             call.output(DType::kF32, {call.in(0).dim(0), call.in(1).dim(0)});
           },
       .cost = [](const OpCall& call) {
         return io_cost_with_flops(call, 2.0 * static_cast<double>(call.in(0).dim(1)) * static_cast<double>(call.outputs[0].numel));
       }})

}  // namespace
}  // namespace lf
#else
#include "api/fp8.h"
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 15, kRun = 1 << 10;  // elements of a task; of a run, which the cache holds as floats

template <class T, Fp8 format>
void encode(const TensorView& x, const TensorView& codes, float scale, bool saturate) {
  const T* from = x.as<const T>();
  uint8_t* to = codes.as<uint8_t>();
  cpu::parallel_for(x.numel, kGrain, [=](int64_t begin, int64_t end) {
    float run[kRun];
    for (int64_t first = begin; first < end; first += kRun) {
      const int64_t count = end - first < kRun ? end - first : kRun;
      for_lanes<float>(count, [&](int64_t i, int64_t n) { store_some(run + i, load_some(from + first + i, n) * splat(scale), n); });
      for (int64_t i = 0; i < count; ++i) to[first + i] = to_fp8<format>(run[i], saturate);
    }
  });
}

template <class T, Fp8 format>
void decode(const TensorView& codes, const TensorView& y) {
  const uint8_t* from = codes.as<const uint8_t>();
  T* to = y.as<T>();
  cpu::parallel_for(y.numel, kGrain, [=](int64_t begin, int64_t end) {
    float run[kRun];
    for (int64_t first = begin; first < end; first += kRun) {
      const int64_t count = end - first < kRun ? end - first : kRun;
      for (int64_t i = 0; i < count; ++i) run[i] = from_fp8<format>(from[first + i]);
      for_lanes<float>(count, [&](int64_t i, int64_t n) { store_some(to + first + i, load_some(run + i, n), n); });
    }
  });
}

template <Fp8 format>
struct FormatTag {
  static constexpr Fp8 kFormat = format;
};

template <class F>
int32_t by_format(int64_t format, DType dtype, F&& body) {
  const auto typed = [&](auto number) {
    if (static_cast<Fp8>(format) == Fp8::kE4M3) body(number, FormatTag<Fp8::kE4M3>{});
    else body(number, FormatTag<Fp8::kE5M2>{});
  };
  if (dtype == DType::kF32) typed(float{});
  else if (dtype == DType::kF16) typed(f16{});
  else typed(bf16{});
  return kOk;
}

int32_t to_codes(const KernelArgs* args) {
  const float scale = args->inputs[1].present() ? *args->inputs[1].as<const float>() : 1.0f;
  return by_format(args->integer(0), args->inputs[0].dtype, [&](auto number, auto tag) {
    encode<decltype(number), decltype(tag)::kFormat>(args->inputs[0], args->outputs[0], scale, args->flag(1));
  });
}

int32_t from_codes(const KernelArgs* args) {
  return by_format(args->integer(0), args->outputs[0].dtype, [&](auto number, auto tag) {
    decode<decltype(number), decltype(tag)::kFormat>(args->inputs[0], args->outputs[0]);
  });
}

void decode_row(int64_t format, const uint8_t* from, int64_t n, float* to) {
  if (static_cast<Fp8>(format) == Fp8::kE4M3) {
    for (int64_t i = 0; i < n; ++i) to[i] = from_fp8<Fp8::kE4M3>(from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = from_fp8<Fp8::kE5M2>(from[i]);
  }
}

// A task is kRowsOfB rows of b, whose numbers it keeps, and each row of a in turn.
constexpr int64_t kRowsOfB = 32;

int32_t multiply_codes(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1];
  const int64_t m = a.dim(0), n = b.dim(0), k = a.dim(1);
  const float factor = *args->inputs[2].as<const float>() * *args->inputs[3].as<const float>();
  float* y = args->outputs[0].as<float>();
  cpu::parallel_for((n + kRowsOfB - 1) / kRowsOfB, 1, [&](int64_t begin, int64_t end) {
    float* numbers = static_cast<float*>(cpu::scratch(2, static_cast<size_t>((kRowsOfB + 1) * k + 64) * sizeof(float)));
    float* row = numbers + kRowsOfB * k;
    for (int64_t first = begin * kRowsOfB; first < end * kRowsOfB && first < n; first += kRowsOfB) {
      const int64_t rows = n - first < kRowsOfB ? n - first : kRowsOfB;
      decode_row(args->integer(1), b.as<const uint8_t>() + first * k, rows * k, numbers);
      for (int64_t i = 0; i < m; ++i) {
        decode_row(args->integer(0), a.as<const uint8_t>() + i * k, k, row);
        for (int64_t j = 0; j < rows; ++j) {
          Vf sum{};
          for_lanes<float>(k, [&](int64_t d, int64_t count) { sum += load_some(row + d, count) * load_some(numbers + j * k + d, count); });
          y[i * n + first + j] = reduce_add(sum) * factor;
        }
      }
    }
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(fp8_matmul, multiply_codes)
LF_CPU_KERNEL(to_fp8, to_codes)
LF_CPU_KERNEL(from_fp8, from_codes)

}  // namespace lf
#endif
