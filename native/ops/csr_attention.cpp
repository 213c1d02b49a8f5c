// csr_attention and its gradient: softmax(q k^T * scale) v over the listed (query, key) pairs alone, element by element.
// The lists are a CSR matrix of [queries, keys] (row_starts, columns) for one (batch entry, head) pair, or several stacked
// along the diagonal: copy i has rows from i * queries and columns from i * keys on, so a device may compute many pairs as
// one sparse matrix. Pair p of batch * heads uses copy p mod copies; `entries` are those of each different pattern, in turn.
// The gradient also gets the transposed lists (column_starts, column_rows) and where each entry stands there (places); a device
// that reorders numbers by pieces of 4096 in the transposed order also which groups of four entries each piece takes them from, and
// its places are slots: in another order among every 16, which turn_order tells.
// With `block` above 1 the lists are of whole blocks of so many queries and keys (BSR): row_starts of rows of blocks, columns and
// the rest of blocks; `entries` are still pairs. For devices whose library multiplies by blocks; a CPU takes pairs.
// Besides the lists, the causal rule, segments and key_mask hide pairs as in attention. Rows that see nothing give zeros.
// Built in lib/ops/csr_attention.ts. Bound by reading a row of keys and of values for each pair.
#ifdef LF_SCHEMA_PASS
#include "ops/attention_inputs.h"

namespace lf {
namespace {

enum Attr { kHeads, kKvHeads, kCausal, kScale, kEntries, kLayout, kBlock };

const std::vector<AttrSpec>& csr_attrs() {
  static const std::vector<AttrSpec> kAttrs = {{"heads", AttrType::kInteger},  {"kv_heads", AttrType::kInteger},
                                               {"causal", AttrType::kFlag},    {"scale", AttrType::kNumber},
                                               {"entries", AttrType::kIntegers}, {"layout", AttrType::kInteger},
                                               {"block", AttrType::kInteger}};
  return kAttrs;
}

struct Sizes : HeadSizes {
  int64_t patterns, block;
  double entries;  // pairs of all patterns
};

// `q`, `lists` and `masks` are the positions of q, row_starts and key_mask among the inputs.
Sizes check(const OpCall& call, int q, int lists, int masks) {
  Sizes s{check_heads_of(call, q, call.integer(kHeads), call.integer(kKvHeads)), call.list_size(kEntries), call.integer(kBlock), 0};
  if (s.block < 1 || s.queries % s.block || s.keys % s.block) {
    call.fail(kArgument, "block is %lld for %lld queries and %lld keys; give a divisor of both, or 1", (long long)s.block,
              (long long)s.queries, (long long)s.keys);
  }
  int64_t total = 0;
  for (int i = 0; i < s.patterns; ++i) {
    if (call.item(kEntries, i) < 0 || call.item(kEntries, i) % (s.block * s.block)) {
      call.fail(kArgument, "a pattern has %lld entries", (long long)call.item(kEntries, i));
    }
    total += call.item(kEntries, i);
  }
  s.entries = static_cast<double>(total);
  if (s.patterns != 1 && s.patterns != s.heads) {
    call.fail(kShape, "there are %lld patterns for %lld heads; give one, or one a head", (long long)s.patterns, (long long)s.heads);
  }
  for (int i = lists; i < lists + 2; ++i) {
    call.check_dtype(i, DType::kI32);
    call.check_rank(i, 1, 1);
  }
  const int64_t rows = (call.in(lists).numel - 1) * s.block, copies = s.queries ? rows / s.queries : s.patterns;
  if (rows < 0 || copies < 1 || rows != copies * s.queries || copies % s.patterns ||
      call.in(lists + 1).numel * s.block * s.block != copies / s.patterns * total) {
    call.fail(kShape, "row_starts %s and columns %s are not stacked copies of %lld queries with %lld entries",
              shape_text(call.in(lists)).c_str(), shape_text(call.in(lists + 1)).c_str(), (long long)s.queries, (long long)total);
  }
  check_masks(call, s, masks, masks + 1);
  return s;
}

Cost cost_of(const OpCall& call, const Sizes& s, double flops_per_pair) {
  const double pairs = static_cast<double>(s.batch * (s.heads / s.patterns)) * s.entries;
  return io_cost_with_flops(call, flops_per_pair * static_cast<double>(s.width) * pairs);
}

LF_OP({.name = "csr_attention",
       .inputs = {{"q"},
                  {"k"},
                  {"v"},
                  {"row_starts"},
                  {"columns"},
                  {.name = "key_mask", .optional = true},
                  {.name = "segments", .optional = true}},
       .attrs = csr_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 0, 3, 5);
             call.output_like(call.in(0));
             call.output(call.in(0).dtype == DType::kF64 ? DType::kF64 : DType::kF32, {s.batch, s.heads, s.queries});
           },
       // Two products of 2 * width each a pair.
       .cost = [](const OpCall& call) { return cost_of(call, check(call, 0, 3, 5), 4.0); }})

