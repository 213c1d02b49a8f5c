// sparse_linear: y = x W^T (+ bias) with W [out, in] kept without its zeros: only what is there is read and multiplied.
//   blocks: W is cut into blocks of `rows` x `columns`; those that are not zero lie in `values` [blocks, columns, rows], block
//           row after block row, each from left to right; `places` i32 [blocks] is the block column of each, `offsets` i32
//           [out / rows + 1] where each block row begins. 1 x 1 is CSR.
//   2 of 4: without offsets. values [out, in / 2], two of every four neighbours along a row, places u8 [out, in / 4]: the
//           position of the first in bits 0 and 1, of the second in bits 2 and 3.
// x [..., in], y [..., out]. Bound by loads: x is turned so that tokens lie in lanes, and every value meets a few vectors of
// tokens, which `rows` values share. Sums run along a row in order, in f32.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

enum Input { kX, kValues, kPlaces, kOffsets, kBias };
enum Attr { kOut, kRows, kColumns };

constexpr int64_t kTokens = 64;  // of a tile; also in the kernel part

void shape(OpCall& call) {
  call.check_rank(kX, 1);
  call.check_floating(kX);
  if (call.in(kX).dtype == DType::kF64) call.fail(kDType, "x is f64, needs f32, f16 or bf16");
  call.check_dtype(kValues, DType::kF32);
  const TensorView& x = call.in(kX);
  const int64_t in = x.dim(-1), out = call.integer(kOut), rows = call.integer(kRows), columns = call.integer(kColumns);
  const int64_t values = call.in(kValues).numel, places = call.in(kPlaces).numel;
  if (call.has(kOffsets)) {
    call.check_dtype(kPlaces, DType::kI32);
    call.check_dtype(kOffsets, DType::kI32);
    if ((rows != 1 && rows != 2 && rows != 4) || columns < 1 || out % rows || in % columns) {
      call.fail(kShape, "blocks of %lld x %lld do not tile [%lld, %lld]; needs 1, 2 or 4 rows", (long long)rows, (long long)columns,
                (long long)out, (long long)in);
    }
    if (values != places * rows * columns || call.in(kOffsets).numel != out / rows + 1) {
      call.fail(kShape, "%lld values, %lld places and %lld offsets do not make blocks of %lld x %lld in %lld rows", (long long)values,
                (long long)places, (long long)call.in(kOffsets).numel, (long long)rows, (long long)columns, (long long)out);
    }
  } else {
    call.check_dtype(kPlaces, DType::kU8);
    if (in % 4 || values != out * in / 2 || places != out * in / 4) {
      call.fail(kShape, "%lld values and %lld places are not 2 of 4 in [%lld, %lld]", (long long)values, (long long)places,
                (long long)out, (long long)in);
    }
  }
  if (call.has(kBias) && (call.in(kBias).numel != out || call.in(kBias).dtype != DType::kF32)) {
    call.fail(kShape, "bias is %s, needs f32 [%lld]", view_text(call.in(kBias)).c_str(), (long long)out);
  }
  int64_t sizes[kMaxRank];
  for (int i = 0; i < x.rank; ++i) sizes[i] = x.shape[i];
  sizes[x.rank - 1] = out;
  call.output(x.dtype, sizes, x.rank);
}

LF_OP({.name = "sparse_linear",
       .inputs = {{"x"}, {"values"}, {"places"}, {.name = "offsets", .optional = true}, {.name = "bias", .optional = true}},
       .attrs = {{"out", AttrType::kInteger}, {"rows", AttrType::kInteger}, {"columns", AttrType::kInteger}},
       .shape = shape,
       .cost =
           [](const OpCall& call) {
             const TensorView& x = call.in(kX);
             const double tokens = static_cast<double>(x.span(0, x.rank - 1));
             return io_cost_with_flops(call, 2.0 * tokens * static_cast<double>(call.in(kValues).numel));
           },
       // x with tokens in lanes, tile by tile.
       .workspace =
           [](const OpCall& call) {
             const TensorView& x = call.in(kX);
             return (x.span(0, x.rank - 1) + kTokens - 1) / kTokens * kTokens * x.dim(-1) * 4;
           }})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kTokens = 64;
constexpr int64_t kRowsOfTask = 32;

// x [tokens, in] -> turned [in][width] for tokens [first, first + count), `width` of a whole number of vectors.
template <class T>
void turn(const T* x, int64_t in, int64_t first, int64_t count, int64_t width, float* turned) {
  int64_t c = 0;
  for (; c + kVf <= in; c += kVf) {
    for (int64_t t = 0; t < width; t += kVf) {
      Vf block[kVf];
      for (int i = 0; i < kVf; ++i) block[i] = t + i < count ? load(x + (first + t + i) * in + c) : Vf{};
      transpose(block);
      for (int i = 0; i < kVf; ++i) store(turned + (c + i) * width + t, block[i]);
    }
  }
  for (; c < in; ++c) {
    for (int64_t t = 0; t < width; ++t) turned[c * width + t] = t < count ? get(x + (first + t) * in + c) : 0.0f;
  }
}

// Sums of kR rows for kN vectors of tokens, added to `sums`; kR values for each column, one after the other.
template <int kR, int kN>
LF_INLINE void add_column(Vf (&sums)[kR][kN], const float* values, const float* turned) {
  Vf tokens[kN];
#pragma GCC unroll 8
  for (int v = 0; v < kN; ++v) tokens[v] = load(turned + v * kVf);
#pragma GCC unroll 8
  for (int r = 0; r < kR; ++r) {
    const Vf value = splat(values[r]);
#pragma GCC unroll 8
    for (int v = 0; v < kN; ++v) sums[r][v] += value * tokens[v];
  }
}

