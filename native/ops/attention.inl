// What the attention kernels of one instruction set share: sizes and strides, masks and biases, dropout, scratch memory.
#pragma once
#include "api/philox.h"
#include "cpu/simd.h"
#include "cpu/sizes.h"
#include "cpu/small_product.inl"

namespace lf {
namespace {

constexpr int64_t kKeyBlock = 64;  // a multiple of every vector width
constexpr int64_t kStrip = 16;     // rows or keys of a block that the causal border is followed in; a multiple of it as well
constexpr double kMinusInfinity = -__builtin_inf();

struct Shape {
  int64_t batch, queries, keys, heads, kv_heads, width, kv_length, window;
  // Elements from one token to the next, and where the first head of each part starts.
  int64_t q_stride, kv_stride, k_offset, v_offset;
  bool causal, packed;
  double scale, dropout;
  PhiloxKey key;
};

Shape shape_of(const KernelArgs* args, const TensorView& q, const TensorView& k) {
  Shape s{};
  s.heads = args->integer(0);
  s.kv_heads = args->integer(1);
  s.causal = args->flag(2);
  s.window = args->integer(3);
  s.dropout = args->number(5);
  s.key = philox_key(args->integer(6), args->integer(7));
  s.packed = !k.present();
  s.batch = q.shape[0];
  s.queries = q.shape[1];
  if (s.packed) {
    s.keys = s.queries;
    s.width = q.shape[2] / (s.heads + 2 * s.kv_heads);
    s.q_stride = s.kv_stride = q.shape[2];
    s.k_offset = s.heads * s.width;
    s.v_offset = (s.heads + s.kv_heads) * s.width;
  } else {
    s.keys = k.shape[1];
    s.width = q.shape[3];
    s.q_stride = s.heads * s.width;
    s.kv_stride = s.kv_heads * s.width;
  }
  s.kv_length = args->integer(8) ? args->integer(8) : s.keys;
  s.scale = args->number(4) ? args->number(4) : 1.0 / __builtin_sqrt(static_cast<double>(s.width));
  return s;
}

// What decides whether query i sees key j, and with which bias; for one batch entry and one head.
struct Visibility {
  const Shape& s;
  const uint8_t* key_mask;   // [keys] or nullptr
  const int32_t* segments;   // [keys] or nullptr
  double slope;              // 0: none

  int64_t position(int64_t query) const { return s.kv_length - s.queries + query; }
  int64_t first_key(int64_t query) const { return s.window ? max64(0, position(query) - s.window + 1) : 0; }
  int64_t end_key(int64_t query) const {
    const int64_t at = position(query);
    const int64_t end = s.causal ? at + 1 : s.window ? at + s.window : s.kv_length;
    return max64(0, min64(end, s.kv_length));
  }
  // f(row, rows, keys): the keys of the block from k0 on that the causal rule leaves, in whole strips; the rows of the
  // block that see all of it come together, as the last ones.
  template <int64_t kRows = kStrip, class F>
  void for_row_strips(int64_t q0, int64_t rows, int64_t k0, F&& f) const {
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t count = min64(kRows, rows - r);
      const int64_t keys = round_up(max64(end_key(q0 + r + count - 1) - k0, 0), kRows);
      if (keys >= kKeyBlock) return f(r, rows - r, kKeyBlock);
      if (keys > 0) f(r, count, keys);
    }
  }
  // f(key, keys, row): the same by keys, which are seen from `row` on; those that all rows see come together first.
  template <int64_t kKeys = kStrip, class F>
  void for_key_strips(int64_t q0, int64_t rows, int64_t k0, F&& f) const {
    int64_t first[kKeyBlock / kKeys];
    for (int64_t& row : first) row = rows;
    for_row_strips<kKeys>(q0, rows, k0, [&](int64_t r, int64_t, int64_t keys) {
      for (int64_t c = 0; c < keys; c += kKeys) first[c / kKeys] = min64(first[c / kKeys], r);
    });
    int64_t key = 0;
    while (key < kKeyBlock && first[key / kKeys] == 0) key += kKeys;
    if (key > 0) f(0, key, 0);
    for (; key < kKeyBlock; key += kKeys) {
      if (first[key / kKeys] < rows) f(key, kKeys, first[key / kKeys]);
    }
  }
  bool free_of_masks() const { return !key_mask && !segments && slope == 0; }

  // scores [rows][kKeyBlock] of queries from q0 on and keys from k0 on: adds the bias, sets what is not seen to -inf.
  template <class Acc>
  void apply(Acc* scores, int64_t q0, int64_t rows, int64_t k0) const {
    using V = typename Lanes<Acc>::V;
    constexpr int kLanes = Lanes<Acc>::n;
    V iota;
    for (int i = 0; i < kLanes; ++i) iota[i] = static_cast<Acc>(i);
    const V hidden = constant<V>(kMinusInfinity);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t first = first_key(q0 + r), end = end_key(q0 + r);
      Acc* row = scores + r * kKeyBlock;
      if (first <= k0 && end >= k0 + kKeyBlock && free_of_masks()) continue;
      const V low = constant<V>(static_cast<double>(first)), high = constant<V>(static_cast<double>(end));
      const V at = constant<V>(static_cast<double>(position(q0 + r)));
      for (int64_t c = 0; c < kKeyBlock; c += kLanes) {
        const V j = constant<V>(static_cast<double>(k0 + c)) + iota;
        V x = load(row + c);
        if (slope != 0) x -= constant<V>(slope) * abs(at - j);
        x = j < low ? hidden : x;
        x = j >= high ? hidden : x;
        store(row + c, x);
      }
      if (!key_mask && !segments) continue;
      const int64_t count = min64(kKeyBlock, s.kv_length - k0);
      for (int64_t c = 0; c < count; ++c) {
        if ((key_mask && !key_mask[k0 + c]) || (segments && segments[k0 + c] != segments[q0 + r])) {
          row[c] = static_cast<Acc>(kMinusInfinity);
        }
      }
    }
  }
};

