// block_sparse_attention and its gradient: softmax(q k^T * scale) v over listed blocks of the [queries, keys] scores alone,
// in one pass with a running maximum and sum, like attention. Blocks that are not listed cost nothing.
// A layout is, for each pattern (one for all heads, or one a head) and each block of queries, a list of blocks of keys
// (row_starts, columns), each with the number of its element mask, -1 where all is seen (mask_ids, masks). The gradient is
// also given the same entries by blocks of keys (column_starts, column_entries, entry_rows), for devices that add up keys'
// gradients block by block. Built and explained in lib/ops/block_sparse_attention.ts. Bound by FLOPs.
#ifdef LF_SCHEMA_PASS
#include "ops/attention_inputs.h"

namespace lf {
namespace {

const std::vector<AttrSpec>& sparse_attrs() {
  static const std::vector<AttrSpec> kAttrs = {{"heads", AttrType::kInteger},
                                               {"kv_heads", AttrType::kInteger},
                                               {"block", AttrType::kInteger},
                                               {"scale", AttrType::kNumber}};
  return kAttrs;
}

struct Sizes : HeadSizes {
  int64_t block, patterns;
};

// `q` and `layout` are the positions of q and of row_starts among the inputs.
Sizes check(const OpCall& call, int q, int layout) {
  Sizes s{check_heads_of(call, q, call.integer(0), call.integer(1)), call.integer(2), 0};
  if (s.block != 16 && s.block != 32 && s.block != 64 && s.block != 128) {
    call.fail(kArgument, "block must be 16, 32, 64 or 128, got %lld", (long long)s.block);
  }
  auto integers = [&](int i, int rank) {
    call.check_dtype(i, DType::kI32);
    call.check_rank(i, rank, rank);
  };
  integers(layout, 2);
  integers(layout + 1, 1);
  integers(layout + 2, 1);
  call.check_same_shape(layout + 1, layout + 2);
  const TensorView& starts = call.in(layout);
  s.patterns = starts.shape[0];
  const int64_t rows = (s.queries + s.block - 1) / s.block;
  if ((s.patterns != 1 && s.patterns != s.heads) || starts.shape[1] != rows + 1) {
    call.fail(kShape, "row_starts has shape %s, needs [1 or %lld, %lld]", shape_text(starts).c_str(), (long long)s.heads,
              (long long)(rows + 1));
  }
  const TensorView& masks = call.in(layout + 3);
  if (masks.dtype != DType::kBool || masks.rank != 3 || masks.shape[1] != s.block || masks.shape[2] != s.block) {
    call.fail(kShape, "masks is %s, needs bool [masks, %lld, %lld]", view_text(masks).c_str(), (long long)s.block,
              (long long)s.block);
  }
  return s;
}

Cost cost_of(const OpCall& call, const Sizes& s, const TensorView& columns, double flops_per_pair) {
  const double blocks = static_cast<double>(columns.numel) * static_cast<double>(s.heads / s.patterns);
  const double pairs = blocks * static_cast<double>(s.block * s.block);
  return io_cost_with_flops(call, flops_per_pair * static_cast<double>(s.batch * s.width) * pairs);
}

LF_OP({.name = "block_sparse_attention",
       .inputs = {{"q"}, {"k"}, {"v"}, {"row_starts"}, {"columns"}, {"mask_ids"}, {"masks"}},
       .attrs = sparse_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 0, 3);
             call.output_like(call.in(0));
             call.output(call.in(0).dtype == DType::kF64 ? DType::kF64 : DType::kF32, {s.batch, s.heads, s.queries});
           },
       // Two products of 2 * width each a pair.
       .cost = [](const OpCall& call) { return cost_of(call, check(call, 0, 3), call.in(4), 4.0); }})

