// attention and attention_backward: softmax(q k^T * scale + bias) v without ever storing [queries, keys], after
// FlashAttention-2 (Dao, arXiv 2307.08691): blocks of keys pass by a block of queries that keeps a running maximum and sum.
// Inputs and masks are described in lib/ops/attention.ts. Bound by FLOPs; everything a task touches stays in its cache.
// Random numbers of dropout: element ((b * heads + h) * queries + i) * keys + j of the operator's Philox block.
#ifdef LF_SCHEMA_PASS
#include "ops/attention_inputs.h"

namespace lf {
namespace {

enum Attr { kHeads, kKvHeads, kCausal, kWindow, kScale, kDropout, kSeed, kOffset, kKvLength };

const std::vector<AttrSpec>& attention_attrs() {
  static const std::vector<AttrSpec> kAttrs = {
      {"heads", AttrType::kInteger},   {"kv_heads", AttrType::kInteger}, {"causal", AttrType::kFlag},
      {"window", AttrType::kInteger},  {"scale", AttrType::kNumber},     {"dropout", AttrType::kNumber},
      {"seed", AttrType::kInteger},    {"offset", AttrType::kInteger},   {"kv_length", AttrType::kInteger}};
  return kAttrs;
}

struct Sizes : HeadSizes {
  bool packed;
};

// `q` and `key_mask` are positions of inputs; k and v follow q, segments and slopes follow key_mask.
Sizes check(const OpCall& call, int q, int key_mask) {
  const int k = q + 1, v = q + 2, segments = key_mask + 1, slopes = key_mask + 2;
  const int64_t heads = call.integer(kHeads), kv_heads = call.integer(kKvHeads);
  if (call.number(kDropout) < 0 || call.number(kDropout) >= 1) {
    call.fail(kArgument, "dropout must be at least 0 and below 1, got %g", call.number(kDropout));
  }
  if (call.integer(kWindow) < 0) call.fail(kArgument, "window must not be negative");
  Sizes s{};
  s.packed = !call.has(k);
  if (s.packed != !call.has(v)) call.fail(kArgument, "k and v come together, or not at all when q is packed");
  if (s.packed) {
    check_heads(call, heads, kv_heads);
    call.check_floating(q);
    call.check_rank(q, 3, 3);
    const TensorView& query = call.in(q);
    const int64_t parts = heads + 2 * kv_heads;
    if (query.dim(2) % parts) {
      call.fail(kShape, "packed q has shape %s; its last axis must be a multiple of heads + 2 kv_heads = %lld",
                shape_text(query).c_str(), (long long)parts);
    }
    static_cast<HeadSizes&>(s) = {query.dim(0), query.dim(1), query.dim(1), heads, kv_heads, query.dim(2) / parts};
  } else {
    static_cast<HeadSizes&>(s) = check_heads_of(call, q, heads, kv_heads);
  }
  const int64_t kv_length = call.integer(kKvLength);
  if (kv_length < 0 || kv_length > s.keys) {
    call.fail(kArgument, "kv_length %lld is not within 0 and %lld keys", (long long)kv_length, (long long)s.keys);
  }
  check_masks(call, s, key_mask, segments);
  if (call.has(slopes) && (call.in(slopes).numel != s.heads || call.in(slopes).dtype != DType::kF32)) {
    call.fail(kShape, "slopes is %s, needs f32 [%lld]", view_text(call.in(slopes)).c_str(), (long long)s.heads);
  }
  return s;
}

// Pairs of one query and one key that the causal and window rules leave, for one head: the FLOPs that count.
double visible_pairs(const OpCall& call, const Sizes& s) {
  const int64_t keys = call.integer(kKvLength) ? call.integer(kKvLength) : s.keys;
  const int64_t window = call.integer(kWindow);
  double pairs = 0;
  for (int64_t i = 0; i < s.queries; ++i) {
    const int64_t at = keys - s.queries + i;
    const int64_t last = call.flag(kCausal) ? at : window ? at + window - 1 : keys - 1;
    const int64_t first = window ? at - window + 1 : 0;
    const int64_t low = first < 0 ? 0 : first, high = last > keys - 1 ? keys - 1 : last;
    if (high >= low) pairs += static_cast<double>(high - low + 1);
  }
  return pairs;
}

LF_OP({.name = "attention",
       .inputs = {{"q"},
                  {.name = "k", .optional = true},
                  {.name = "v", .optional = true},
                  {.name = "key_mask", .optional = true},
                  {.name = "segments", .optional = true},
                  {.name = "slopes", .optional = true}},
       .attrs = attention_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 0, 3);
             const DType dtype = call.in(0).dtype;
             if (s.packed) {
               call.output(dtype, {s.batch, s.queries, s.heads * s.width});
             } else {
               call.output_like(call.in(0));
             }
             call.output(dtype == DType::kF64 ? DType::kF64 : DType::kF32, {s.batch, s.heads, s.queries});
           },
       // Two products of 2 * width each a pair.
       .cost =
           [](const OpCall& call) {
             const Sizes s = check(call, 0, 3);
             return io_cost_with_flops(call, 4.0 * static_cast<double>(s.batch * s.heads * s.width) * visible_pairs(call, s));
           }})