LF_OP({.name = "csr_attention_backward",
       .inputs = {{"grad_out"},
                  {"q"},
                  {"k"},
                  {"v"},
                  {"lse"},
                  {"row_starts"},
                  {"columns"},
                  {"column_starts"},
                  {"column_rows"},
                  {"places"},
                  {.name = "key_mask", .optional = true},
                  {.name = "segments", .optional = true},
                  {.name = "turn_starts", .optional = true},
                  {.name = "turn_quads", .optional = true},
                  {.name = "turn_order", .optional = true}},
       .attrs = csr_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 1, 5, 10);
             call.check_same_shape(0, 1);
             call.check_same_dtype(0, 1);
             for (int i = 7; i < 10; ++i) call.check_dtype(i, DType::kI32);
             call.check_same_shape(6, 8);
             call.check_same_shape(6, 9);
             const int64_t copies = s.queries ? (call.in(5).numel - 1) * s.block / s.queries : s.patterns;
             if (call.in(7).rank != 1 || call.in(7).numel != copies * s.keys / s.block + 1) {
               call.fail(kShape, "column_starts has shape %s, needs [%lld]", shape_text(call.in(7)).c_str(),
                         (long long)(copies * s.keys / s.block + 1));
             }
             if (call.has(12) != call.has(13) || call.has(12) != call.has(14)) {
               call.fail(kArgument, "turn_starts, turn_quads and turn_order go together");
             }
             if (call.has(12)) {
               for (int i = 12; i < 15; ++i) call.check_dtype(i, DType::kI32);
               const long long pieces = (call.in(6).numel + 4095) / 4096;
               if (call.in(12).numel != pieces + 1) {
                 call.fail(kShape, "turn_starts has shape %s, needs [%lld]", shape_text(call.in(12)).c_str(), pieces + 1);
               }
               const long long words = 2 * ((call.in(6).numel + 15) / 16);
               if (call.in(14).numel != words) call.fail(kShape, "turn_order has shape %s, needs [%lld]", shape_text(call.in(14)).c_str(), words);
             }
             for (int i = 1; i < 4; ++i) call.output_like(call.in(i));
           },
       // Five products: S = QK^T again, dP = dO V^T, dV, dQ, dK.
       .cost = [](const OpCall& call) { return cost_of(call, check(call, 1, 5, 10), 10.0); }})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/scratch.inl"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr double kMinusInfinity = -__builtin_inf();
constexpr int64_t kRowsOfTask = 128;

struct Lists {
  int64_t batch, queries, keys, heads, kv_heads, width, copies;
  double scale;
  bool causal;
  const int32_t *row_starts, *columns;
  const uint8_t* key_mask;
  const int32_t* segments;

  // `q`, `lists` and `masks` are the positions of q, row_starts and key_mask among the inputs.
  Lists(const KernelArgs* args, int q, int lists, int masks)
      : batch(args->inputs[q].shape[0]),
        queries(args->inputs[q].shape[1]),
        keys(args->inputs[q + 1].shape[1]),
        heads(args->integer(0)),
        kv_heads(args->integer(1)),
        width(args->inputs[q].shape[3]),
        copies(queries ? (args->inputs[lists].numel - 1) / queries : 1),
        scale(args->number(3) ? args->number(3) : 1.0 / __builtin_sqrt(static_cast<double>(args->inputs[q].shape[3]))),
        causal(args->flag(2)),
        row_starts(args->inputs[lists].as<const int32_t>()),
        columns(args->inputs[lists + 1].as<const int32_t>()),
        key_mask(args->inputs[masks].present() ? args->inputs[masks].as<const uint8_t>() : nullptr),
        segments(args->inputs[masks + 1].present() ? args->inputs[masks + 1].as<const int32_t>() : nullptr) {}

