// Reductions over any set of axes (native/ops/reduction.h says which elements and numbers belong to a result). Neighbouring
// axes of the same kind are joined into runs. Two kernels, by the last run:
//   rows     reduced last: a group of 1 to 32 lanes, or a whole block, owns a result; lanes read packs of 16 bytes.
//   columns  kept last: a block of tx * ty = 256 threads owns tx packs of neighbouring results; thread (x, y) reads rows y,
//            y + ty, ..., four at a time; the ty partial results meet in shared memory.
// Where results are few, the elements of each are cut into chunks, by shape alone, one block each; `finish_kernel` combines the
// chunks' partial results, which lie in the workspace, in a fixed order: the same bits on every run. Bound by the bytes
// read. Warps an SM: reduce_rows_kernel 48, reduce_columns_kernel 32 (partial results are in registers; 16 where these are
// 16 bytes).
//
// A reduction R of elements T with partial results R::Partial (4, 8 or 16 bytes without gaps):
//   initial()                          of no elements
//   take<n>(partial, values, number, step)  takes in values with the numbers number, number + step, ... of this result
//   join(partial, other)               takes in another partial result; symmetric
//   finish(partial)                    the result
#pragma once
#include "cuda/pointwise.cuh"

namespace lf::cuda {

// Numbers that are read at once: 16 bytes, but no more than have room for partial results in registers.
template <class T>
constexpr int kReductionItems = Pack<T>::n < 8 ? Pack<T>::n : 8;
constexpr int64_t kReductionTasks = 264;   // blocks that fill a large device twice
constexpr int64_t kChunkLoads = 4096;      // at least so many for a block

struct Runs {
  int count = 0;
  int64_t size[kMaxRank], step[kMaxRank];  // from the innermost outwards, in elements
  Divisor divisor[kMaxRank];

  void push(int64_t run, int64_t run_step) {
    size[count] = run;
    step[count++] = run_step;
  }
  void prepare() {
    for (int i = 0; i < count; ++i) divisor[i] = Divisor(size[i]);
  }
  __device__ __forceinline__ int64_t offset(int64_t index) const {
    int64_t at = 0;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      int64_t rest = index;
      if (i + 1 < count) index = divisor[i].divide(index, rest);
      at += rest * step[i];
    }
    return at;
  }
};

struct Reduction {
  bool rows, packed;
  Runs kept, reduced;       // rows: all kept; columns: without the last. reduced: all, the innermost first
  int64_t results, columns; // results = kept results * columns
  int64_t total;            // elements per result
  int64_t chunks, chunk;    // pieces of `total` and their size
  int width;                // rows: lanes per result; columns: tx
  Divisor by_chunks, by_blocks;
};