LF_OP({.name = "block_sparse_attention_backward",
       .inputs = {{"grad_out"},
                  {"q"},
                  {"k"},
                  {"v"},
                  {"out"},
                  {"lse"},
                  {"row_starts"},
                  {"columns"},
                  {"mask_ids"},
                  {"masks"},
                  {"column_starts"},
                  {"column_entries"},
                  {"entry_rows"}},
       .attrs = sparse_attrs(),
       .shape =
           [](OpCall& call) {
             const Sizes s = check(call, 1, 6);
             call.check_same_shape(0, 4);
             call.check_same_dtype(0, 1);
             const int64_t columns = (s.keys + s.block - 1) / s.block;
             for (int i = 10; i < 13; ++i) call.check_dtype(i, DType::kI32);
             call.check_same_shape(7, 11);
             call.check_same_shape(7, 12);
             if (call.in(10).rank != 2 || call.in(10).shape[0] != s.patterns || call.in(10).shape[1] != columns + 1) {
               call.fail(kShape, "column_starts has shape %s, needs [%lld, %lld]", shape_text(call.in(10)).c_str(),
                         (long long)s.patterns, (long long)(columns + 1));
             }
             for (int i = 1; i < 4; ++i) call.output_like(call.in(i));
           },
       // Five products: S = QK^T again, dP = dO V^T, dV, dQ, dK.
       .cost = [](const OpCall& call) { return cost_of(call, check(call, 1, 6), call.in(7), 10.0); }})

}  // namespace
}  // namespace lf
#else
#include "cpu/isa.h"
#include "cpu/small_product.inl"
#include "ops/block_sparse_attention.inl"

namespace lf {
namespace {

// Rows of one head in Acc, padded to whole vectors, and zeros up to a whole block.
template <class Acc, class T>
void gather_rows(const T* from, int64_t stride, int64_t rows, int64_t up_to, int64_t width, int64_t padded, Acc* out, double factor) {
  using V = typename Lanes<Acc>::V;
  for (int64_t i = rows * padded; i < up_to * padded; ++i) out[i] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    Acc* to = out + r * padded;
    for_lanes<T>(width, [&](int64_t i, int64_t n) { store_some(to + i, load_some(from + r * stride + i, n) * constant<V>(factor), n); });
    for (int64_t i = width; i < padded; ++i) to[i] = 0;
  }
}

// [blocks * block][padded] -> [blocks][width][block]
template <class Acc>
void turn_blocks(const Acc* rows, int64_t blocks, int64_t block, int64_t width, int64_t padded, Acc* out) {
  for (int64_t b = 0; b < blocks; ++b) {
    const Acc* from = rows + b * block * padded;
    Acc* to = out + b * block * width;
    for (int64_t j = 0; j < block; j += 16) {
      for (int64_t d = 0; d < width; ++d) {
        for (int64_t i = j; i < j + 16; ++i) to[d * block + i] = from[i * padded + d];
      }
    }
  }
}

// --- forward: one task per batch entry and head -----------------------------------------------------------------------

template <class T, class Acc>
void attend_head(const Layout& s, int64_t head, const T* q, const T* k, const T* v, T* out, Acc* lse) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = (s.width + kLanes - 1) / kLanes * kLanes, block = s.block;
  const int64_t key_blocks = ceil_div(s.keys, block), key_rows = key_blocks * block;
  Scratch<Acc> scratch(key_rows * (2 * padded + s.width) + block * (2 * padded + block), 6);
  Acc* values = scratch.take(key_rows * padded);
  Acc* rows = scratch.take(key_rows * padded);
  Acc* turned = scratch.take(key_rows * s.width);
  Acc* queries = scratch.take(block * padded);
  Acc* sums = scratch.take(block * padded);
  Acc* scores = scratch.take(block * block);
  gather_rows(k, s.kv_heads * s.width, s.keys, key_rows, s.width, padded, rows, 1.0);
  turn_blocks(rows, key_blocks, block, s.width, padded, turned);
  gather_rows(v, s.kv_heads * s.width, s.keys, key_rows, s.width, padded, values, 1.0);
  const int64_t q_stride = s.heads * s.width;
  const int32_t* starts = s.starts_of(head);
  Acc highest[kLargest], total[kLargest];