  // Every list lies within the entries, and every column within its copy's keys. Then the longest row.
  int32_t check(const KernelArgs* args, int lists, int64_t* longest) const {
    if (args->integer(6) != 1) {
      std::snprintf(args->error, kErrorText, "a CPU takes lists of pairs, not of blocks of %lld", static_cast<long long>(args->integer(6)));
      return kKernel;
    }
    const int64_t entries = args->inputs[lists + 1].numel, rows = copies * queries;
    *longest = 0;
    bool right = row_starts[0] == 0;
    for (int64_t r = 0; r < rows && right; ++r) {
      right &= row_starts[r + 1] >= row_starts[r] && row_starts[r + 1] <= entries;
      if (right && row_starts[r + 1] - row_starts[r] > *longest) *longest = row_starts[r + 1] - row_starts[r];
      const int64_t low = r / queries * keys;
      for (int64_t e = row_starts[r]; right && e < row_starts[r + 1]; ++e) right &= columns[e] >= low && columns[e] < low + keys;
    }
    if (right) return kOk;
    std::snprintf(args->error, kErrorText, "the lists point outside of their %lld entries or %lld keys",
                  static_cast<long long>(entries), static_cast<long long>(keys));
    return kKernel;
  }
};

// What one row of one (batch entry, head) pair sees: `count` columns counted from `low` on.
struct Row {
  const int32_t* columns;
  int64_t count, low;
};
LF_INLINE Row row_of(const Lists& s, int64_t pair, int64_t query) {
  const int64_t copy = pair % s.copies, row = copy * s.queries + query;
  return {s.columns + s.row_starts[row], s.row_starts[row + 1] - s.row_starts[row], copy * s.keys};
}

// out[e] = x . y[columns[e]]; x in Acc, padded to whole vectors. As many rows of y at once as a vector has lanes: their sums
// are turned in registers, so that lanes are added without one shuffle after the other.
template <class T, class Acc>
void dot_rows(const Row& row, const Acc* x, const T* y, int64_t stride, int64_t width, Acc* out) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  int64_t e = 0;
  if constexpr (sizeof(Acc) == 4) {
    for (; e < row.count; e += kLanes) {
      const T* from[kLanes];
      for (int i = 0; i < kLanes; ++i) from[i] = y + (row.columns[e + i < row.count ? e + i : e] - row.low) * stride;
      V sums[kLanes] = {};
      int64_t d = 0;
      for (; d + kLanes <= width; d += kLanes) {
        const V part = load(x + d);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) sums[i] += part * load(from[i] + d);
      }
      if (d < width) {
        const V part = load(x + d);
        for (int i = 0; i < kLanes; ++i) sums[i] += part * load(from[i] + d, width - d);
      }
      transpose(sums);
      V total = sums[0];
      for (int i = 1; i < kLanes; ++i) total += sums[i];
      store_some(out + e, total, row.count - e < kLanes ? row.count - e : kLanes);
    }
  } else {
    for (; e < row.count; ++e) {
      const T* from = y + (row.columns[e] - row.low) * stride;
      V sum{};
      for_lanes<T>(width, [&](int64_t d, int64_t n) { sum += load_some(x + d, n) * load_some(from + d, n); });
      out[e] = reduce_add(sum);
    }
  }
}

