// block_sparse_attention and its gradient of bf16 tensors with instructions for bf16, which block_sparse_attention.cpp calls for
// blocks of whole strips of 32 and head widths that suit them. Products take pairs of neighbours along their inner axis, sums stay
// in f32. Queries and gradients are read as they lie in memory; keys and values are packed into pairs once per head.
#pragma once
#include "cpu/isa/pair_products.inl"
#include "ops/block_sparse_attention.inl"

namespace lf {
namespace {

constexpr float kHidden = static_cast<float>(kMinusInfinity);

// The factor that scores still need: a negative one would make the highest the lowest.
LF_INLINE float scale_scores(const Layout& s, float* scores, int64_t count) {
  const float scale = static_cast<float>(s.scale);
  if (scale > 0) return scale;
  for (int64_t i = 0; i < count * s.block; i += kVf) store(scores + i, load(scores + i) * scale);
  return 1.0f;
}

// --- forward: one task per batch entry and head -----------------------------------------------------------------------

template <class Products>
void attend_head(const Layout& s, int64_t head, const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse) {
  const int64_t padded = round_up(s.width, kVf), block = s.block, key_rows = round_up(s.keys, block), units = s.width / 2;
  const int64_t q_stride = s.heads * s.width, kv_stride = s.kv_heads * s.width;
  Scratch<float> scratch(key_rows * (units + padded / 2) + block * (padded + block + block / 2), 5);
  Pair* key_columns = reinterpret_cast<Pair*>(scratch.take(key_rows * units));
  Pair* values = reinterpret_cast<Pair*>(scratch.take(key_rows / 2 * padded));
  float* sums = scratch.take(block * padded);
  float* scores = scratch.take(block * block);
  bf16* weights = reinterpret_cast<bf16*>(scratch.take(block * block / 2));
  pack_along_rows(k, kv_stride, s.keys, s.width, block, key_columns);
  pack_across_rows(v, kv_stride, s.keys, key_rows, s.width, padded, values);
  [[maybe_unused]] const typename Products::Registers registers;
  const int32_t* starts = s.starts_of(head);
  float highest[kLargest], total[kLargest];

  for (int64_t row = 0; row < s.rows(); ++row) {
    const int64_t q0 = row * block, count = s.query_rows(row);
    for (int64_t i = 0; i < count * padded; i += kVf) store(sums + i, Vf{});
    for (int64_t r = 0; r < count; ++r) {
      highest[r] = kHidden;
      total[r] = 0;
    }
    for (int64_t entry = starts[row]; entry < starts[row + 1]; ++entry) {
      const int64_t k0 = s.columns[entry] * block;
      Products::by_rows(count, block, units, pairs_of(q + q0 * q_stride), q_stride / 2, key_columns + k0 * units, block, scores,
                        block, false);
      const float scale = scale_scores(s, scores, count);
      s.hide(scores, count, entry);
      for (int64_t r = 0; r < count; ++r) {
        const float* line = scores + r * block;
        Vf best = load(line);
        for (int64_t c = kVf; c < block; c += kVf) best = max(best, load(line + c));
        const float now = reduce_max(best) * scale;
        if (!(now <= highest[r])) {
          if (total[r] != 0) {
            const float shrink = exp(splat(highest[r] - now))[0];
            total[r] *= shrink;
            for (int64_t d = 0; d < padded; d += kVf) store(sums + r * padded + d, load(sums + r * padded + d) * shrink);
          }
          highest[r] = now;
        }
        const float base = highest[r] == kHidden ? 0.0f : highest[r];
        Vf sum{};
        for (int64_t c = 0; c < block; c += 2 * kVf) {
          const Vf low = exp(load(line + c) * scale - base), high = exp(load(line + c + kVf) * scale - base);
          sum += low + high;
          store_two(weights + r * block + c, low, high);
        }
        total[r] += reduce_add(sum);
      }
      Products::by_rows(count, padded, block / 2, pairs_of(weights), block / 2, values + k0 / 2 * padded, padded, sums, padded, true);
    }
    for (int64_t r = 0; r < count; ++r) {
      const Vf factor = splat(total[r] > 0 || total[r] != total[r] ? 1 / total[r] : 0.0f);
      for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
        store_some(out + (q0 + r) * q_stride + i, load_some(sums + r * padded + i, n) * factor, n);
      });
      lse[q0 + r] = highest[r] + log(splat(total[r]))[0];
    }
  }
}