LF_OP({.name = "attention_backward",
       .inputs = {{"grad_out"},
                  {"q"},
                  {.name = "k", .optional = true},
                  {.name = "v", .optional = true},
                  {"out"},
                  {"lse"},
                  {.name = "key_mask", .optional = true},
                  {.name = "segments", .optional = true},
                  {.name = "slopes", .optional = true}},
       .attrs = attention_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 1, 6);
             call.check_same_shape(0, 4);
             call.check_same_dtype(0, 1);
             call.output_like(call.in(1));
             if (!s.packed) {
               call.output_like(call.in(2));
               call.output_like(call.in(3));
             }
           },
       // Five products: S = QK^T again, dP = dO V^T, dV, dQ, dK.
       .cost =
           [](const OpCall& call) {
             const Sizes s = check(call, 1, 6);
             return io_cost_with_flops(call, 10.0 * static_cast<double>(s.batch * s.heads * s.width) * visible_pairs(call, s));
           }})

}  // namespace
}  // namespace lf
#else
#include "cpu/isa.h"
#include "ops/attention.inl"

namespace lf {
namespace {

constexpr int64_t kQueryBlock = 60;  // a multiple of kTileRows

template <class Acc, class T>
void load_rows(const T* from, int64_t stride, int64_t rows, int64_t width, int64_t padded, Acc* out, double factor) {
  using V = typename Lanes<Acc>::V;
  for (int64_t r = 0; r < rows; ++r) {
    for_lanes<T>(width, [&](int64_t i, int64_t n) {
      store_some(out + r * padded + i, load_some(from + r * stride + i, n) * constant<V>(factor), n);
    });
    for (int64_t i = width; i < padded; ++i) out[r * padded + i] = 0;
  }
}

// rows [count][padded] -> blocks of kKeyBlock keys: [block][width][kKeyBlock], zeros beyond count.
template <class Acc>
void transpose_blocks(const Acc* rows, int64_t count, int64_t width, int64_t padded, Acc* out) {
  for (int64_t k0 = 0; k0 < count; k0 += kKeyBlock) {
    Acc* block = out + k0 * width;
    const int64_t n = min64(kKeyBlock, count - k0);
    int64_t d = 0;
    if constexpr (sizeof(Acc) == 4) {
      for (; d + kVf <= width; d += kVf) {
        for (int64_t j = 0; j < kKeyBlock; j += kVf) {
          Vf square[kVf];
          for (int i = 0; i < kVf; ++i) square[i] = j + i < n ? load(rows + (k0 + j + i) * padded + d) : Vf{};
          transpose(square);
          for (int i = 0; i < kVf; ++i) store(block + (d + i) * kKeyBlock + j, square[i]);
        }
      }
    }
    for (; d < width; ++d) {
      for (int64_t j = 0; j < n; ++j) block[d * kKeyBlock + j] = rows[(k0 + j) * padded + d];
      for (int64_t j = n; j < kKeyBlock; ++j) block[d * kKeyBlock + j] = 0;
    }
  }
}

// --- forward: one task per batch entry and head -----------------------------------------------------------------------

template <class T, class Acc>
void forward_head(const Shape& s, const Visibility& sees, const T* q, const T* k, const T* v, T* out, int64_t out_stride,
                  Acc* lse, int64_t dropout_base) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = round_up(s.width, kLanes), keys = round_up(max64(s.kv_length, 1), kKeyBlock);
  Pieces<Acc> pieces(keys * (padded + s.width) + kQueryBlock * (2 * padded + kKeyBlock) + keys * padded + 3 * kKeyBlock, 8);
  Acc* values = pieces.take(keys * padded);
  Acc* key_columns = pieces.take(keys * s.width);
  Acc* queries = pieces.take(kQueryBlock * padded);
  Acc* sums = pieces.take(kQueryBlock * padded);
  Acc* scores = pieces.take(kQueryBlock * kKeyBlock);
  Acc* kept = pieces.take(kKeyBlock);
  Acc* key_rows = pieces.take(keys * padded);
  load_rows(k, s.kv_stride, s.kv_length, s.width, padded, key_rows, 1.0);
  transpose_blocks(key_rows, s.kv_length, s.width, padded, key_columns);
  load_rows(v, s.kv_stride, s.kv_length, s.width, padded, values, 1.0);
  for (int64_t i = s.kv_length * padded; i < keys * padded; ++i) values[i] = 0;
  Acc highest[kQueryBlock], total[kQueryBlock];

