// What all operators of attention ask of their inputs. For schemas.
#pragma once
#include "core/op.h"

namespace lf {

struct HeadSizes {
  int64_t batch, queries, keys, heads, kv_heads, width;
};

inline void check_heads(const OpCall& call, int64_t heads, int64_t kv_heads) {
  if (heads < 1 || kv_heads < 1 || heads % kv_heads) {
    call.fail(kArgument, "heads (%lld) must be a multiple of kv_heads (%lld)", (long long)heads, (long long)kv_heads);
  }
}

// Inputs q [batch, queries, heads, width], k and v [batch, keys, kv_heads, width]; at q, q + 1 and q + 2.
inline HeadSizes check_heads_of(const OpCall& call, int q, int64_t heads, int64_t kv_heads) {
  check_heads(call, heads, kv_heads);
  call.check_floating(q);
  for (int i = q; i < q + 3; ++i) {
    call.check_rank(i, 4, 4);
    call.check_same_dtype(q, i);
  }
  call.check_same_shape(q + 1, q + 2);
  const TensorView &query = call.in(q), &key = call.in(q + 1);
  if (query.dim(2) != heads || key.dim(2) != kv_heads || key.dim(3) != query.dim(3) || key.dim(0) != query.dim(0)) {
    call.fail(kShape, "q has shape %s and k %s; q is [batch, queries, %lld, width], k [batch, keys, %lld, width]",
              shape_text(query).c_str(), shape_text(key).c_str(), (long long)heads, (long long)kv_heads);
  }
  return {query.dim(0), query.dim(1), key.dim(1), heads, kv_heads, query.dim(3)};
}

// Optional inputs: bool [batch, keys] at key_mask, i32 [batch, keys] at segments.
inline void check_masks(const OpCall& call, const HeadSizes& s, int key_mask, int segments) {
  const auto check_grid = [&](int i, bool integers) {
    if (!call.has(i)) return;
    const TensorView& given = call.in(i);
    const bool right = integers ? given.dtype == DType::kI32 : given.dtype == DType::kU8 || given.dtype == DType::kBool;
    if (given.rank != 2 || given.dim(0) != s.batch || given.dim(1) != s.keys || !right) {
      call.fail(kShape, "%s is %s, needs %s [%lld, %lld]", call.input_name(i), view_text(given).c_str(), integers ? "i32" : "bool",
                (long long)s.batch, (long long)s.keys);
    }
  };
  check_grid(key_mask, false);
  check_grid(segments, true);
  if (call.has(segments) && s.queries != s.keys) {
    call.fail(kShape, "segments need as many queries as keys, got %lld and %lld", (long long)s.queries, (long long)s.keys);
  }
}

}  // namespace lf
