// embedding: rows of a table picked by ids, plus (where given) rows of a position table: out[i] = W[ids[i]] + P[position(i)].
// embedding_backward: dW[v] = sum of grad[i] over i with ids[i] == v. Ids are sorted by counting, so each row is summed in
// order by one thread: no atomics, same bits on any number of threads. Bound by bytes.
// position(i) is positions[i], or offset + i % tokens without them; `ids` of the backward is absent for the latter case.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "embedding",
       .inputs = {{"weight"}, {"ids"}, {.name = "position_table", .optional = true}, {.name = "positions", .optional = true}},
       .attrs = {{"offset", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             call.check_rank(0, 2, 2);
             call.check_floating(0);
             call.check_dtype(1, DType::kI32);
             const TensorView &weight = call.in(0), &ids = call.in(1);
             if (ids.rank >= kMaxRank) call.fail(kShape, "ids have shape %s, at most %d axes", shape_text(ids).c_str(), kMaxRank - 1);
             if (call.has(2)) {
               call.check_rank(1, 1);
               call.check_rank(2, 2, 2);
               call.check_same_dtype(0, 2);
               if (call.in(2).shape[1] != weight.shape[1]) {
                 call.fail(kShape, "weight has shape %s and position_table %s; their widths must be equal",
                           shape_text(weight).c_str(), shape_text(call.in(2)).c_str());
               }
             }
             if (call.has(3)) {
               call.check_dtype(3, DType::kI32);
               call.check_same_shape(1, 3);
             }
             int64_t shape[kMaxRank];
             for (int i = 0; i < ids.rank; ++i) shape[i] = ids.shape[i];
             shape[ids.rank] = weight.shape[1];
             call.output(weight.dtype, shape, ids.rank + 1);
           },
       .cost =
           [](const OpCall& call) {
             Cost cost;
             const double rows = bytes_of(call.outputs[0]);
             cost.bytes_read = bytes_of(call.in(1)) + rows * (call.has(2) ? 2 : 1);
             cost.bytes_written = rows;
             cost.flops = call.has(2) ? static_cast<double>(call.outputs[0].numel) : 0;
             return cost;
           }})

// grad [..., width], ids i32 [...] -> dW [rows, width] in f32 (f64 for f64), or added to `into`.
LF_OP({.name = "embedding_backward",
       .inputs = {{"grad"}, {.name = "ids", .optional = true}, {.name = "into", .optional = true, .mutated = true}},
       .attrs = {{"rows", AttrType::kInteger}, {"offset", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             const TensorView& grad = call.in(0);
             call.check_rank(0, 2);
             call.check_floating(0);
             if (!call.has(1) && (call.integer(1) < 0 || call.integer(1) + grad.dim(-2) > call.integer(0))) {
               call.fail(kShape, "%lld positions from %lld on do not fit in %lld rows", (long long)grad.dim(-2),
                         (long long)call.integer(1), (long long)call.integer(0));
             }
             const DType dtype = grad.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
             if (call.has(1)) {
               call.check_dtype(1, DType::kI32);
               if (call.in(1).numel * grad.dim(-1) != grad.numel) {
                 call.fail(kShape, "grad has shape %s for ids of shape %s", shape_text(grad).c_str(), shape_text(call.in(1)).c_str());
               }
             }
             const int64_t shape[2] = {call.integer(0), grad.dim(-1)};
             if (!call.has(2)) return call.output(dtype, shape, 2);
             const TensorView& into = call.in(2);
             if (into.dtype != dtype || into.rank != 2 || into.shape[0] != shape[0] || into.shape[1] != shape[1]) {
               call.fail(kShape, "into is %s, needs %s", view_text(into).c_str(), view_text(make_view(dtype, shape, 2)).c_str());
             }
           },
       .cost =
           [](const OpCall& call) {
             Cost cost = io_cost_with_flops(call, static_cast<double>(call.in(0).numel));
             if (call.has(2)) cost.bytes_written += bytes_of(call.in(2));
             return cost;
           },
       // starts [rows + 1] and order [ids], both i32
       .workspace =
           [](const OpCall& call) {
             const int64_t width = call.in(0).dim(-1);
             return (call.integer(0) + 2 + (width ? call.in(0).numel / width : 0)) * int64_t{4};
           }})

}  // namespace
}  // namespace lf
#else
#include <cstdio>

#include "cpu/simd.h"