  for (int64_t q0 = 0; q0 < s.queries; q0 += kQueryBlock) {
    const int64_t rows = min64(kQueryBlock, s.queries - q0);
    load_rows(q + q0 * s.q_stride, s.q_stride, rows, s.width, padded, queries, s.scale);
    for (int64_t i = 0; i < rows * padded; ++i) sums[i] = 0;
    for (int64_t r = 0; r < rows; ++r) {
      highest[r] = static_cast<Acc>(kMinusInfinity);
      total[r] = 0;
    }
    // Bounds grow with the query, so the first row has the first key and the last row the last.
    const int64_t begin = sees.first_key(q0) / kKeyBlock * kKeyBlock, end = sees.end_key(q0 + rows - 1);
    for (int64_t k0 = begin; k0 < end; k0 += kKeyBlock) {
      sees.for_row_strips(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
        small_product<false>(count, seen, s.width, queries + r * padded, padded, key_columns + k0 * s.width, kKeyBlock,
                             scores + r * kKeyBlock, kKeyBlock, false);
      });
      sees.apply(scores, q0, rows, k0);
      for (int64_t r = 0; r < rows; ++r) {
        Acc* row = scores + r * kKeyBlock;
        V best = load(row);
        for (int64_t c = kLanes; c < kKeyBlock; c += kLanes) best = max(best, load(row + c));
        Acc now = reduce_max(best);
        if (highest[r] == static_cast<Acc>(kMinusInfinity)) {
          highest[r] = now;  // nothing was seen before: there is nothing to scale
        } else if (!(now <= highest[r])) {
          const Acc shrink = exp(splat(highest[r] - now))[0];
          total[r] *= shrink;
          for (int64_t d = 0; d < padded; d += kLanes) store(sums + r * padded + d, load(sums + r * padded + d) * shrink);
          highest[r] = now;
        }
        now = highest[r];
        if (now == static_cast<Acc>(kMinusInfinity)) now = 0;  // nothing seen yet: every exp below is 0
        V sum{};
        for (int64_t c = 0; c < kKeyBlock; c += kLanes) {
          const V p = exp(load(row + c) - now);
          sum += p;
          store(row + c, p);
        }
        total[r] += reduce_add(sum);
        if (s.dropout > 0) {
          dropout_row(s, dropout_base + (q0 + r) * s.keys + k0, kKeyBlock, kept);
          for (int64_t c = 0; c < kKeyBlock; c += kLanes) store(row + c, load(row + c) * load(kept + c));
        }
      }
      sees.for_row_strips(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
        small_product<false>(count, padded, seen, scores + r * kKeyBlock, kKeyBlock, values + k0 * padded, padded,
                             sums + r * padded, padded, true);
      });
    }
    for (int64_t r = 0; r < rows; ++r) {
      const V factor = splat(total[r] > 0 || total[r] != total[r] ? 1 / total[r] : Acc{});
      for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
        store_some(out + (q0 + r) * out_stride + i, load_some(sums + r * padded + i, n) * factor, n);
      });
      lse[q0 + r] = highest[r] + log(splat(total[r]))[0];
    }
  }
}