// `axes` is attribute 0; `items` are read at once. Only `packed` depends on where x begins.
inline Reduction plan_reduction(const KernelArgs* args, int items) {
  const TensorView& x = args->inputs[0];
  bool reduced[kMaxRank] = {};
  for (int i = 0; i < args->list_size(0); ++i) {
    const int64_t axis = args->item(0, i);
    reduced[axis < 0 ? axis + x.rank : axis] = true;
  }
  Runs runs;
  bool kind[kMaxRank] = {};
  Reduction plan{};
  plan.total = 1;
  int64_t step = 1;
  for (int axis = x.rank - 1; axis >= 0; --axis) {
    const int64_t size = x.shape[axis];
    if (reduced[axis]) plan.total *= size;
    if (size == 1) continue;
    if (runs.count && kind[runs.count - 1] == reduced[axis]) {
      runs.size[runs.count - 1] *= size;
    } else {
      kind[runs.count] = reduced[axis];
      runs.push(size, step);
    }
    step *= size;
  }
  plan.rows = runs.count == 0 || kind[0];
  plan.columns = plan.rows ? 1 : runs.size[0];
  plan.results = plan.columns;
  plan.packed = aligned16(x.data) && runs.count > 0 && runs.size[0] % items == 0;
  for (int i = plan.rows ? 0 : 1; i < runs.count; ++i) {
    (kind[i] ? plan.reduced : plan.kept).push(runs.size[i], runs.step[i]);
    if (!kind[i]) plan.results *= runs.size[i];
  }
  const int unit = plan.packed ? items : 1;
  const int64_t units = plan.rows ? (plan.total + unit - 1) / unit : (plan.columns + unit - 1) / unit;
  // Blocks that there are anyway, and the loads of one of them.
  int64_t blocks, loads;
  if (plan.rows) {
    for (plan.width = 1; plan.width < 32 && plan.width < units; plan.width *= 2) {}
    if (units >= 1024 || (units >= 64 && plan.results < kReductionTasks)) plan.width = 256;
    blocks = (plan.results * plan.width + 255) / 256;
    loads = plan.width == 256 ? units : 0;
  } else {
    for (plan.width = 1; plan.width < 32 && plan.width < units; plan.width *= 2) {}
    blocks = plan.results / plan.columns * ((units + plan.width - 1) / plan.width);
    loads = plan.total * plan.width;
  }
  plan.chunks = blocks > 0 && blocks < kReductionTasks ? (kReductionTasks + blocks - 1) / blocks : 1;
  if (plan.chunks > loads / kChunkLoads) plan.chunks = loads / kChunkLoads;
  if (plan.chunks < 1) plan.chunks = 1;
  const int64_t whole = plan.rows ? 256 : 32;  // chunks begin at whole packs, and where threads have equal shares
  plan.chunk = ((plan.total + plan.chunks - 1) / plan.chunks + whole - 1) / whole * whole;
  if (plan.total > 0) plan.chunks = (plan.total + plan.chunk - 1) / plan.chunk;
  plan.by_chunks = Divisor(plan.chunks);
  plan.by_blocks = Divisor((units + plan.width - 1) / plan.width);
  plan.kept.prepare();
  plan.reduced.prepare();
  return plan;
}

// Of both kinds of packing, the larger: a rule for workspace does not see where x begins.
inline int64_t reduction_workspace(const KernelArgs* args) {
  const int64_t bytes = dtype_size(args->inputs[0].dtype);
  const Reduction packed = plan_reduction(args, bytes == 1 ? 8 : static_cast<int>(16 / bytes)), plain = plan_reduction(args, 1 << 30);
  const int64_t most = packed.chunks > plain.chunks ? packed.chunks : plain.chunks;
  return most > 1 ? most * packed.results * 16 : 0;
}

// A value in as many bytes as fill a partial result without gaps.
template <class V, int bytes = sizeof(V)>
struct Word {
  V value;
  uint32_t none;
};
template <class V>
struct Word<V, 8> {
  V value;
};

template <class P>
__device__ __forceinline__ P shuffle_xor(const P& partial, int reach) {
  constexpr int kWords = sizeof(P) / 4;
  uint32_t words[kWords];
  __builtin_memcpy(words, &partial, sizeof(P));
#pragma unroll
  for (int w = 0; w < kWords; ++w) words[w] = __shfl_xor_sync(kFullWarp, words[w], reach);
  P other;
  __builtin_memcpy(&other, words, sizeof(P));
  return other;
}

// Joins the partial results of groups of `width` lanes, a power of two; width 256 is the block.
template <class R>
__device__ __forceinline__ void join_group(const R& r, typename R::Partial& partial, int width) {
#pragma unroll 1
  for (int reach = (width < 32 ? width : 32) / 2; reach > 0; reach /= 2) r.join(partial, shuffle_xor(partial, reach));
  if (width <= 32) return;
  __shared__ typename R::Partial warps[8];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = partial;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 8; ++w) r.join(partial, warps[w]);
  }
}

