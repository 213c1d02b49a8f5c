// NumPy broadcasting of two or three dense tensors: shapes are aligned at their last axes, and an axis of size 1 (or a
// missing one) is repeated. The schema part finds the shape of the result; the kernel part walks the result in rows over
// which every operand either runs along (step 1) or stands still (step 0).
#pragma once
#include "api/kernel.h"
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// The common shape of inputs [first, first + count).
inline TensorView broadcast_shape(const OpCall& call, int first, int count) {
  TensorView out = call.in(first);
  for (int i = first + 1; i < first + count; ++i) {
    const TensorView& in = call.in(i);
    const TensorView& longer = in.rank > out.rank ? in : out;
    TensorView next = longer;
    for (int axis = 1; axis <= next.rank; ++axis) {
      const int64_t a = axis <= out.rank ? out.dim(-axis) : 1, b = axis <= in.rank ? in.dim(-axis) : 1;
      if (a != b && a != 1 && b != 1) {
        call.fail_hint(kShape, "axes are aligned from the last one; each must be equal, or 1 on one side",
                       "shapes %s and %s do not broadcast", shape_text(out).c_str(), shape_text(in).c_str());
      }
      next.shape[next.rank - axis] = a == 1 ? b : a;
    }
    out = next;
  }
  return out;
}

}  // namespace
}  // namespace lf
#else
#include "cpu/parallel.h"

namespace lf {
namespace {

constexpr int kMaxOperands = 3;

struct Walk {
  int operands;
  int rank = 0;  // after neighbouring axes that run alike were joined; at least 1
  int64_t size[kMaxRank] = {};
  int64_t step[kMaxOperands][kMaxRank] = {};  // in elements
};

inline Walk plan_walk(const TensorView* inputs, int operands, const TensorView& out) {
  Walk walk;
  walk.operands = operands;
  int64_t reach[kMaxOperands];  // step of the next axis of each operand, from the last axis on
  for (int k = 0; k < operands; ++k) reach[k] = 1;
  for (int axis = 1; axis <= out.rank; ++axis) {
    const int64_t size = out.dim(-axis);
    if (size == 1) continue;
    int64_t step[kMaxOperands];
    bool joins = walk.rank > 0;
    for (int k = 0; k < operands; ++k) {
      const bool runs = axis <= inputs[k].rank && inputs[k].dim(-axis) != 1;
      step[k] = runs ? reach[k] : 0;
      if (runs) reach[k] *= size;
      if (joins) joins = step[k] == walk.step[k][walk.rank - 1] * walk.size[walk.rank - 1];
    }
    if (joins) {
      walk.size[walk.rank - 1] *= size;
      continue;
    }
    walk.size[walk.rank] = size;
    for (int k = 0; k < operands; ++k) walk.step[k][walk.rank] = step[k];
    ++walk.rank;
  }
  if (walk.rank == 0) walk.size[walk.rank++] = out.numel;  // one element, or none
  return walk;  // axes from the last to the first
}

// row(offsets, out_offset, n): n elements of the result from `out_offset` on; operand k starts at offsets[k] and goes
// on by walk.step[k][0]. Called in parallel.
template <class Row>
LF_INLINE void for_rows(const Walk& walk, int64_t numel, int64_t grain, Row&& row) {
  cpu::parallel_for(numel, grain, [&](int64_t begin, int64_t end) {
    int64_t index[kMaxRank], offsets[kMaxOperands] = {};
    int64_t rest = begin;
    for (int axis = 0; axis < walk.rank; ++axis) {
      index[axis] = rest % walk.size[axis];
      rest /= walk.size[axis];
      for (int k = 0; k < walk.operands; ++k) offsets[k] += index[axis] * walk.step[k][axis];
    }
    for (int64_t at = begin; at < end;) {
      const int64_t left = walk.size[0] - index[0];
      const int64_t n = left < end - at ? left : end - at;
      row(offsets, at, n);
      at += n;
      for (int k = 0; k < walk.operands; ++k) offsets[k] += n * walk.step[k][0];
      index[0] += n;
      for (int axis = 0; axis + 1 < walk.rank && index[axis] == walk.size[axis]; ++axis) {
        index[axis] = 0;
        ++index[axis + 1];
        for (int k = 0; k < walk.operands; ++k) {
          offsets[k] += walk.step[k][axis + 1] - walk.size[axis] * walk.step[k][axis];
        }
      }
    }
  });
}

}  // namespace
}  // namespace lf
#endif