// out = sum over e of weights[e] * y[columns[e]], a few vectors of the width at a time, two entries in turn.
template <int kVectors, class T, class Acc>
LF_INLINE void add_columns(const Row& row, const Acc* weights, const T* y, int64_t stride, Acc* out) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  V even[kVectors] = {}, odd[kVectors] = {};
  int64_t e = 0;
  for (; e + 2 <= row.count; e += 2) {
    const T *a = y + (row.columns[e] - row.low) * stride, *b = y + (row.columns[e + 1] - row.low) * stride;
    const V wa = splat(weights[e]), wb = splat(weights[e + 1]);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      even[i] += wa * load(a + i * kLanes);
      odd[i] += wb * load(b + i * kLanes);
    }
  }
  if (e < row.count) {
    const T* a = y + (row.columns[e] - row.low) * stride;
    const V wa = splat(weights[e]);
    for (int i = 0; i < kVectors; ++i) even[i] += wa * load(a + i * kLanes);
  }
  for (int i = 0; i < kVectors; ++i) store(out + i * kLanes, even[i] + odd[i]);
}
template <class T, class Acc>
void add_rows(const Row& row, const Acc* weights, const T* y, int64_t stride, int64_t width, Acc* out) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  int64_t d = 0;
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) add_columns<4>(row, weights, y + d, stride, out + d);
  for (; d + kLanes <= width; d += kLanes) add_columns<1>(row, weights, y + d, stride, out + d);
  if (d == width) return;
  V sum{};
  for (int64_t e = 0; e < row.count; ++e) sum += splat(weights[e]) * load(y + (row.columns[e] - row.low) * stride + d, width - d);
  store(out + d, sum);
}

// Scores that the causal rule, the segments or the key mask hide become -inf.
template <class Acc>
void hide(const Lists& s, const Row& row, int64_t b, int64_t query, Acc* scores) {
  if (!s.causal && !s.key_mask && !s.segments) return;
  const uint8_t* mask = s.key_mask ? s.key_mask + b * s.keys : nullptr;
  const int32_t* segments = s.segments ? s.segments + b * s.keys : nullptr;
  const int64_t last = s.causal ? query + s.keys - s.queries : s.keys;
  for (int64_t e = 0; e < row.count; ++e) {
    const int64_t key = row.columns[e] - row.low;
    if (key > last || (mask && !mask[key]) || (segments && segments[key] != segments[query])) {
      scores[e] = static_cast<Acc>(kMinusInfinity);
    }
  }
}

// One row of numbers in Acc, with zeros up to a whole vector.
template <class T, class Acc>
void widen_row(const T* from, int64_t width, int64_t padded, double factor, Acc* out) {
  using V = typename Lanes<Acc>::V;
  for (int64_t i = width; i < padded; ++i) out[i] = 0;
  for_lanes<T>(width, [&](int64_t i, int64_t n) { store_some(out + i, load_some(from + i, n) * constant<V>(factor), n); });
}

// --- forward: a task is some rows of one (batch entry, head) pair -------------------------------------------------------

template <class T, class Acc>
void attend_rows(const KernelArgs* args, const Lists& s, int64_t longest, int64_t pair, int64_t first, int64_t end) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = (s.width + kLanes - 1) / kLanes * kLanes;
  Scratch<Acc> scratch(2 * padded + longest + kLanes, 3);
  Acc* query = scratch.take(padded);
  Acc* sums = scratch.take(padded);
  Acc* scores = scratch.take(longest + kLanes);
  const int64_t b = pair / s.heads, h = pair % s.heads, q_stride = s.heads * s.width, kv_stride = s.kv_heads * s.width;
  const int64_t kv = b * s.keys * kv_stride + h / (s.heads / s.kv_heads) * s.width;
  const T *k = args->inputs[1].as<const T>() + kv, *v = args->inputs[2].as<const T>() + kv;
  Acc* lse = args->outputs[1].as<Acc>() + pair * s.queries;
  for (int64_t i = first; i < end; ++i) {
    const int64_t at = (b * s.queries + i) * q_stride + h * s.width;
    const Row row = row_of(s, pair, i);
    widen_row(args->inputs[0].as<const T>() + at, s.width, padded, s.scale, query);
    dot_rows(row, query, k, kv_stride, s.width, scores);
    hide(s, row, b, i, scores);
    for (int64_t e = row.count; e % kLanes; ++e) scores[e] = static_cast<Acc>(kMinusInfinity);
    V best = splat(static_cast<Acc>(kMinusInfinity));
    for (int64_t e = 0; e < row.count; e += kLanes) best = max(best, load(scores + e));
    const Acc highest = reduce_max(best), base = highest == static_cast<Acc>(kMinusInfinity) ? Acc{} : highest;
    V sum{};
    for (int64_t e = 0; e < row.count; e += kLanes) {
      const V p = exp(load(scores + e) - base);
      sum += p;
      store(scores + e, p);
    }
    const Acc total = reduce_add(sum);
    add_rows(row, scores, v, kv_stride, s.width, sums);
    const V factor = splat(total > 0 || total != total ? 1 / total : Acc{});
    for_lanes<T>(s.width, [&](int64_t d, int64_t n) {
      store_some(args->outputs[0].as<T>() + at + d, load_some(sums + d, n) * factor, n);
    });
    lse[i] = highest + log(splat(total))[0];
  }
}

