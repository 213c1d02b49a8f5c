// Reductions over any set of axes. Neighbouring axes of the same kind are joined into runs; the last run decides:
//   reduced last  [.., R]     every result reads stretches of neighbouring elements
//   kept last     [.., R, C]  blocks of up to kColumns results are carried along while rows are read
// Either way a result's elements are numbered row-major over the reduced axes. When there are few results, that range
// is cut into chunks by shape alone, and the chunks' partial results are combined in order: the same bits on any number
// of threads. Used by schemas (result shape, workspace) and kernels (the walk itself).
#pragma once
#include "api/kernel.h"

namespace lf {
namespace {

constexpr int64_t kColumns = 512;    // results carried along at once
constexpr int64_t kTasks = 64;       // as many tasks as make good use of large machines
constexpr int64_t kTaskWork = 1 << 15;  // elements below which a task is not worth a thread

struct Runs {
  int count = 0;
  int64_t size[kMaxRank] = {}, step[kMaxRank] = {};  // from the innermost outwards, in elements
};

struct ReductionPlan {
  bool reduced_last;
  Runs kept, reduced;         // all but the innermost of each that the walk itself runs over
  int64_t results;            // results, without the columns
  int64_t columns;            // neighbouring results, 1 when reduced_last
  int64_t blocks;             // of columns
  int64_t length, step;       // the innermost reduced run
  int64_t total;              // elements per result
  int64_t chunks, chunk;      // number and size of the pieces of `total`

  LF_INLINE int64_t tasks() const { return results * blocks * chunks; }
  LF_INLINE int64_t width() const { return columns < kColumns ? columns : kColumns; }
};

LF_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `reduced[axis]` tells the axes that go.
inline ReductionPlan plan_reduction(const TensorView& x, const bool* reduced) {
  Runs runs;
  bool kind[kMaxRank] = {};
  ReductionPlan plan{};
  int64_t step = 1;
  plan.total = 1;
  for (int axis = x.rank - 1; axis >= 0; --axis) {
    const int64_t size = x.shape[axis];
    if (reduced[axis]) plan.total *= size;
    if (size == 1) continue;
    if (runs.count && kind[runs.count - 1] == reduced[axis]) {
      runs.size[runs.count - 1] *= size;
    } else {
      kind[runs.count] = reduced[axis];
      runs.size[runs.count] = size;
      runs.step[runs.count++] = step;
    }
    step *= size;
  }
  plan.reduced_last = runs.count > 0 && kind[0];
  plan.columns = runs.count && !kind[0] ? runs.size[0] : 1;
  const int first = plan.reduced_last ? 0 : 1;  // position of the innermost reduced run
  plan.length = first < runs.count ? runs.size[first] : 1;
  plan.step = first < runs.count ? runs.step[first] : 0;
  plan.results = 1;
  for (int i = first + 1; i < runs.count; ++i) {
    Runs& group = kind[i] ? plan.reduced : plan.kept;
    group.size[group.count] = runs.size[i];
    group.step[group.count++] = runs.step[i];
    if (!kind[i]) plan.results *= runs.size[i];
  }
  plan.blocks = ceil_div(plan.columns, kColumns);
  const int64_t tasks = plan.results * plan.blocks;
  int64_t chunks = tasks && tasks < kTasks ? ceil_div(kTasks, tasks) : 1;
  const int64_t worthwhile = plan.total * plan.width() / kTaskWork;
  if (chunks > worthwhile) chunks = worthwhile;
  if (chunks < 1) chunks = 1;
  plan.chunk = plan.total ? ceil_div(ceil_div(plan.total, chunks), 64) * 64 : 1;
  plan.chunks = plan.total ? ceil_div(plan.total, plan.chunk) : 1;
  return plan;
}

}  // namespace
}  // namespace lf

#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

// Attributes of every reduction: axes (list), keepdims.
inline void reduced_axes(const OpCall& call, bool* reduced) {
  const TensorView& x = call.in(0);
  for (int i = 0; i < kMaxRank; ++i) reduced[i] = false;
  for (int i = 0; i < call.list_size(0); ++i) {
    const int64_t axis = call.item(0, i), positive = axis < 0 ? axis + x.rank : axis;
    if (positive < 0 || positive >= x.rank) {
      call.fail(kShape, "axis %lld is out of range for shape %s", (long long)axis, shape_text(x).c_str());
    }
    if (reduced[positive]) call.fail(kArgument, "axis %lld is named twice", (long long)axis);
    reduced[positive] = true;
  }
}

inline void reduced_output(OpCall& call, DType dtype, bool needs_elements) {
  bool reduced[kMaxRank];
  reduced_axes(call, reduced);
  const TensorView& x = call.in(0);
  TensorView out = x;
  out.rank = 0;
  int64_t results = 1, total = 1;
  for (int i = 0; i < x.rank; ++i) {
    (reduced[i] ? total : results) *= x.shape[i];
    if (!reduced[i]) out.shape[out.rank++] = x.shape[i];
    else if (call.flag(1)) out.shape[out.rank++] = 1;
  }
  if (needs_elements && total == 0 && results > 0) {
    call.fail(kShape, "shape %s has no elements to choose from along these axes", shape_text(x).c_str());
  }
  call.output_like(out, dtype);
}

