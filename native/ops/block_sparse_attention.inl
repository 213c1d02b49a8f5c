// What the kernels of block-sparse attention for one instruction set share: the layout of blocks and its masks.
#pragma once
#include <cstdio>

#include "cpu/scratch.inl"
#include "cpu/simd.h"
#include "cpu/sizes.h"

namespace lf {
namespace {

constexpr int64_t kLargest = 128;  // rows and columns of a block at most
constexpr double kMinusInfinity = -__builtin_inf();

struct Layout {
  int64_t batch, queries, keys, heads, kv_heads, width, block, patterns;
  double scale;
  const int32_t *row_starts, *columns, *mask_ids;
  const uint8_t* masks;

  // `q` is the position of q among the inputs, `at` that of row_starts.
  Layout(const KernelArgs* args, int q, int at)
      : batch(args->inputs[q].shape[0]),
        queries(args->inputs[q].shape[1]),
        keys(args->inputs[q + 1].shape[1]),
        heads(args->integer(0)),
        kv_heads(args->integer(1)),
        width(args->inputs[q].shape[3]),
        block(args->integer(2)),
        patterns(args->inputs[at].shape[0]),
        scale(args->number(3) ? args->number(3) : 1.0 / __builtin_sqrt(static_cast<double>(args->inputs[q].shape[3]))),
        row_starts(args->inputs[at].as<const int32_t>()),
        columns(args->inputs[at + 1].as<const int32_t>()),
        mask_ids(args->inputs[at + 2].as<const int32_t>()),
        masks(args->inputs[at + 3].as<const uint8_t>()) {}

  int64_t rows() const { return ceil_div(queries, block); }
  const int32_t* starts_of(int64_t head) const { return row_starts + (patterns == 1 ? 0 : head) * (rows() + 1); }
  int64_t query_rows(int64_t row) const { return queries - row * block < block ? queries - row * block : block; }

  // Everything that the lists point at is there.
  int32_t check(const KernelArgs* args, int at) const {
    const int64_t entries = args->inputs[at + 1].numel, count = patterns * (rows() + 1);
    const int64_t last_column = ceil_div(keys, block) - 1, last_mask = args->inputs[at + 3].shape[0] - 1;
    bool right = entries == 0 || count > 0;
    for (int64_t i = 0; i < count; ++i) {
      right &= row_starts[i] >= 0 && row_starts[i] <= entries && (i % (rows() + 1) == 0 || row_starts[i] >= row_starts[i - 1]);
    }
    for (int64_t e = 0; e < entries; ++e) {
      right &= columns[e] >= 0 && columns[e] <= last_column && mask_ids[e] >= -1 && mask_ids[e] <= last_mask;
    }
    if (right) return kOk;
    std::snprintf(args->error, kErrorText, "the block layout points outside of its %lld blocks of keys, %lld masks or %lld entries",
                  static_cast<long long>(last_column + 1), static_cast<long long>(last_mask + 1), static_cast<long long>(entries));
    return kKernel;
  }

  // f(layout, head, q, k, v, out, lse) for every batch entry and head, with pointers to its numbers.
  template <class T, class Acc, class F>
  void for_heads(const KernelArgs* args, F&& f) const {
    const T *q = args->inputs[0].as<const T>(), *k = args->inputs[1].as<const T>(), *v = args->inputs[2].as<const T>();
    cpu::parallel_for(batch * heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / heads, h = task % heads;
        const int64_t at = b * queries * heads * width + h * width;
        const int64_t kv = b * keys * kv_heads * width + h / (heads / kv_heads) * width;
        f(*this, h, q + at, k + kv, v + kv, args->outputs[0].as<T>() + at, args->outputs[1].as<Acc>() + task * queries);
      }
    });
  }

  // Scores [rows][block] of one entry: what is not seen becomes -inf.
  template <class Acc>
  void hide(Acc* scores, int64_t count, int64_t entry) const {
    const int64_t end = keys - columns[entry] * block;
    if (mask_ids[entry] < 0 && end >= block) return;
    const uint8_t* mask = mask_ids[entry] < 0 ? nullptr : masks + mask_ids[entry] * block * block;
    for (int64_t r = 0; r < count; ++r) {
      Acc* row = scores + r * block;
      for (int64_t c = 0; c < block; ++c) {
        if (c >= end || (mask && !mask[r * block + c])) row[c] = static_cast<Acc>(kMinusInfinity);
      }
    }
  }
};

}  // namespace
}  // namespace lf
