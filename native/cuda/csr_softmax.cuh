// Softmax over the listed pairs of each row and its gradient, in place, for csr_attention.cu. The values are those of one sparse
// matrix, f32 or f64. Bound by bytes.
// CSR: a row starts anywhere in a sector of memory, and most sectors at its ends are shared with its neighbours. So a block takes
// kRows rows, brings the values of as many as fit into shared memory as the one range that they are, has a warp work on each row
// there, and writes the range back: sectors are touched once. A row that does not fit is done by the whole block, in two sweeps.
// BSR: a row's pieces are whole sectors. A warp owns a row, in registers up to kHeldPacks packs a lane, in two sweeps beyond.
#pragma once
#include "cuda/softmax.cuh"

namespace lf::cuda {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

struct Rows {
  const int32_t *row_starts, *columns;  // of pairs, or of blocks
  int64_t rows, first, entries;         // rows of this chunk, its first (batch entry, head) pair, and its values
  int queries, keys, heads;
  int shift;  // a block has 1 << shift rows
  bool causal;
  const uint8_t* key_mask;  // [batch, keys] or nullptr
  const int32_t* segments;  // [batch, keys] or nullptr

  __device__ bool hides() const { return causal || key_mask || segments; }
};

// What hides keys from one row.
struct Hidden {
  int low, last, segment;
  const uint8_t* mask;
  const int32_t* segments;

  __device__ Hidden(const Rows& r, int64_t row) {
    const int pair = static_cast<int>(row / r.queries), query = static_cast<int>(row % r.queries);
    const int64_t batch = (r.first + pair) / r.heads;
    low = pair * r.keys;
    last = r.causal ? query + r.keys - r.queries : r.keys;
    mask = r.key_mask ? r.key_mask + batch * r.keys : nullptr;
    segments = r.segments ? r.segments + batch * r.keys : nullptr;
    segment = segments ? segments[query] : 0;
  }
  __device__ bool operator()(int column) const {
    const int key = column - low;
    return key > last || (mask && !mask[key]) || (segments && segments[key] != segment);
  }
};

// The gradient's lists: scores, which become probabilities, and gradients of probabilities, which become those of scores.
template <class A>
struct GradientLists {
  A *scores, *grads;
  A scale;

  __device__ A grad(A p, A d, A delta) const { return p * (d - delta) * scale; }
};

// --- CSR ----------------------------------------------------------------------------------------------------------------------

constexpr int kRows = 16;
// Numbers of one list that a block holds: 32 KB of shared memory forwards, and of two lists backwards.
template <class A>
constexpr int kHeld = 32768 / static_cast<int>(sizeof(A));

// The numbers [begin, end) of a list, where begin is at `held` plus what it is beyond a pack. The few beside whole packs take one
// access of the first threads together; what is beyond the range belongs to other blocks, and is not looked at.
template <class A, bool kStore>
__device__ __forceinline__ void move_range(A* list, int begin, int end, A* held) {
  constexpr int n = Pack<A>::n;
  const int from = begin / n * n, first = (begin + n - 1) / n * n, last = end / n * n;
  for (int i = first + static_cast<int>(threadIdx.x) * n; i < last; i += kThreads * n) {
    auto *in_list = reinterpret_cast<uint4*>(list + i), *in_held = reinterpret_cast<uint4*>(held + (i - from));
    if (kStore) *in_list = *in_held;
    else *in_held = *in_list;
  }
  const int t = threadIdx.x, i = t < n ? from + t : (first > last ? first : last) + t - n;
  if (t < 2 * n && i >= begin && i < end && (t >= n || i < first)) {
    if (kStore) list[i] = held[i - from];
    else held[i - from] = list[i];
  }
}

// Where the rows of a block start, and how many of them from `at` on fit into `most` numbers.
struct Starts {
  int of[kRows + 1];