struct Weight {
  const float* values;
  const int32_t* places;
  const int32_t* offsets;  // nullptr: 2 of 4
  const uint8_t* pairs;
  const float* bias;
  int64_t out, in, rows, columns;
};

// out [kR][width] = rows [row, row + kR) of W times a turned tile, kN vectors of tokens at a time.
template <int kR, int kN>
void multiply(const Weight& w, const float* turned, int64_t width, int64_t row, float* out) {
  for (int64_t t = 0; t < width; t += kN * kVf) {
    Vf sums[kR][kN];
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kN; ++v) sums[r][v] = splat(w.bias ? w.bias[row + r] : 0.0f);
    const float* tokens = turned + t;
    if (w.offsets) {
      const float* values = w.values + static_cast<int64_t>(w.offsets[row / kR]) * kR * w.columns;
      for (int64_t b = w.offsets[row / kR]; b < w.offsets[row / kR + 1]; ++b) {
        const float* from = tokens + w.places[b] * w.columns * width;
        for (int64_t c = 0; c < w.columns; ++c, values += kR) add_column<kR, kN>(sums, values, from + c * width);
      }
    } else if constexpr (kR == 1) {
      const float* values = w.values + row * w.in / 2;
      const uint8_t* pairs = w.pairs + row * w.in / 4;
      for (int64_t g = 0; g < w.in / 4; ++g, values += 2) {
        const float* from = tokens + 4 * g * width;
        add_column<1, kN>(sums, values, from + (pairs[g] & 3) * width);
        add_column<1, kN>(sums, values + 1, from + (pairs[g] >> 2 & 3) * width);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kN; ++v) store(out + r * width + t + v * kVf, sums[r][v]);
  }
}

template <int kR>
void multiply_rows(const Weight& w, const float* turned, int64_t width, int64_t row, float* out) {
  constexpr int kMost = kR == 4 && kVf < 16 ? 2 : 4;  // vectors of tokens, as registers allow
  static_assert(kTokens % (kMost * kVf) == 0);
  if (width % (kMost * kVf) == 0) multiply<kR, kMost>(w, turned, width, row, out);
  else multiply<kR, 1>(w, turned, width, row, out);
}

// What a file may have got wrong: places outside of W, offsets that do not rise.
bool inside(const Weight& w, int64_t blocks) {
  if (!w.offsets) return true;
  bool good = w.offsets[0] == 0 && w.offsets[w.out / w.rows] == blocks;
  for (int64_t r = 0; r < w.out / w.rows; ++r) good = good && w.offsets[r] <= w.offsets[r + 1];
  for (int64_t b = 0; b < blocks; ++b) good = good && w.places[b] >= 0 && w.places[b] < w.in / w.columns;
  return good;
}

template <class T>
int32_t linear(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  const TensorView &places = args->inputs[2], &offsets = args->inputs[3], &bias = args->inputs[4];
  Weight w;
  w.values = args->inputs[1].as<const float>();
  w.offsets = offsets.present() ? offsets.as<const int32_t>() : nullptr;
  w.places = w.offsets ? places.as<const int32_t>() : nullptr;
  w.pairs = w.offsets ? nullptr : places.as<const uint8_t>();
  w.bias = bias.present() ? bias.as<const float>() : nullptr;
  w.out = args->integer(0);
  w.rows = w.offsets ? args->integer(1) : 1;
  w.columns = args->integer(2);
  w.in = x.dim(-1);
  if (!inside(w, places.numel)) {
    std::snprintf(args->error, kErrorText, "places or offsets lie outside of a matrix of [%lld, %lld]", static_cast<long long>(w.out),
                  static_cast<long long>(w.in));
    return kKernel;
  }
  const int64_t tokens = x.span(0, x.rank - 1), tiles = (tokens + kTokens - 1) / kTokens;
  float* turned = static_cast<float*>(args->workspace);
  const auto count_of = [=](int64_t tile) { return tokens - tile * kTokens < kTokens ? tokens - tile * kTokens : kTokens; };
  const auto width_of = [=](int64_t tile) { return (count_of(tile) + kVf - 1) / kVf * kVf; };
  cpu::parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      turn(x.as<const T>(), w.in, tile * kTokens, count_of(tile), width_of(tile), turned + tile * kTokens * w.in);
    }
  });
  const int64_t parts = (w.out + kRowsOfTask - 1) / kRowsOfTask;
  // A tile's tokens stay in the cache while all rows pass.
  cpu::parallel_for(tiles * parts, 1, [&](int64_t begin, int64_t end) {
    float sums[kRowsOfTask * kTokens];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t tile = task / parts, first = task % parts * kRowsOfTask, width = width_of(tile), count = count_of(tile);
      const int64_t last = first + kRowsOfTask < w.out ? first + kRowsOfTask : w.out;
      const float* own = turned + tile * kTokens * w.in;
      for (int64_t row = first; row < last; row += w.rows) {
        float* to = sums + (row - first) * width;
        if (w.rows == 4) multiply_rows<4>(w, own, width, row, to);
        else if (w.rows == 2) multiply_rows<2>(w, own, width, row, to);
        else multiply_rows<1>(w, own, width, row, to);
      }
      T* out = y.as<T>() + tile * kTokens * w.out + first;
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t row = 0; row < last - first; ++row) put(out + t * w.out + row, sums[row * width + t]);
      }
    }
  });
  return kOk;
}

int32_t sparse_linear(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF16: return linear<f16>(args);
    case DType::kBF16: return linear<bf16>(args);
    default: return linear<float>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(sparse_linear, sparse_linear)

}  // namespace lf
#endif