template <class R, class T, class Out>
__global__ void __launch_bounds__(256)
    reduce_rows_kernel(R r, const T* x, Out* out, typename R::Partial* stored, const __grid_constant__ Reduction plan) {
  constexpr int kItems = kReductionItems<T>;
  const int width = plan.width, lane = threadIdx.x & (width - 1);
  const int64_t task = (blockIdx.x * int64_t{256} + threadIdx.x) / width;
  int64_t chunk;
  const int64_t result = plan.by_chunks.divide(task, chunk);
  typename R::Partial partial = r.initial();
  if (result < plan.results) {
    const T* base = x + plan.kept.offset(result);
    const int64_t first = chunk * plan.chunk, end = first + plan.chunk < plan.total ? first + plan.chunk : plan.total;
    if (plan.packed) {
#pragma unroll 1
      for (int64_t at = first + lane * kItems; at < end; at += width * kItems) {
        const auto items = *reinterpret_cast<const Items<T, kItems>*>(base + plan.reduced.offset(at));
        r.template take<kItems>(partial, items.at, at, 1);
      }
    } else {
#pragma unroll 1
      for (int64_t at = first + lane; at < end; at += width) {
        const T one = base[plan.reduced.offset(at)];
        r.template take<1>(partial, &one, at, 1);
      }
    }
  }
  join_group(r, partial, width);
  if (lane != 0 || result >= plan.results) return;
  if (plan.chunks > 1) stored[chunk * plan.results + result] = partial;
  else out[result] = r.template finish<Out>(partial);
}

// Joins the partial results of the threads (x, 0), (x, 1), ... of a block into that of (x, 0).
template <class R>
__device__ __forceinline__ void meet(const R& r, typename R::Partial& partial, typename R::Partial* meeting, int tx) {
  const int ty = 256 / tx, y = threadIdx.x / tx;
  __syncthreads();
  meeting[threadIdx.x] = partial;
  __syncthreads();
#pragma unroll 1
  for (int half = ty / 2; half > 0; half /= 2) {
    if (y < half) {
      r.join(partial, meeting[threadIdx.x + half * tx]);
      meeting[threadIdx.x] = partial;
    }
    __syncthreads();
  }
}

constexpr int kRowsAtOnce = 4;

// items: kReductionItems, or 1 where rows start anywhere.
template <class R, class T, class Out, int items>
__global__ void __launch_bounds__(256)
    reduce_columns_kernel(R r, const T* x, Out* out, typename R::Partial* stored, const __grid_constant__ Reduction plan) {
  using Partial = typename R::Partial;
  using Unit = Items<T, items>;
  // In the last step a lane's items lie one row of `gap` places after the other: 16 bytes more than the lanes take, so that
  // neither side meets in a bank.
  constexpr int kGap = 16 / sizeof(Partial);
  __shared__ Partial meeting[items * (32 + kGap) > 256 ? items * (32 + kGap) : 256];
  const int tx = plan.width, ty = 256 / tx, lane = threadIdx.x & (tx - 1), y = threadIdx.x / tx, gap = tx + kGap;
  int64_t block, chunk;
  const int64_t outer = plan.by_blocks.divide(plan.by_chunks.divide(blockIdx.x, chunk), block);
  const int64_t column = (block * tx + lane) * items;
  const bool inside = column < plan.columns;
  const int64_t end = (chunk + 1) * plan.chunk < plan.total ? (chunk + 1) * plan.chunk : plan.total;
  const T* base = x + plan.kept.offset(outer) + column;
  Partial partial[items];
#pragma unroll
  for (int k = 0; k < items; ++k) partial[k] = r.initial();
  if (inside) {
    int64_t row = chunk * plan.chunk + y;
#pragma unroll 1
    for (; row + (kRowsAtOnce - 1) * ty < end; row += kRowsAtOnce * ty) {
      Unit rows[kRowsAtOnce];
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) rows[i] = *reinterpret_cast<const Unit*>(base + plan.reduced.offset(row + i * ty));
#pragma unroll
      for (int k = 0; k < items; ++k) {
        T values[kRowsAtOnce];
#pragma unroll
        for (int i = 0; i < kRowsAtOnce; ++i) values[i] = rows[i].at[k];
        r.template take<kRowsAtOnce>(partial[k], values, row, ty);
      }
    }
#pragma unroll 1
    for (; row < end; row += ty) {
      const Unit one = *reinterpret_cast<const Unit*>(base + plan.reduced.offset(row));
#pragma unroll
      for (int k = 0; k < items; ++k) r.template take<1>(partial[k], &one.at[k], row, 1);
    }
  }