  __device__ __forceinline__ void load(const Rows& r, int64_t first, int count) {
    if (threadIdx.x <= count) of[threadIdx.x] = r.row_starts[first + threadIdx.x];
    __syncthreads();
  }
  template <class A>
  __device__ __forceinline__ int fitting(int at, int count, int most) const {
    const int from = of[at] / Pack<A>::n * Pack<A>::n;
    if (of[count] - from <= most) return count;
    int end = at;
    while (end < count && of[end + 1] - from <= most) ++end;
    return end;
  }
};

// A pack of a long row: packs at its ends hold `fill` outside of it.
template <class A>
__device__ __forceinline__ Pack<A> load_between(const A* list, int64_t i, int64_t begin, int64_t end, int64_t total, A fill) {
  constexpr int n = Pack<A>::n;
  Pack<A> pack;
  if (i >= begin && i < end && i + n <= total) {
    pack = load_pack(list + i);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) pack.at[k] = i + k >= begin && i + k < end ? list[i + k] : fill;
  }
#pragma unroll
  for (int k = 0; k < n; ++k) {
    if (i + k < begin || i + k >= end) pack.at[k] = fill;
  }
  return pack;
}
template <class A>
__device__ __forceinline__ void store_between(A* list, int64_t i, int64_t begin, int64_t end, const Pack<A>& pack) {
  constexpr int n = Pack<A>::n;
  if (i >= begin && i + n <= end) return store_pack(list + i, pack);
#pragma unroll
  for (int k = 0; k < n; ++k) {
    if (i + k >= begin && i + k < end) list[i + k] = pack.at[k];
  }
}
// Scores of a long row, with -inf outside of it and for hidden keys.
template <class A>
__device__ __forceinline__ Pack<A> load_scores(const Rows& r, const Hidden& hidden, const A* values, int64_t i, int64_t begin, int64_t end) {
  Pack<A> pack = load_between(values, i, begin, end, r.entries, lowest<A>());
  if (r.hides()) {
#pragma unroll
    for (int k = 0; k < Pack<A>::n; ++k) {
      if (i + k >= begin && i + k < end && hidden(r.columns[i + k])) pack.at[k] = lowest<A>();
    }
  }
  return pack;
}

// values: scores, then probabilities.
template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 5 : 3) csr_softmax_kernel(Rows r, A* values, A* lse) {
  constexpr int n = Pack<A>::n;
  __shared__ __align__(16) A held[kHeld<A>];
  __shared__ A shared[32], logs[kRows];
  __shared__ Starts starts;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = int64_t{blockIdx.x} * kRows;
  const int count = static_cast<int>(r.rows - first < kRows ? r.rows - first : kRows);
  starts.load(r, first, count);
  for (int at = 0; at < count;) {
    const int end_row = starts.fitting<A>(at, count, kHeld<A>), low = starts.of[at], from = low / n * n;
    if (end_row > at) {
      move_range<A, false>(values, low, starts.of[end_row], held);
      __syncthreads();
      for (int row = at + warp; row < end_row; row += kWarps) {
        const int begin = starts.of[row] - from, end = starts.of[row + 1] - from;
        A highest = lowest<A>();
        if (r.hides()) {
          const Hidden hidden(r, first + row);
          for (int i = begin + lane; i < end; i += 32) {
            if (hidden(r.columns[from + i])) held[i] = lowest<A>();
          }
        }
        for (int i = begin + lane; i < end; i += 32) highest = larger(highest, held[i]);
        highest = warp_max(highest);
        const A base = finite_highest(highest);
        A sum = 0;
        for (int i = begin + lane; i < end; i += 32) sum += held[i] = exp(held[i] - base);
        sum = warp_sum(sum);
        const A factor = sum == 0 ? A{} : 1 / sum;
        for (int i = begin + lane; i < end; i += 32) held[i] *= factor;
        if (lane == 0) logs[row] = highest + log(sum);
      }
      __syncthreads();
      move_range<A, true>(values, low, starts.of[end_row], held);
      at = end_row;
    } else {
      const Hidden hidden(r, first + at);
      const int begin = low, end = starts.of[at + 1];
      RunningSums<A> running;
      for (int i = from + static_cast<int>(threadIdx.x) * n; i < end; i += kThreads * n) {
        running.add(load_scores(r, hidden, values, i, begin, end).at);
      }
      const RowSums<A> whole = running.template over_group<false>(shared);
      const A factor = whole.sum == 0 ? A{} : 1 / whole.sum;
      for (int i = from + static_cast<int>(threadIdx.x) * n; i < end; i += kThreads * n) {
        Pack<A> pack = load_scores(r, hidden, values, i, begin, end);
#pragma unroll
        for (int k = 0; k < n; ++k) pack.at[k] = exp(pack.at[k] - whole.highest) * factor;
        store_between(values, i, begin, end, pack);
      }
      if (threadIdx.x == 0) logs[at] = whole.log_sum();
      ++at;
    }
    __syncthreads();
  }
  if (threadIdx.x < count) lse[first + threadIdx.x] = logs[threadIdx.x];
}