template <class T, class Acc>
int32_t forward(const KernelArgs* args) {
  const Lists s(args, 0, 3, 5);
  int64_t longest = 0;
  if (int32_t code = s.check(args, 3, &longest)) return code;
  const int64_t parts = (s.queries + kRowsOfTask - 1) / kRowsOfTask;
  cpu::parallel_for(s.batch * s.heads * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * kRowsOfTask, last = first + kRowsOfTask;
      attend_rows<T, Acc>(args, s, longest, task / parts, first, last < s.queries ? last : s.queries);
    }
  });
  return kOk;
}

// --- backward: one task per batch entry and key-value head ---------------------------------------------------------------

// The lists by keys: what listed each key, and where each entry stands there.
struct TurnedLists {
  const int32_t *column_starts, *column_rows, *places;
  int64_t most;  // entries of a copy

  TurnedLists(const KernelArgs* args, const Lists& s)
      : column_starts(args->inputs[7].as<const int32_t>()),
        column_rows(args->inputs[8].as<const int32_t>()),
        places(args->inputs[9].as<const int32_t>()),
        most(0) {
    for (int64_t c = 0; c < s.copies; ++c) {
      const int64_t count = s.row_starts[(c + 1) * s.queries] - s.row_starts[c * s.queries];
      if (count > most) most = count;
    }
  }

  // Copies hold the same entries in both orders.
  int32_t check(const KernelArgs* args, const Lists& s) const {
    bool right = true;
    for (int64_t c = 0; c < s.copies; ++c) {
      const int64_t first = s.row_starts[c * s.queries], end = s.row_starts[(c + 1) * s.queries];
      right &= column_starts[c * s.keys] == first && column_starts[(c + 1) * s.keys] == end;
      for (int64_t j = c * s.keys; j < (c + 1) * s.keys; ++j) right &= column_starts[j + 1] >= column_starts[j];
      for (int64_t e = first; e < end; ++e) {
        right &= places[e] >= first && places[e] < end && column_rows[e] >= c * s.queries && column_rows[e] < (c + 1) * s.queries;
      }
    }
    if (right) return kOk;
    std::snprintf(args->error, kErrorText, "the lists by keys do not hold the entries of the lists by queries");
    return kKernel;
  }
};