  for (int64_t row = 0; row < s.rows(); ++row) {
    const int64_t q0 = row * block, count = s.query_rows(row);
    gather_rows(q + q0 * q_stride, q_stride, count, count, s.width, padded, queries, s.scale);
    for (int64_t i = 0; i < count * padded; ++i) sums[i] = 0;
    for (int64_t r = 0; r < count; ++r) {
      highest[r] = static_cast<Acc>(kMinusInfinity);
      total[r] = 0;
    }
    for (int64_t entry = starts[row]; entry < starts[row + 1]; ++entry) {
      const int64_t k0 = s.columns[entry] * block;
      small_product<false>(count, block, s.width, queries, padded, turned + k0 * s.width, block, scores, block, false);
      s.hide(scores, count, entry);
      for (int64_t r = 0; r < count; ++r) {
        Acc* line = scores + r * block;
        V best = load(line);
        for (int64_t c = kLanes; c < block; c += kLanes) best = max(best, load(line + c));
        const Acc now = reduce_max(best);
        if (!(now <= highest[r])) {
          if (total[r] != 0) {
            const Acc shrink = exp(splat(highest[r] - now))[0];
            total[r] *= shrink;
            for (int64_t d = 0; d < padded; d += kLanes) store(sums + r * padded + d, load(sums + r * padded + d) * shrink);
          }
          highest[r] = now;
        }
        const Acc base = highest[r] == static_cast<Acc>(kMinusInfinity) ? Acc{} : highest[r];
        V sum{};
        for (int64_t c = 0; c < block; c += kLanes) {
          const V p = exp(load(line + c) - base);
          sum += p;
          store(line + c, p);
        }
        total[r] += reduce_add(sum);
      }
      small_product<false>(count, padded, block, scores, block, values + k0 * padded, padded, sums, padded, true);
    }
    for (int64_t r = 0; r < count; ++r) {
      const V factor = splat(total[r] > 0 || total[r] != total[r] ? 1 / total[r] : Acc{});
      for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
        store_some(out + (q0 + r) * q_stride + i, load_some(sums + r * padded + i, n) * factor, n);
      });
      lse[q0 + r] = highest[r] + log(splat(total[r]))[0];
    }
  }
}

template <class T, class Acc>
int32_t forward(const KernelArgs* args) {
  const Layout s(args, 0, 3);
  if (int32_t code = s.check(args, 3)) return code;
  s.for_heads<T, Acc>(args, attend_head<T, Acc>);
  return kOk;
}

// --- backward: one task per batch entry and key-value head ---------------------------------------------------------------