// Partial results are at most 16 bytes.
inline int64_t reduction_workspace(const OpCall& call) {
  bool reduced[kMaxRank];
  reduced_axes(call, reduced);
  const ReductionPlan plan = plan_reduction(call.in(0), reduced);
  return plan.chunks > 1 ? plan.tasks() * plan.width() * 16 : 0;
}

template <int flops_per_input>
Cost reduction_cost(const OpCall& call) {
  return io_cost_with_flops(call, flops_per_input * static_cast<double>(call.in(0).numel));
}

}  // namespace
}  // namespace lf
#else
#include "cpu/parallel.h"

namespace lf {
namespace {

// Divisions cost more than a short reduction itself, so the outermost run and runs of one piece do without.
LF_INLINE int64_t offset_in(const Runs& runs, int64_t index) {
  int64_t offset = 0;
  for (int i = 0; i + 1 < runs.count; ++i) {
    offset += index % runs.size[i] * runs.step[i];
    index /= runs.size[i];
  }
  return runs.count ? offset + index * runs.step[runs.count - 1] : 0;
}

LF_INLINE void split(int64_t index, int64_t size, int64_t& whole, int64_t& rest) {
  whole = size == 1 ? index : index / size;
  rest = size == 1 ? 0 : index % size;
}

// R is a reduction of elements T with partial results R::Partial:
//   initial()                          of no elements
//   stretch(p, n, first, partial)      takes in p[0 .. n), numbers first .. first + n of this result
//   rows(p, step, n, columns, first, partials)  the same for neighbouring results, from n rows
//   join(partial, later)               takes in a later partial result
//   finish(partial, total, out)        writes one result
template <class R, class T, class Out>
void reduce(const KernelArgs* args) {
  using Partial = typename R::Partial;
  static_assert(sizeof(Partial) <= 16);
  const TensorView& x = args->inputs[0];
  bool reduced[kMaxRank] = {};
  for (int i = 0; i < args->list_size(0); ++i) {
    const int64_t axis = args->item(0, i);
    reduced[axis < 0 ? axis + x.rank : axis] = true;
  }
  const ReductionPlan plan = plan_reduction(x, reduced);
  const int64_t width = plan.width();
  const T* data = x.as<T>();
  Out* out = args->outputs[0].as<Out>();
  Partial* stored = static_cast<Partial*>(args->workspace);

  const int64_t work = plan.chunk < plan.total ? plan.chunk * width : plan.total * width;
  const int64_t grain = work >= kTaskWork ? 1 : kTaskWork / (work + 1) + 1;
  cpu::parallel_for(plan.tasks(), grain, [&](int64_t begin, int64_t end) {
    Partial partials[kColumns];
    for (int64_t task = begin; task < end; ++task) {
      int64_t group, chunk, result, block;
      split(task, plan.chunks, group, chunk);
      split(group, plan.blocks, result, block);
      const int64_t column = block * kColumns;
      const int64_t columns = plan.columns - column < kColumns ? plan.columns - column : kColumns;
      const T* base = data + offset_in(plan.kept, result) + column;
      for (int64_t i = 0; i < columns; ++i) partials[i] = R::initial();
      const int64_t stop = (chunk + 1) * plan.chunk < plan.total ? (chunk + 1) * plan.chunk : plan.total;
      for (int64_t at = chunk * plan.chunk; at < stop;) {
        const int64_t outer = plan.length == plan.total ? 0 : at / plan.length, inner = at - outer * plan.length;
        const int64_t left = plan.length - inner, n = left < stop - at ? left : stop - at;
        const T* p = base + offset_in(plan.reduced, outer) + inner * plan.step;
        if (plan.reduced_last) {
          R::stretch(p, n, at, partials[0]);
        } else {
          R::rows(p, plan.step, n, columns, at, partials);
        }
        at += n;
      }
      if (plan.chunks > 1) {
        for (int64_t i = 0; i < columns; ++i) stored[task * width + i] = partials[i];
      } else {
        for (int64_t i = 0; i < columns; ++i) R::finish(partials[i], plan.total, out[result * plan.columns + column + i]);
      }
    }
  });
  if (plan.chunks == 1) return;
  cpu::parallel_for(plan.results * plan.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t block = group % plan.blocks, result = group / plan.blocks;
      const int64_t column = block * kColumns;
      const int64_t columns = plan.columns - column < kColumns ? plan.columns - column : kColumns;
      Partial* first = stored + group * plan.chunks * width;
      for (int64_t i = 0; i < columns; ++i) {
        for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) R::join(first[i], first[chunk * width + i]);
        R::finish(first[i], plan.total, out[result * plan.columns + column + i]);
      }
    }
  });
}

}  // namespace
}  // namespace lf
#endif