template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 3) csr_softmax_backward_kernel(Rows r, GradientLists<A> l, const A* lse) {
  constexpr int n = Pack<A>::n, kMost = kHeld<A> / 2;
  __shared__ __align__(16) A held[2][kMost];
  __shared__ A shared[32], logs[kRows];
  __shared__ Starts starts;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = int64_t{blockIdx.x} * kRows;
  const int count = static_cast<int>(r.rows - first < kRows ? r.rows - first : kRows);
  if (threadIdx.x < count) logs[threadIdx.x] = lse[first + threadIdx.x];
  starts.load(r, first, count);
  for (int at = 0; at < count;) {
    const int end_row = starts.fitting<A>(at, count, kMost), low = starts.of[at], from = low / n * n;
    if (end_row > at) {
      move_range<A, false>(l.scores, low, starts.of[end_row], held[0]);
      move_range<A, false>(l.grads, low, starts.of[end_row], held[1]);
      __syncthreads();
      for (int row = at + warp; row < end_row; row += kWarps) {
        const int begin = starts.of[row] - from, end = starts.of[row + 1] - from;
        A *const p = held[0], *const d = held[1];
        const A base = finite_highest(logs[row]);
        A delta = 0;
        if (r.hides()) {
          const Hidden hidden(r, first + row);
          for (int i = begin + lane; i < end; i += 32) {
            if (hidden(r.columns[from + i])) p[i] = lowest<A>();
          }
        }
        for (int i = begin + lane; i < end; i += 32) delta += (p[i] = exp(p[i] - base)) * d[i];
        delta = warp_sum(delta);
        for (int i = begin + lane; i < end; i += 32) d[i] = l.grad(p[i], d[i], delta);
      }
      __syncthreads();
      move_range<A, true>(l.scores, low, starts.of[end_row], held[0]);
      move_range<A, true>(l.grads, low, starts.of[end_row], held[1]);
      at = end_row;
    } else {
      const Hidden hidden(r, first + at);
      const A base = finite_highest(logs[at]);
      const int begin = low, end = starts.of[at + 1];
      A delta = 0;
      for (int i = from + static_cast<int>(threadIdx.x) * n; i < end; i += kThreads * n) {
        const Pack<A> p = load_scores(r, hidden, l.scores, i, begin, end), d = load_between<A>(l.grads, i, begin, end, r.entries, 0);
#pragma unroll
        for (int k = 0; k < n; ++k) delta += exp(p.at[k] - base) * d.at[k];
      }
      delta = block_sum(delta, shared);
      for (int i = from + static_cast<int>(threadIdx.x) * n; i < end; i += kThreads * n) {
        Pack<A> p = load_scores(r, hidden, l.scores, i, begin, end), d = load_between<A>(l.grads, i, begin, end, r.entries, 0);
#pragma unroll
        for (int k = 0; k < n; ++k) {
          p.at[k] = exp(p.at[k] - base);
          d.at[k] = l.grad(p.at[k], d.at[k], delta);
        }
        store_between(l.scores, i, begin, end, p);
        store_between(l.grads, i, begin, end, d);
      }
      ++at;
    }
    __syncthreads();
  }
}

// --- BSR ----------------------------------------------------------------------------------------------------------------------

constexpr int kHeldPacks = 8, kHeldPacksBackward = 4;

// A warp's row of a matrix of blocks: number i of it is at(i), in the column column(i).
struct BlockRow {
  const Rows& r;
  int first, length, shift, inside;

  __device__ __forceinline__ BlockRow(const Rows& r, int64_t row) : r(r), shift(r.shift), inside(static_cast<int>(row) & ((1 << r.shift) - 1)) {
    const int lane = threadIdx.x % 32;
    const int32_t own = lane < 2 ? r.row_starts[(row >> shift) + lane] : 0;
    first = __shfl_sync(kFullWarp, own, 0);
    length = (__shfl_sync(kFullWarp, own, 1) - first) << shift;
  }
  __device__ __forceinline__ int64_t at(int i) const {
    return (((int64_t{first + (i >> shift)} << shift) + inside) << shift) + (i & ((1 << shift) - 1));
  }
  __device__ __forceinline__ int column(int i) const { return (r.columns[first + (i >> shift)] << shift) + (i & ((1 << shift) - 1)); }

  template <class A>
  __device__ __forceinline__ Pack<A> load(const A* list, int i, A fill) const {
    if (i < length) return load_pack(list + at(i));
    Pack<A> pack;
#pragma unroll
    for (int k = 0; k < Pack<A>::n; ++k) pack.at[k] = fill;
    return pack;
  }
  template <class A>
  __device__ __forceinline__ Pack<A> load_scores(const Hidden& hidden, const A* list, int i) const {
    Pack<A> pack = load(list, i, lowest<A>());
    if (r.hides() && i < length) {
      const int first_column = column(i);
#pragma unroll
      for (int k = 0; k < Pack<A>::n; ++k) {
        if (hidden(first_column + k)) pack.at[k] = lowest<A>();
      }
    }
    return pack;
  }
  template <class A>
  __device__ __forceinline__ void store(A* list, int i, const Pack<A>& pack) const {
    if (i < length) store_pack(list + at(i), pack);
  }
};