namespace lf {
namespace {

int32_t check_ids(const KernelArgs* args, const TensorView& ids, int64_t rows, const char* what) {
  for (int64_t i = 0; i < ids.numel; ++i) {
    const int32_t id = ids.as<const int32_t>()[i];
    if (id >= 0 && id < rows) continue;
    std::snprintf(args->error, kErrorText, "%s %d at place %lld is outside the table of %lld rows", what, id,
                  static_cast<long long>(i), static_cast<long long>(rows));
    return kKernel;
  }
  return kOk;
}

template <class T>
int32_t pick(const KernelArgs* args) {
  const TensorView &weight = args->inputs[0], &ids = args->inputs[1], &table = args->inputs[2], &positions = args->inputs[3];
  const int64_t width = weight.shape[1], tokens = ids.rank ? ids.dim(-1) : 1, offset = args->integer(0);
  if (int32_t code = check_ids(args, ids, weight.shape[0], "id")) return code;
  if (positions.present()) {
    if (int32_t code = check_ids(args, positions, table.shape[0], "position")) return code;
  } else if (table.present() && ids.numel && (offset < 0 || offset + tokens > table.shape[0])) {
    std::snprintf(args->error, kErrorText, "%lld tokens from position %lld on are more than the table of %lld positions",
                  static_cast<long long>(tokens), static_cast<long long>(offset), static_cast<long long>(table.shape[0]));
    return kKernel;
  }
  T* out = args->outputs[0].as<T>();
  cpu::parallel_for(ids.numel, 32768 / (width * static_cast<int64_t>(sizeof(T)) + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = weight.as<const T>() + ids.as<const int32_t>()[i] * width;
      if (!table.present()) {
        __builtin_memcpy(out + i * width, row, static_cast<size_t>(width) * sizeof(T));
        continue;
      }
      const int64_t at = positions.present() ? positions.as<const int32_t>()[i] : offset + i % tokens;
      const T* place = table.as<const T>() + at * width;
      for_lanes<T>(width, [&](int64_t k, int64_t n) {
        store_some(out + i * width + k, load_some(row + k, n) + load_some(place + k, n), n);
      });
    }
  });
  return kOk;
}

int32_t embedding(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return pick<float>(args);
    case DType::kF16: return pick<f16>(args);
    case DType::kBF16: return pick<bf16>(args);
    default: return pick<double>(args);
  }
}

template <class T, class Acc>
int32_t scatter(const KernelArgs* args) {
  using V = typename Lanes<Acc>::V;
  const TensorView &grad = args->inputs[0], &ids = args->inputs[1], &into = args->inputs[2];
  const int64_t rows = args->integer(0), width = grad.dim(-1), count = width ? grad.numel / width : 0;
  const int64_t tokens = grad.dim(-2), offset = args->integer(1);
  if (ids.present()) {
    if (int32_t code = check_ids(args, ids, rows, "id")) return code;
  }
  const int32_t* id = ids.present() ? ids.as<const int32_t>() : nullptr;
  auto row_of = [&](int64_t i) { return id ? static_cast<int64_t>(id[i]) : offset + i % tokens; };
  int32_t* starts = static_cast<int32_t*>(args->workspace);  // after the sort: where row v begins is starts[v]
  int32_t* order = starts + rows + 2;
  for (int64_t v = 0; v < rows + 2; ++v) starts[v] = 0;
  for (int64_t i = 0; i < count; ++i) ++starts[row_of(i) + 2];
  for (int64_t v = 2; v < rows + 2; ++v) starts[v] += starts[v - 1];
  for (int64_t i = 0; i < count; ++i) order[starts[row_of(i) + 1]++] = static_cast<int32_t>(i);
  Acc* out = into.present() ? into.as<Acc>() : args->outputs[0].as<Acc>();
  cpu::parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      Acc* sums = out + v * width;
      if (!into.present()) {
        for (int64_t k = 0; k < width; ++k) sums[k] = 0;
      }
      for (int32_t p = starts[v]; p < starts[v + 1]; ++p) {
        const T* from = grad.as<const T>() + order[p] * width;
        for_lanes<T>(width, [&](int64_t k, int64_t n) {
          const V sum = load_some(sums + k, n) + load_some(from + k, n);
          store_some(sums + k, sum, n);
        });
      }
    }
  });
  return kOk;
}

int32_t embedding_backward(const KernelArgs* args) {
  switch (args->inputs[0].dtype) {
    case DType::kF32: return scatter<float, float>(args);
    case DType::kF16: return scatter<f16, float>(args);
    case DType::kBF16: return scatter<bf16, float>(args);
    default: return scatter<double, double>(args);
  }
}

}  // namespace

LF_CPU_KERNEL(embedding, embedding)
LF_CPU_KERNEL(embedding_backward, embedding_backward)

}  // namespace lf
#endif