#pragma unroll
  for (int k = 0; k < items; ++k) meet(r, partial[k], meeting, tx);
  // Through shared memory once more, so that neighbours are written by neighbours.
  if (y == 0) {
#pragma unroll
    for (int k = 0; k < items; ++k) meeting[k * gap + lane] = partial[k];
  }
  __syncthreads();
  const int64_t mine = block * tx * items + threadIdx.x;
  if (static_cast<int>(threadIdx.x) >= tx * items || mine >= plan.columns) return;
  const int64_t at = outer * plan.columns + mine;
  const Partial& whole = meeting[threadIdx.x % items * gap + threadIdx.x / items];
  if (plan.chunks > 1) stored[chunk * plan.results + at] = whole;
  else out[at] = r.template finish<Out>(whole);
}

// Partial results of chunks, [chunks, results]: a block owns tx results, thread (x, y) reads chunks y, y + ty, ...
template <class R, class Out>
__global__ void __launch_bounds__(256)
    finish_kernel(R r, const typename R::Partial* stored, int64_t results, int64_t chunks, int tx, Out* out) {
  __shared__ typename R::Partial meeting[256];
  const int ty = 256 / tx, y = threadIdx.x / tx;
  const int64_t result = blockIdx.x * int64_t{tx} + (threadIdx.x & (tx - 1));
  typename R::Partial partial = r.initial();
  if (result < results) {
#pragma unroll 4
    for (int64_t chunk = y; chunk < chunks; chunk += ty) r.join(partial, stored[chunk * results + result]);
  }
  meet(r, partial, meeting, tx);
  if (y == 0 && result < results) out[result] = r.template finish<Out>(partial);
}

template <class T, class Out, class R>
int32_t reduce(const KernelArgs* args, R r) {
  constexpr int kItems = kReductionItems<T>;
  const TensorView &x = args->inputs[0], &out = args->outputs[0];
  if (out.numel == 0) return kOk;
  const Reduction plan = plan_reduction(args, kItems);
  const auto stream = stream_of(args).stream;
  const int64_t blocks = plan.rows ? (plan.results * plan.chunks * plan.width + 255) / 256
                                   : plan.results / plan.columns * plan.by_blocks.by * plan.chunks;
  const auto grid = static_cast<unsigned>(blocks);
  auto* stored = static_cast<typename R::Partial*>(args->workspace);
  if (plan.rows) {
    reduce_rows_kernel<R, T, Out><<<grid, 256, 0, stream>>>(r, x.as<const T>(), out.as<Out>(), stored, plan);
  } else if (plan.packed) {
    reduce_columns_kernel<R, T, Out, kItems><<<grid, 256, 0, stream>>>(r, x.as<const T>(), out.as<Out>(), stored, plan);
  } else {
    reduce_columns_kernel<R, T, Out, 1><<<grid, 256, 0, stream>>>(r, x.as<const T>(), out.as<Out>(), stored, plan);
  }
  if (const int32_t code = launched(args)) return code;
  if (plan.chunks == 1) return kOk;
  int tx = 1;
  while (tx < 32 && tx < plan.results) tx *= 2;
  finish_kernel<R, Out><<<static_cast<unsigned>((plan.results + tx - 1) / tx), 256, 0, stream>>>(r, stored, plan.results, plan.chunks,
                                                                                              tx, out.as<Out>());
  return launched(args);
}

}  // namespace lf::cuda