template <class T, class Acc>
void gradients_of_group(const KernelArgs* args, const Lists& s, const TurnedLists& turned, int64_t longest, int64_t b, int64_t kv_head) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = (s.width + kLanes - 1) / kLanes * kLanes, group = s.heads / s.kv_heads;
  const int64_t q_stride = s.heads * s.width, kv_stride = s.kv_heads * s.width;
  Scratch<Acc> scratch(3 * padded + 2 * (longest + kLanes) + 2 * s.keys * padded + 2 * turned.most, 9);
  Acc* query = scratch.take(padded);
  Acc* grad = scratch.take(padded);
  Acc* sums = scratch.take(padded);
  Acc* probabilities = scratch.take(longest + kLanes);
  Acc* score_grads = scratch.take(longest + kLanes);
  Acc* key_sums = scratch.take(s.keys * padded);
  Acc* value_sums = scratch.take(s.keys * padded);
  // Of one head, in the order of the lists by keys.
  Acc* all_probabilities = scratch.take(turned.most);
  Acc* all_grads = scratch.take(turned.most);
  for (int64_t i = 0; i < s.keys * padded; ++i) key_sums[i] = value_sums[i] = 0;
  const int64_t kv = b * s.keys * kv_stride + kv_head * s.width;
  const T *k = args->inputs[2].as<const T>() + kv, *v = args->inputs[3].as<const T>() + kv;

  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const int64_t pair = b * s.heads + h, copy = pair % s.copies, first = s.row_starts[copy * s.queries];
    const Acc* lse = args->inputs[4].as<const Acc>() + pair * s.queries;
    const int64_t head = b * s.queries * q_stride + h * s.width;
    const T *queries = args->inputs[1].as<const T>() + head, *grads = args->inputs[0].as<const T>() + head;
    for (int64_t i = 0; i < s.queries; ++i) {
      const Row row = row_of(s, pair, i);
      widen_row(queries + i * q_stride, s.width, padded, s.scale, query);
      widen_row(grads + i * q_stride, s.width, padded, 1.0, grad);
      dot_rows(row, query, k, kv_stride, s.width, probabilities);
      hide(s, row, b, i, probabilities);
      dot_rows(row, grad, v, kv_stride, s.width, score_grads);
      for (int64_t e = row.count; e % kLanes; ++e) {
        probabilities[e] = static_cast<Acc>(kMinusInfinity);
        score_grads[e] = 0;
      }
      // A query that sees nothing has lse = -inf; its scores are all -inf, and exp(-inf - 0) is 0.
      const Acc log_sum = lse[i] == static_cast<Acc>(kMinusInfinity) ? Acc{} : lse[i];
      V sum{};
      for (int64_t e = 0; e < row.count; e += kLanes) {
        const V p = exp(load(probabilities + e) - log_sum);
        store(probabilities + e, p);
        sum += p * load(score_grads + e);
      }
      const Acc delta = reduce_add(sum);
      for (int64_t e = 0; e < row.count; e += kLanes) {
        store(score_grads + e, load(probabilities + e) * (load(score_grads + e) - delta) * constant<V>(s.scale));
      }
      add_rows(row, score_grads, k, kv_stride, s.width, sums);
      for_lanes<T>(s.width, [&](int64_t d, int64_t n) {
        store_some(args->outputs[0].as<T>() + head + i * q_stride + d, load_some(sums + d, n), n);
      });
      const int32_t* places = turned.places + (row.columns - s.columns);
      for (int64_t e = 0; e < row.count; ++e) {
        all_probabilities[places[e] - first] = probabilities[e];
        all_grads[places[e] - first] = score_grads[e];
      }
    }
    for (int64_t j = 0; j < s.keys; ++j) {
      const int64_t begin = turned.column_starts[copy * s.keys + j], end = turned.column_starts[copy * s.keys + j + 1];
      const Row column = {turned.column_rows + begin, end - begin, copy * s.queries};
      add_rows(column, all_probabilities + (begin - first), grads, q_stride, s.width, sums);
      for (int64_t d = 0; d < padded; d += kLanes) store(value_sums + j * padded + d, load(value_sums + j * padded + d) + load(sums + d));
      add_rows(column, all_grads + (begin - first), queries, q_stride, s.width, sums);
      for (int64_t d = 0; d < padded; d += kLanes) store(key_sums + j * padded + d, load(key_sums + j * padded + d) + load(sums + d));
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
      store_some(args->outputs[1].as<T>() + kv + j * kv_stride + i, load_some(key_sums + j * padded + i, n), n);
      store_some(args->outputs[2].as<T>() + kv + j * kv_stride + i, load_some(value_sums + j * padded + i, n), n);
    });
  }
}

template <class T, class Acc>
int32_t backward(const KernelArgs* args) {
  const Lists s(args, 1, 5, 10);
  int64_t longest = 0;
  if (int32_t code = s.check(args, 5, &longest)) return code;
  const TurnedLists turned(args, s);
  if (int32_t code = turned.check(args, s)) return code;
  cpu::parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      gradients_of_group<T, Acc>(args, s, turned, longest, task / s.kv_heads, task % s.kv_heads);
    }
  });
  return kOk;
}

int32_t csr_attention(const KernelArgs* args) {
  int32_t code = kOk;
  visit_floating(args->inputs[0].dtype, [&](auto type) {
    using T = decltype(type);
    code = forward<T, typename Lanes<T>::Scalar>(args);
  });
  return code;
}

int32_t csr_attention_backward(const KernelArgs* args) {
  int32_t code = kOk;
  visit_floating(args->inputs[1].dtype, [&](auto type) {
    using T = decltype(type);
    code = backward<T, typename Lanes<T>::Scalar>(args);
  });
  return code;
}

}  // namespace

LF_CPU_KERNEL(csr_attention, csr_attention)
LF_CPU_KERNEL(csr_attention_backward, csr_attention_backward)

}  // namespace lf
#endif