template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 2) bsr_softmax_kernel(Rows r, A* values, A* lse) {
  constexpr int n = Pack<A>::n, kTurn = 32 * n;
  __shared__ A logs[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp;
  const BlockRow own(r, row);
  const Hidden hidden(r, row);
  A highest = lowest<A>(), sum = 0;
  if (own.length <= kTurn * kHeldPacks) {
    Pack<A> held[kHeldPacks];
#pragma unroll
    for (int j = 0; j < kHeldPacks; ++j) {
      if (j * kTurn >= own.length) break;
      held[j] = own.load_scores(hidden, values, j * kTurn + lane * n);
#pragma unroll
      for (int k = 0; k < n; ++k) highest = larger(highest, held[j].at[k]);
    }
    highest = warp_max(highest);
    const A base = finite_highest(highest);
#pragma unroll
    for (int j = 0; j < kHeldPacks; ++j) {
      if (j * kTurn >= own.length) break;
#pragma unroll
      for (int k = 0; k < n; ++k) sum += held[j].at[k] = exp(held[j].at[k] - base);
    }
    sum = warp_sum(sum);
    const A factor = sum == 0 ? A{} : 1 / sum;
#pragma unroll
    for (int j = 0; j < kHeldPacks; ++j) {
      if (j * kTurn >= own.length) break;
#pragma unroll
      for (int k = 0; k < n; ++k) held[j].at[k] *= factor;
      own.store(values, j * kTurn + lane * n, held[j]);
    }
  } else {
    RunningSums<A> running;
    for (int i = lane * n; i < own.length; i += kTurn) running.add(own.load_scores(hidden, values, i).at);
    const RowSums<A> whole = running.template over_group<true>(nullptr);
    highest = whole.highest;
    sum = whole.sum;
    const A factor = sum == 0 ? A{} : 1 / sum;
    for (int i = lane * n; i < own.length; i += kTurn) {
      Pack<A> pack = own.load_scores(hidden, values, i);
#pragma unroll
      for (int k = 0; k < n; ++k) pack.at[k] = exp(pack.at[k] - highest) * factor;
      own.store(values, i, pack);
    }
  }
  if (lane == 0) logs[warp] = highest + log(sum);
  __syncthreads();
  if (threadIdx.x < kWarps) lse[int64_t{blockIdx.x} * kWarps + threadIdx.x] = logs[threadIdx.x];
}

template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 2) bsr_softmax_backward_kernel(Rows r, GradientLists<A> l, const A* lse) {
  constexpr int n = Pack<A>::n, kTurn = 32 * n;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + warp;
  const BlockRow own(r, row);
  const Hidden hidden(r, row);
  const A base = finite_highest(lse[row]);
  A delta = 0;
  if (own.length <= kTurn * kHeldPacksBackward) {
    Pack<A> p[kHeldPacksBackward], d[kHeldPacksBackward];
#pragma unroll
    for (int j = 0; j < kHeldPacksBackward; ++j) {
      if (j * kTurn >= own.length) break;
      p[j] = own.load_scores(hidden, l.scores, j * kTurn + lane * n);
      d[j] = own.load(l.grads, j * kTurn + lane * n, A{});
#pragma unroll
      for (int k = 0; k < n; ++k) delta += (p[j].at[k] = exp(p[j].at[k] - base)) * d[j].at[k];
    }
    delta = warp_sum(delta);
#pragma unroll
    for (int j = 0; j < kHeldPacksBackward; ++j) {
      if (j * kTurn >= own.length) break;
#pragma unroll
      for (int k = 0; k < n; ++k) d[j].at[k] = l.grad(p[j].at[k], d[j].at[k], delta);
      own.store(l.scores, j * kTurn + lane * n, p[j]);
      own.store(l.grads, j * kTurn + lane * n, d[j]);
    }
  } else {
    for (int i = lane * n; i < own.length; i += kTurn) {
      const Pack<A> p = own.load_scores(hidden, l.scores, i), d = own.load(l.grads, i, A{});
#pragma unroll
      for (int k = 0; k < n; ++k) delta += exp(p.at[k] - base) * d.at[k];
    }
    delta = warp_sum(delta);
    for (int i = lane * n; i < own.length; i += kTurn) {
      Pack<A> p = own.load_scores(hidden, l.scores, i), d = own.load(l.grads, i, A{});
#pragma unroll
      for (int k = 0; k < n; ++k) {
        p.at[k] = exp(p.at[k] - base);
        d.at[k] = l.grad(p.at[k], d.at[k], delta);
      }
      own.store(l.scores, i, p);
      own.store(l.grads, i, d);
    }
  }
}

}  // namespace lf::cuda