template <class T, class Acc>
int32_t forward(const KernelArgs* args) {
  for_heads<T, Acc>(args, forward_head<T, Acc>);
  return kOk;
}

// --- backward: one task per batch entry and key-value head ---------------------------------------------------------------

template <class T, class Acc>
void backward_group(const Shape& s, const Masks& masks, const Gradients<T, Acc>& g, int64_t b, int64_t kv_head) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = round_up(s.width, kLanes), keys = round_up(max64(s.kv_length, 1), kKeyBlock);
  const int64_t group = s.heads / s.kv_heads, out_stride = s.heads * s.width;
  Pieces<Acc> pieces(keys * (4 * padded + 2 * s.width) + kQueryBlock * (3 * padded + 3 * kKeyBlock) + kKeyBlock, 13);
  Acc* key_rows = pieces.take(keys * padded);
  Acc* value_rows = pieces.take(keys * padded);
  Acc* key_columns = pieces.take(keys * s.width);
  Acc* value_columns = pieces.take(keys * s.width);
  Acc* key_sums = pieces.take(keys * padded);
  Acc* value_sums = pieces.take(keys * padded);
  Acc* queries = pieces.take(kQueryBlock * padded);
  Acc* grads = pieces.take(kQueryBlock * padded);
  Acc* query_sums = pieces.take(kQueryBlock * padded);
  Acc* probabilities = pieces.take(kQueryBlock * kKeyBlock);
  Acc* score_grads = pieces.take(kQueryBlock * kKeyBlock);
  Acc* kept = pieces.take(kKeyBlock);
  const int64_t kv = b * s.keys * s.kv_stride + kv_head * s.width;
  load_rows(g.k + kv, s.kv_stride, s.kv_length, s.width, padded, key_rows, 1.0);
  load_rows(g.v + kv, s.kv_stride, s.kv_length, s.width, padded, value_rows, 1.0);
  for (int64_t i = s.kv_length * padded; i < keys * padded; ++i) key_rows[i] = value_rows[i] = 0;
  transpose_blocks(key_rows, s.kv_length, s.width, padded, key_columns);
  transpose_blocks(value_rows, s.kv_length, s.width, padded, value_columns);
  for (int64_t i = 0; i < keys * padded; ++i) key_sums[i] = value_sums[i] = 0;
  Acc delta[kQueryBlock];

  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const Visibility sees = masks.of(s, b, h);
    const Acc* lse = g.lse + (b * s.heads + h) * s.queries;
    const int64_t dropout_base = (b * s.heads + h) * s.queries * s.keys;
    for (int64_t q0 = 0; q0 < s.queries; q0 += kQueryBlock) {
      const int64_t rows = min64(kQueryBlock, s.queries - q0);
      const int64_t q_at = (b * s.queries + q0) * s.q_stride + h * s.width;
      const int64_t out_at = (b * s.queries + q0) * out_stride + h * s.width;
      load_rows(g.q + q_at, s.q_stride, rows, s.width, padded, queries, s.scale);
      load_rows(g.grad_out + out_at, out_stride, rows, s.width, padded, grads, 1.0);
      for (int64_t r = 0; r < rows; ++r) {
        V sum{};
        for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
          sum += load_some(grads + r * padded + i, n) * load_some(g.out + out_at + r * out_stride + i, n);
        });
        delta[r] = reduce_add(sum);
      }
      for (int64_t i = 0; i < rows * padded; ++i) query_sums[i] = 0;
      const int64_t begin = sees.first_key(q0) / kKeyBlock * kKeyBlock, end = sees.end_key(q0 + rows - 1);
      for (int64_t k0 = begin; k0 < end; k0 += kKeyBlock) {
        sees.for_row_strips(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
          small_product<false>(count, seen, s.width, queries + r * padded, padded, key_columns + k0 * s.width, kKeyBlock,
                               probabilities + r * kKeyBlock, kKeyBlock, false);
          small_product<false>(count, seen, s.width, grads + r * padded, padded, value_columns + k0 * s.width, kKeyBlock,
                               score_grads + r * kKeyBlock, kKeyBlock, false);
        });
        sees.apply(probabilities, q0, rows, k0);
        for (int64_t r = 0; r < rows; ++r) {
          Acc* p_row = probabilities + r * kKeyBlock;
          Acc* g_row = score_grads + r * kKeyBlock;
          // A query that sees nothing has lse = -inf; its scores are all -inf, and exp(-inf - 0) is 0.
          const Acc log_sum = lse[q0 + r] == static_cast<Acc>(kMinusInfinity) ? Acc{} : lse[q0 + r];
          if (s.dropout > 0) dropout_row(s, dropout_base + (q0 + r) * s.keys + k0, kKeyBlock, kept);
          for (int64_t c = 0; c < kKeyBlock; c += kLanes) {
            const V p = exp(load(p_row + c) - log_sum);
            V dp = load(g_row + c);
            if (s.dropout > 0) {
              const V keep = load(kept + c);
              dp *= keep;
              store(p_row + c, p * keep);
            } else {
              store(p_row + c, p);
            }
            store(g_row + c, p * (dp - delta[r]));
          }
        }
        sees.for_key_strips(q0, rows, k0, [&](int64_t c, int64_t seen, int64_t r) {
          small_product<true>(seen, padded, rows - r, probabilities + r * kKeyBlock + c, kKeyBlock, grads + r * padded, padded,
                              value_sums + (k0 + c) * padded, padded, true);
          small_product<true>(seen, padded, rows - r, score_grads + r * kKeyBlock + c, kKeyBlock, queries + r * padded, padded,
                              key_sums + (k0 + c) * padded, padded, true);
        });
        sees.for_row_strips(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
          small_product<false>(count, padded, seen, score_grads + r * kKeyBlock, kKeyBlock, key_rows + k0 * padded, padded,
                               query_sums + r * padded, padded, true);
        });
      }
      for (int64_t r = 0; r < rows; ++r) {
        for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
          store_some(g.grad_q + q_at + r * s.q_stride + i, load_some(query_sums + r * padded + i, n) * constant<V>(s.scale), n);
        });
      }
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
      const int64_t at = kv + j * s.kv_stride + i;
      const bool used = j < s.kv_length;
      store_some(g.grad_k + at, used ? load_some(key_sums + j * padded + i, n) : V{}, n);
      store_some(g.grad_v + at, used ? load_some(value_sums + j * padded + i, n) : V{}, n);
    });
  }
}