// Multipliers of one row's probabilities: 0 where dropped, 1 / (1 - p) elsewhere. `first` is the row's first element index.
template <class Acc>
void dropout_row(const Shape& s, int64_t first, int64_t count, Acc* out) {
  const Acc kept = static_cast<Acc>(1.0 / (1.0 - s.dropout));
  const float p = static_cast<float>(s.dropout);
  uint32_t words[4];
  for (int64_t i = 0; i < count;) {
    const int64_t e = first + i;
    philox(s.key, static_cast<uint64_t>(e) / 4, words);
    for (int64_t w = e % 4; w < 4 && i < count; ++w, ++i) out[i] = philox_uniform(words[w]) >= p ? kept : Acc{};
  }
}

struct Masks {
  const uint8_t* key_mask;
  const int32_t* segments;
  const float* slopes;
  Masks(const TensorView& mask, const TensorView& segment, const TensorView& slope)
      : key_mask(mask.present() ? mask.as<const uint8_t>() : nullptr),
        segments(segment.present() ? segment.as<const int32_t>() : nullptr),
        slopes(slope.present() ? slope.as<const float>() : nullptr) {}
  Visibility of(const Shape& s, int64_t batch, int64_t head) const {
    return {s, key_mask ? key_mask + batch * s.keys : nullptr, segments ? segments + batch * s.keys : nullptr,
            slopes ? slopes[head] : 0.0};
  }
};

// Cuts one scratch buffer into 64-byte aligned pieces.
template <class Acc>
struct Pieces {
  char* at;
  explicit Pieces(int64_t elements, int pieces)
      : at(static_cast<char*>(cpu::scratch(2, static_cast<size_t>(elements) * sizeof(Acc) + 64 * static_cast<size_t>(pieces)))) {}
  Acc* take(int64_t elements) {
    Acc* piece = reinterpret_cast<Acc*>(at);
    at += round_up(elements * static_cast<int64_t>(sizeof(Acc)), 64);
    return piece;
  }
};

// What attention_backward reads and writes; every pointer is to the first head of its tensor.
template <class T, class Acc>
struct Gradients {
  const T *grad_out, *q, *k, *v, *out;
  const Acc* lse;
  T *grad_q, *grad_k, *grad_v;
};

// f(shape, sees, q, k, v, out, out_stride, lse, dropout_base) for every batch entry and head, with pointers to its numbers;
// `dropout_base` is the index of its first score.
template <class T, class Acc, class F>
void for_heads(const KernelArgs* args, F&& f) {
  const TensorView &q = args->inputs[0], &k = args->inputs[1], &v = args->inputs[2];
  const Shape s = shape_of(args, q, k);
  const Masks masks(args->inputs[3], args->inputs[4], args->inputs[5]);
  const T* q_data = q.as<const T>();
  const T* k_data = s.packed ? q_data + s.k_offset : k.as<const T>();
  const T* v_data = s.packed ? q_data + s.v_offset : v.as<const T>();
  const int64_t group = s.heads / s.kv_heads, out_stride = s.heads * s.width;
  cpu::parallel_for(s.batch * s.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / s.heads, h = task % s.heads;
      const int64_t kv = b * s.keys * s.kv_stride + h / group * s.width;
      f(s, masks.of(s, b, h), q_data + b * s.queries * s.q_stride + h * s.width, k_data + kv, v_data + kv,
        args->outputs[0].as<T>() + b * s.queries * out_stride + h * s.width, out_stride,
        args->outputs[1].as<Acc>() + task * s.queries, task * s.queries * s.keys);
    }
  });
}

// f(shape, masks, gradients, batch, kv_head) for every batch entry and key-value head.
template <class T, class Acc, class F>
void for_groups(const KernelArgs* args, F&& f) {
  const TensorView &q = args->inputs[1], &k = args->inputs[2], &v = args->inputs[3];
  const Shape s = shape_of(args, q, k);
  const Masks masks(args->inputs[6], args->inputs[7], args->inputs[8]);
  Gradients<T, Acc> g{};
  g.grad_out = args->inputs[0].as<const T>();
  g.q = q.as<const T>();
  g.k = s.packed ? g.q + s.k_offset : k.as<const T>();
  g.v = s.packed ? g.q + s.v_offset : v.as<const T>();
  g.out = args->inputs[4].as<const T>();
  g.lse = args->inputs[5].as<const Acc>();
  g.grad_q = args->outputs[0].as<T>();
  g.grad_k = s.packed ? g.grad_q + s.k_offset : args->outputs[1].as<T>();
  g.grad_v = s.packed ? g.grad_q + s.v_offset : args->outputs[2].as<T>();
  cpu::parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(s, masks, g, task / s.kv_heads, task % s.kv_heads);
  });
}

}  // namespace
}  // namespace lf