template <class T, class Acc>
void gradients_of_group(const KernelArgs* args, const Layout& s, int64_t b, int64_t kv_head) {
  using V = typename Lanes<Acc>::V;
  constexpr int kLanes = Lanes<Acc>::n;
  const int64_t padded = (s.width + kLanes - 1) / kLanes * kLanes, block = s.block;
  const int64_t key_blocks = ceil_div(s.keys, block), key_rows = key_blocks * block;
  const int64_t q_stride = s.heads * s.width, kv_stride = s.kv_heads * s.width;
  Scratch<Acc> scratch(key_rows * (4 * padded + 2 * s.width) + block * (3 * padded + 2 * block), 11);
  Acc* keys = scratch.take(key_rows * padded);
  Acc* values = scratch.take(key_rows * padded);
  Acc* key_columns = scratch.take(key_rows * s.width);
  Acc* value_columns = scratch.take(key_rows * s.width);
  Acc* key_sums = scratch.take(key_rows * padded);
  Acc* value_sums = scratch.take(key_rows * padded);
  Acc* queries = scratch.take(block * padded);
  Acc* grads = scratch.take(block * padded);
  Acc* query_sums = scratch.take(block * padded);
  Acc* probabilities = scratch.take(block * block);
  Acc* score_grads = scratch.take(block * block);
  const int64_t kv = b * s.keys * kv_stride + kv_head * s.width;
  gather_rows(args->inputs[2].as<const T>() + kv, kv_stride, s.keys, key_rows, s.width, padded, keys, 1.0);
  gather_rows(args->inputs[3].as<const T>() + kv, kv_stride, s.keys, key_rows, s.width, padded, values, 1.0);
  turn_blocks(keys, key_blocks, block, s.width, padded, key_columns);
  turn_blocks(values, key_blocks, block, s.width, padded, value_columns);
  for (int64_t i = 0; i < key_rows * padded; ++i) key_sums[i] = value_sums[i] = 0;
  Acc delta[kLargest];

  const int64_t group = s.heads / s.kv_heads;
  for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const Acc* lse = args->inputs[5].as<const Acc>() + (b * s.heads + h) * s.queries;
    const int32_t* starts = s.starts_of(h);
    for (int64_t row = 0; row < s.rows(); ++row) {
      const int64_t q0 = row * block, count = s.query_rows(row);
      const int64_t at = (b * s.queries + q0) * q_stride + h * s.width;
      const T* out = args->inputs[4].as<const T>() + at;
      gather_rows(args->inputs[1].as<const T>() + at, q_stride, count, count, s.width, padded, queries, s.scale);
      gather_rows(args->inputs[0].as<const T>() + at, q_stride, count, count, s.width, padded, grads, 1.0);
      for (int64_t r = 0; r < count; ++r) {
        V sum{};
        for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
          sum += load_some(grads + r * padded + i, n) * load_some(out + r * q_stride + i, n);
        });
        delta[r] = reduce_add(sum);
      }
      for (int64_t i = 0; i < count * padded; ++i) query_sums[i] = 0;
      for (int64_t entry = starts[row]; entry < starts[row + 1]; ++entry) {
        const int64_t k0 = s.columns[entry] * block;
        small_product<false>(count, block, s.width, queries, padded, key_columns + k0 * s.width, block, probabilities, block, false);
        s.hide(probabilities, count, entry);
        small_product<false>(count, block, s.width, grads, padded, value_columns + k0 * s.width, block, score_grads, block, false);
        for (int64_t r = 0; r < count; ++r) {
          // A query that sees nothing has lse = -inf; its scores are all -inf, and exp(-inf - 0) is 0.
          const Acc log_sum = lse[q0 + r] == static_cast<Acc>(kMinusInfinity) ? Acc{} : lse[q0 + r];
          for (int64_t c = 0; c < block; c += kLanes) {
            const V p = exp(load(probabilities + r * block + c) - log_sum);
            store(probabilities + r * block + c, p);
            store(score_grads + r * block + c, p * (load(score_grads + r * block + c) - delta[r]));
          }
        }
        small_product<true>(block, padded, count, probabilities, block, grads, padded, value_sums + k0 * padded, padded, true);
        small_product<true>(block, padded, count, score_grads, block, queries, padded, key_sums + k0 * padded, padded, true);
        small_product<false>(count, padded, block, score_grads, block, keys + k0 * padded, padded, query_sums, padded, true);
      }
      for (int64_t r = 0; r < count; ++r) {
        for_lanes<T>(s.width, [&](int64_t i, int64_t n) {
          store_some(args->outputs[0].as<T>() + at + r * q_stride + i, load_some(query_sums + r * padded + i, n) * constant<V>(s.scale), n);
        });
      }
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
  const Layout s(args, 1, 6);
  if (int32_t code = s.check(args, 6)) return code;
  cpu::parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) gradients_of_group<T, Acc>(args, s, task / s.kv_heads, task % s.kv_heads);
  });
  return kOk;
}

// The kernel for machines with bf16 instructions (block_sparse_attention_pairs.inl), where this is one and q suits it.
KernelFn bf16_kernel(const char* tiles, const char* pairs, const KernelArgs* args, const TensorView& q) {
  const bool suits = q.dtype == DType::kBF16 && args->integer(2) % 32 == 0;
  return suits ? cpu::find_bf16_kernel(tiles, pairs, q.shape[3]) : nullptr;
}

int32_t block_sparse_attention(const KernelArgs* args) {
  const KernelFn run = bf16_kernel("block_sparse_attention.tiles", "block_sparse_attention.pairs", args, args->inputs[0]);
  if (run) return run(args);
  switch (args->inputs[0].dtype) {
    case DType::kF32: return forward<float, float>(args);
    case DType::kF16: return forward<f16, float>(args);
    case DType::kBF16: return forward<bf16, float>(args);
    default: return forward<double, double>(args);
  }
}

int32_t block_sparse_attention_backward(const KernelArgs* args) {
  const KernelFn run =
      bf16_kernel("block_sparse_attention_backward.tiles", "block_sparse_attention_backward.pairs", args, args->inputs[1]);
  if (run) return run(args);
  switch (args->inputs[1].dtype) {
    case DType::kF32: return backward<float, float>(args);
    case DType::kF16: return backward<f16, float>(args);
    case DType::kBF16: return backward<bf16, float>(args);
    default: return backward<double, double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(block_sparse_attention, block_sparse_attention)
LF_CPU_KERNEL(block_sparse_attention_backward, block_sparse_attention_backward)

}  // namespace lf
#endif
