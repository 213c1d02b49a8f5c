// attention and attention_backward of bf16 tensors with instructions for bf16, which attention.cpp calls for head widths that
// suit them. The same blocks as there; products take pairs of neighbours along their inner axis, sums stay in f32.
// Queries and gradients are read as they lie in memory; keys and values are packed into pairs once per head.
#pragma once
#include "cpu/isa/pair_products.inl"
#include "ops/attention.inl"

namespace lf {
namespace {

constexpr int64_t kQueries = 64;  // of a block

// Applies the factor of the scores where the bias must be added to scaled ones. Returns the factor that is left.
float scale_for_bias(const Shape& s, const Visibility& sees, float* scores, int64_t rows) {
  const float scale = static_cast<float>(s.scale);
  if (sees.slope == 0 && scale > 0) return scale;
  for (int64_t i = 0; i < rows * kKeyBlock; i += kVf) store(scores + i, load(scores + i) * scale);
  return 1.0f;
}

template <class Products>
void forward_head(const Shape& s, const Visibility& sees, const bf16* q, const bf16* k, const bf16* v, bf16* out,
                  int64_t out_stride, float* lse, int64_t dropout_base) {
  const int64_t padded = round_up(s.width, kVf), keys = round_up(max64(s.kv_length, 1), kKeyBlock), units = s.width / 2;
  Pieces<float> pieces(keys * (units + padded / 2) + kQueries * (padded + kKeyBlock + kKeyBlock / 2) + kKeyBlock, 6);
  Pair* key_columns = reinterpret_cast<Pair*>(pieces.take(keys * units));
  Pair* values = reinterpret_cast<Pair*>(pieces.take(keys / 2 * padded));
  float* sums = pieces.take(kQueries * padded);
  float* scores = pieces.take(kQueries * kKeyBlock);
  bf16* weights = reinterpret_cast<bf16*>(pieces.take(kQueries * kKeyBlock / 2));
  float* kept = pieces.take(kKeyBlock);
  pack_along_rows(k, s.kv_stride, s.kv_length, s.width, kKeyBlock, key_columns);
  pack_across_rows(v, s.kv_stride, s.kv_length, keys, s.width, padded, values);
  [[maybe_unused]] const typename Products::Registers registers;
  float highest[kQueries], total[kQueries];
  const float hidden = static_cast<float>(kMinusInfinity);

  for (int64_t q0 = 0; q0 < s.queries; q0 += kQueries) {
    const int64_t rows = min64(kQueries, s.queries - q0);
    for (int64_t i = 0; i < rows * padded; i += kVf) store(sums + i, Vf{});
    for (int64_t r = 0; r < rows; ++r) {
      highest[r] = hidden;
      total[r] = 0;
    }
    const int64_t begin = sees.first_key(q0) / kKeyBlock * kKeyBlock, end = sees.end_key(q0 + rows - 1);
    for (int64_t k0 = begin; k0 < end; k0 += kKeyBlock) {
      sees.template for_row_strips<Products::kStrips>(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
        Products::by_rows(count, seen, units, pairs_of(q + (q0 + r) * s.q_stride), s.q_stride / 2,
                                            key_columns + k0 * units, kKeyBlock, scores + r * kKeyBlock, kKeyBlock, false);
      });
      const float scale = scale_for_bias(s, sees, scores, rows);
      sees.apply(scores, q0, rows, k0);
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = scores + r * kKeyBlock;
        const float best = reduce_max(max(max(load(row), load(row + kVf)), max(load(row + 2 * kVf), load(row + 3 * kVf)))) * scale;
        if (highest[r] == hidden) {
          highest[r] = best;  // nothing was seen before: there is nothing to scale
        } else if (!(best <= highest[r])) {
          const float shrink = exp(splat(highest[r] - best))[0];
          total[r] *= shrink;
          for (int64_t d = 0; d < padded; d += kVf) store(sums + r * padded + d, load(sums + r * padded + d) * shrink);
          highest[r] = best;
        }
        const float now = highest[r] == hidden ? 0.0f : highest[r];  // nothing seen yet: every exp below is 0
        Vf p[kKeyBlock / kVf], sum{};
        for (int c = 0; c < kKeyBlock / kVf; ++c) {
          p[c] = exp(load(row + c * kVf) * scale - now);
          sum += p[c];
        }
        total[r] += reduce_add(sum);
        if (s.dropout > 0) {
          dropout_row(s, dropout_base + (q0 + r) * s.keys + k0, kKeyBlock, kept);
          for (int c = 0; c < kKeyBlock / kVf; ++c) p[c] *= load(kept + c * kVf);
        }
        for (int c = 0; c < kKeyBlock / kVf; c += 2) store_two(weights + r * kKeyBlock + c * kVf, p[c], p[c + 1]);
      }
      sees.template for_row_strips<Products::kStrips>(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
        Products::by_rows(count, padded, seen / 2, pairs_of(weights + r * kKeyBlock), kKeyBlock / 2,
                                            values + k0 / 2 * padded, padded, sums + r * padded, padded, true);
      });
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Vf factor = splat(total[r] > 0 || total[r] != total[r] ? 1 / total[r] : 0.0f);
      for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
        store_some(out + (q0 + r) * out_stride + i, load_some(sums + r * padded + i, n) * factor, n);
      });
      lse[q0 + r] = highest[r] + log(splat(total[r]))[0];
    }
  }
}