template <class Products>
int32_t forward(const KernelArgs* args) {
  const Layout s(args, 0, 3);
  if (int32_t code = s.check(args, 3)) return code;
  s.for_heads<bf16, float>(args, attend_head<Products>);
  return kOk;
}

// --- backward: one task per batch entry and key-value head ---------------------------------------------------------------

template <class Products>
void gradients_of_group(const KernelArgs* args, const Layout& s, int64_t b, int64_t kv_head) {
  const int64_t padded = round_up(s.width, kVf), block = s.block, key_rows = round_up(s.keys, block), units = s.width / 2;
  const int64_t q_stride = s.heads * s.width, kv_stride = s.kv_heads * s.width;
  Scratch<float> scratch(key_rows * (2 * units + padded / 2 + 2 * padded) + block * (2 * padded + 2 * block + 3 * block / 2), 13);
  Pair* key_columns = reinterpret_cast<Pair*>(scratch.take(key_rows * units));
  Pair* value_columns = reinterpret_cast<Pair*>(scratch.take(key_rows * units));
  Pair* key_pairs = reinterpret_cast<Pair*>(scratch.take(key_rows / 2 * padded));
  float* key_sums = scratch.take(key_rows * padded);
  float* value_sums = scratch.take(key_rows * padded);
  Pair* query_pairs = reinterpret_cast<Pair*>(scratch.take(block / 2 * padded));
  Pair* grad_pairs = reinterpret_cast<Pair*>(scratch.take(block / 2 * padded));
  float* query_sums = scratch.take(block * padded);
  float* scores = scratch.take(block * block);
  float* weight_grads = scratch.take(block * block);
  Pair* weight_pairs = reinterpret_cast<Pair*>(scratch.take(block / 2 * block));  // of a query and the next
  Pair* score_pairs = reinterpret_cast<Pair*>(scratch.take(block / 2 * block));
  bf16* score_grads = reinterpret_cast<bf16*>(scratch.take(block * block / 2));
  const int64_t kv = b * s.keys * kv_stride + kv_head * s.width;
  const bf16 *k = args->inputs[2].as<const bf16>() + kv, *v = args->inputs[3].as<const bf16>() + kv;
  pack_along_rows(k, kv_stride, s.keys, s.width, block, key_columns);
  pack_along_rows(v, kv_stride, s.keys, s.width, block, value_columns);
  pack_across_rows(k, kv_stride, s.keys, key_rows, s.width, padded, key_pairs);
  for (int64_t i = 0; i < key_rows * padded; i += kVf) {
    store(key_sums + i, Vf{});
    store(value_sums + i, Vf{});
  }
  [[maybe_unused]] const typename Products::Registers registers;
  float delta[kLargest], log_sum[kLargest];

  const int64_t group = s.heads / s.kv_heads;
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const float* lse = args->inputs[5].as<const float>() + (b * s.heads + h) * s.queries;
    const int32_t* starts = s.starts_of(h);
    for (int64_t row = 0; row < s.rows(); ++row) {
      const int64_t q0 = row * block, count = s.query_rows(row), padded_rows = round_up(count, Products::kRowDepth);
      const int64_t at = (b * s.queries + q0) * q_stride + h * s.width;
      const bf16 *q = args->inputs[1].as<const bf16>() + at, *grad_out = args->inputs[0].as<const bf16>() + at;
      const bf16* out = args->inputs[4].as<const bf16>() + at;
      pack_across_rows(q, q_stride, count, padded_rows, s.width, padded, query_pairs);
      pack_across_rows(grad_out, q_stride, count, padded_rows, s.width, padded, grad_pairs);
      for (int64_t r = 0; r < count; ++r) {
        Vf sum{};
        for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
          sum += load_some(grad_out + r * q_stride + i, n) * load_some(out + r * q_stride + i, n);
        });
        delta[r] = reduce_add(sum);
        // A query that sees nothing has lse = -inf; its scores are all -inf, and exp(-inf - 0) is 0.
        log_sum[r] = lse[q0 + r] == kHidden ? 0.0f : lse[q0 + r];
      }
      for (int64_t i = 0; i < count * padded; i += kVf) store(query_sums + i, Vf{});
      for (int64_t entry = starts[row]; entry < starts[row + 1]; ++entry) {
        const int64_t k0 = s.columns[entry] * block;
        Products::by_rows(count, block, units, pairs_of(q), q_stride / 2, key_columns + k0 * units, block, scores, block, false);
        const float scale = scale_scores(s, scores, count);
        s.hide(scores, count, entry);
        Products::by_rows(count, block, units, pairs_of(grad_out), q_stride / 2, value_columns + k0 * units, block, weight_grads,
                          block, false);
        for (int64_t r = 0; r < padded_rows; r += 2) {
          const int there = static_cast<int>(min64(max64(count - r, 0), 2));
          for (int64_t c = 0; c < block; c += kVf) {
            Vf weight[2] = {}, grad[2] = {};
            for (int i = 0; i < there; ++i) {
              const int64_t of = (r + i) * block + c;
              weight[i] = exp(load(scores + of) * scale - log_sum[r + i]);
              grad[i] = weight[i] * (load(weight_grads + of) - delta[r + i]);
              _mm256_storeu_si256(reinterpret_cast<__m256i*>(score_grads + of), round_bits(grad[i]));
            }
            _mm512_storeu_si512(weight_pairs + r / 2 * block + c, as_pairs(weight[0], weight[1]));
            _mm512_storeu_si512(score_pairs + r / 2 * block + c, as_pairs(grad[0], grad[1]));
          }
        }
        Products::by_columns(block, padded, padded_rows / 2, weight_pairs, block, grad_pairs, padded, value_sums + k0 * padded, padded,
                             true);
        Products::by_columns(block, padded, padded_rows / 2, score_pairs, block, query_pairs, padded, key_sums + k0 * padded, padded,
                             true);
        Products::by_rows(count, padded, block / 2, pairs_of(score_grads), block / 2, key_pairs + k0 / 2 * padded, padded, query_sums,
                          padded, true);
      }
      for (int64_t r = 0; r < count; ++r) {
        for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
          store_some(args->outputs[0].as<bf16>() + at + r * q_stride + i, load_some(query_sums + r * padded + i, n) * constant<Vf>(s.scale), n);
        });
      }
    }
  }
  for (int64_t j = 0; j < s.keys; ++j) {
    for_lanes<bf16>(s.width, [&](int64_t i, int64_t n) {
      const int64_t at = kv + j * kv_stride + i;
      store_some(args->outputs[1].as<bf16>() + at, load_some(key_sums + j * padded + i, n) * constant<Vf>(s.scale), n);
      store_some(args->outputs[2].as<bf16>() + at, load_some(value_sums + j * padded + i, n), n);
    });
  }
}

template <class Products>
int32_t backward(const KernelArgs* args) {
  const Layout s(args, 1, 6);
  if (int32_t code = s.check(args, 6)) return code;
  cpu::parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) gradients_of_group<Products>(args, s, task / s.kv_heads, task % s.kv_heads);
  });
  return kOk;
}

}  // namespace
}  // namespace lf