template <class T, class Acc>
int32_t backward(const KernelArgs* args) {
  for_groups<T, Acc>(args, backward_group<T, Acc>);
  return kOk;
}

int32_t attention(const KernelArgs* args) {
  const TensorView &q = args->inputs[0], &k = args->inputs[1];
  if (q.dtype == DType::kBF16) {
    if (const KernelFn run = cpu::find_bf16_kernel("attention.tiles", "attention.pairs", shape_of(args, q, k).width)) return run(args);
  }
  switch (args->inputs[0].dtype) {
    case DType::kF32: return forward<float, float>(args);
    case DType::kF16: return forward<f16, float>(args);
    case DType::kBF16: return forward<bf16, float>(args);
    default: return forward<double, double>(args);
  }
}

int32_t attention_backward(const KernelArgs* args) {
  const TensorView &q = args->inputs[1], &k = args->inputs[2];
  if (q.dtype == DType::kBF16) {
    const int64_t width = shape_of(args, q, k).width;
    if (const KernelFn run = cpu::find_bf16_kernel("attention_backward.tiles", "attention_backward.pairs", width)) return run(args);
  }
  switch (args->inputs[1].dtype) {
    case DType::kF32: return backward<float, float>(args);
    case DType::kF16: return backward<f16, float>(args);
    case DType::kBF16: return backward<bf16, float>(args);
    default: return backward<double, double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(attention, attention)
LF_CPU_KERNEL(attention_backward, attention_backward)

}  // namespace lf
#endif