template <class Products>
void backward_group(const Shape& s, const Masks& masks, const Gradients<bf16, float>& g, int64_t b, int64_t kv_head) {
  const int64_t padded = round_up(s.width, kVf), keys = round_up(max64(s.kv_length, 1), kKeyBlock), units = s.width / 2;
  const int64_t group = s.heads / s.kv_heads, out_stride = s.heads * s.width;
  Pieces<float> pieces(keys * (2 * units + padded / 2 + 2 * padded) + kQueries * (2 * padded + 2 * kKeyBlock + 2 * kKeyBlock) +
                           kKeyBlock, 13);
  Pair* key_columns = reinterpret_cast<Pair*>(pieces.take(keys * units));
  Pair* value_columns = reinterpret_cast<Pair*>(pieces.take(keys * units));
  Pair* key_pairs = reinterpret_cast<Pair*>(pieces.take(keys / 2 * padded));
  float* key_sums = pieces.take(keys * padded);
  float* value_sums = pieces.take(keys * padded);
  Pair* query_pairs = reinterpret_cast<Pair*>(pieces.take(kQueries / 2 * padded));
  Pair* grad_pairs = reinterpret_cast<Pair*>(pieces.take(kQueries / 2 * padded));
  float* query_sums = pieces.take(kQueries * padded);
  float* scores = pieces.take(kQueries * kKeyBlock);
  float* weight_grads = pieces.take(kQueries * kKeyBlock);
  Pair* weight_pairs = reinterpret_cast<Pair*>(pieces.take(kQueries / 2 * kKeyBlock));  // of a query and the next
  Pair* score_pairs = reinterpret_cast<Pair*>(pieces.take(kQueries / 2 * kKeyBlock));
  bf16* score_grads = reinterpret_cast<bf16*>(pieces.take(kQueries * kKeyBlock / 2));
  alignas(64) float kept[2][kKeyBlock];
  const int64_t kv = b * s.keys * s.kv_stride + kv_head * s.width;
  pack_along_rows(g.k + kv, s.kv_stride, s.kv_length, s.width, kKeyBlock, key_columns);
  pack_along_rows(g.v + kv, s.kv_stride, s.kv_length, s.width, kKeyBlock, value_columns);
  pack_across_rows(g.k + kv, s.kv_stride, s.kv_length, keys, s.width, padded, key_pairs);
  for (int64_t i = 0; i < keys * padded; i += kVf) {
    store(key_sums + i, Vf{});
    store(value_sums + i, Vf{});
  }
  [[maybe_unused]] const typename Products::Registers registers;
  float delta[kQueries + 1] = {}, log_sum[kQueries + 1] = {};

  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const Visibility sees = masks.of(s, b, h);
    const float* lse = g.lse + (b * s.heads + h) * s.queries;
    const int64_t dropout_base = (b * s.heads + h) * s.queries * s.keys;
    for (int64_t q0 = 0; q0 < s.queries; q0 += kQueries) {
      const int64_t rows = min64(kQueries, s.queries - q0), padded_rows = round_up(rows, Products::kRowDepth);
      const int64_t q_at = (b * s.queries + q0) * s.q_stride + h * s.width;
      const int64_t out_at = (b * s.queries + q0) * out_stride + h * s.width;
      pack_across_rows(g.q + q_at, s.q_stride, rows, padded_rows, s.width, padded, query_pairs);
      pack_across_rows(g.grad_out + out_at, out_stride, rows, padded_rows, s.width, padded, grad_pairs);
      for (int64_t r = 0; r < rows; ++r) {
        Vf sum{};
        for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
          const int64_t at = out_at + r * out_stride + i;
          sum += load_some(g.grad_out + at, n) * load_some(g.out + at, n);
        });
        delta[r] = reduce_add(sum);
        // A query that sees nothing has lse = -inf; its scores are all -inf, and exp(-inf - 0) is 0.
        log_sum[r] = lse[q0 + r] == static_cast<float>(kMinusInfinity) ? 0.0f : lse[q0 + r];
      }
      for (int64_t i = 0; i < rows * padded; i += kVf) store(query_sums + i, Vf{});
      const int64_t begin = sees.first_key(q0) / kKeyBlock * kKeyBlock, end = sees.end_key(q0 + rows - 1);
      for (int64_t k0 = begin; k0 < end; k0 += kKeyBlock) {
        sees.template for_row_strips<Products::kStrips>(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
          Products::by_rows(count, seen, units, pairs_of(g.q + q_at + r * s.q_stride), s.q_stride / 2,
                                              key_columns + k0 * units, kKeyBlock, scores + r * kKeyBlock, kKeyBlock, false);
          Products::by_rows(count, seen, units, pairs_of(g.grad_out + out_at + r * out_stride), out_stride / 2,
                                              value_columns + k0 * units, kKeyBlock, weight_grads + r * kKeyBlock, kKeyBlock,
                                              false);
        });
        const float scale = scale_for_bias(s, sees, scores, rows);
        sees.apply(scores, q0, rows, k0);
        for (int64_t r = 0; r < padded_rows; r += 2) {
          const int count = static_cast<int>(min64(max64(rows - r, 0), 2));
          if (s.dropout > 0) {
            for (int i = 0; i < count; ++i) dropout_row(s, dropout_base + (q0 + r + i) * s.keys + k0, kKeyBlock, kept[i]);
          }
          for (int64_t c = 0; c < kKeyBlock; c += kVf) {
            Vf weight[2] = {}, grad[2] = {};
            for (int i = 0; i < count; ++i) {
              const int64_t at = (r + i) * kKeyBlock + c;
              const Vf p = exp(load(scores + at) * scale - log_sum[r + i]);
              Vf dp = load(weight_grads + at);
              weight[i] = p;
              if (s.dropout > 0) {
                const Vf keep = load(kept[i] + c);
                dp *= keep;
                weight[i] *= keep;
              }
              grad[i] = p * (dp - delta[r + i]);
              _mm256_storeu_si256(reinterpret_cast<__m256i*>(score_grads + at), round_bits(grad[i]));
            }
            _mm512_storeu_si512(weight_pairs + r / 2 * kKeyBlock + c, as_pairs(weight[0], weight[1]));
            _mm512_storeu_si512(score_pairs + r / 2 * kKeyBlock + c, as_pairs(grad[0], grad[1]));
          }
        }
        sees.template for_key_strips<Products::kStrips>(q0, rows, k0, [&](int64_t c, int64_t seen, int64_t r) {
          const int64_t pairs = (padded_rows - r) / 2, weights_at = r / 2 * kKeyBlock + c, rows_at = r / 2 * padded;
          Products::by_columns(seen, padded, pairs, weight_pairs + weights_at, kKeyBlock, grad_pairs + rows_at,
                                             padded, value_sums + (k0 + c) * padded, padded, true);
          Products::by_columns(seen, padded, pairs, score_pairs + weights_at, kKeyBlock, query_pairs + rows_at,
                                             padded, key_sums + (k0 + c) * padded, padded, true);
        });
        sees.template for_row_strips<Products::kStrips>(q0, rows, k0, [&](int64_t r, int64_t count, int64_t seen) {
          Products::by_rows(count, padded, seen / 2, pairs_of(score_grads + r * kKeyBlock), kKeyBlock / 2,
                                              key_pairs + k0 / 2 * padded, padded, query_sums + r * padded, padded, true);
        });
      }
      for (int64_t r = 0; r < rows; ++r) {
        for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
          store_some(g.grad_q + q_at + r * s.q_stride + i, load_some(query_sums + r * padded + i, n) * constant<Vf>(s.scale), n);
        });
      }
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
      const int64_t at = kv + j * s.kv_stride + i;
      const bool used = j < s.kv_length;
      store_some(g.grad_k + at, used ? load_some(key_sums + j * padded + i, n) * constant<Vf>(s.scale) : Vf{}, n);
      store_some(g.grad_v + at, used ? load_some(value_sums + j * padded + i, n) : Vf{}, n);
    });
  }
}

template <class Products>
int32_t forward(const KernelArgs* args) {
  for_heads<bf16, float>(args, forward_head<Products>);
  return kOk;
}
template <class Products>
int32_t backward(const KernelArgs* args) {
  for_groups<bf16, float>(args, backward_group<Products>);
  return kOk;
}

}  // namespace
}  // namespace lf
