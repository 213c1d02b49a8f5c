// Stable sorting of many lines at once. An entry is a key and its place in the line, so no two are equal and any correct
// order is the stable one. Lines are cut into tiles of up to 1024 entries.
//   tile_sort_kernel  a block of 512 threads sorts 1024 entries in shared memory by a bitonic network: one tile, or several
//                     short lines side by side; a thread owns a comparison. Bound by shared memory; 3 blocks a multiprocessor.
//   merge_kernel      pairs of sorted runs become one: a thread owns an entry, whose rank is its place in its own run plus that
//                     of a binary search in the other. Bound by L2; full occupancy.
// Where only the first `keep` of a line are wanted, runs are never longer than that.
#pragma once
#include "cuda/kernel.cuh"

namespace lf::cuda {

// Key in the high half, place in the low.
using Entry = uint64_t;
struct alignas(16) WideEntry {
  uint64_t key;
  uint64_t place;
};
__device__ __forceinline__ bool operator<(const WideEntry& a, const WideEntry& b) {
  return a.key != b.key ? a.key < b.key : a.place < b.place;
}
__device__ __forceinline__ int64_t place_of(Entry entry) { return static_cast<uint32_t>(entry); }
__device__ __forceinline__ int64_t place_of(const WideEntry& entry) { return static_cast<int64_t>(entry.place); }
template <class E>
__device__ __forceinline__ E last_entry() {
  if constexpr (sizeof(E) == 8) return ~uint64_t{0};
  else return {~uint64_t{0}, ~uint64_t{0}};
}

constexpr int kSortTile = 1024, kSortThreads = 512;

struct SortPlan {
  int64_t lines, n, keep;  // entries of a line, and how many of them are wanted
  int64_t tile, tiles;     // entries of a tile, a power of two; tiles of a line

  SortPlan(int64_t lines, int64_t n, int64_t keep) : lines(lines), n(n), keep(keep), tile(1) {
    while (tile < n && tile < kSortTile) tile *= 2;
    tiles = (n + tile - 1) / tile;
  }
};

// The sorted runs of a line, one after another: all but the last of `length`.
struct SortedRuns {
  int64_t count, length, last;

  explicit SortedRuns(const SortPlan& plan) : count(plan.tiles), length(plan.tile), last(plan.n - (plan.tiles - 1) * plan.tile) {
    cut(plan.keep);
  }
  void cut(int64_t keep) {
    if (length > keep) length = keep;
    if (last > keep) last = keep;
  }
  SortedRuns merged(int64_t keep) const {
    SortedRuns next = *this;
    next.count = (count + 1) / 2;
    next.length = 2 * length;
    next.last = count % 2 ? last : length + last;
    next.cut(keep);
    return next;
  }
  __host__ __device__ int64_t total() const { return (count - 1) * length + last; }
};

template <class E>
struct ToRuns {
  E* out;
  SortedRuns runs;
  __device__ void operator()(int64_t line, int64_t run, int64_t i, const E& entry) const {
    if (i < (run + 1 < runs.count ? runs.length : runs.last)) out[line * runs.total() + run * runs.length + i] = entry;
  }
};

// load(line, k): the entry; write(line, run, i, entry): what to do with entry i of a sorted tile (the last may be padded).
template <class E, class Load, class Write>
__global__ void __launch_bounds__(kSortThreads) tile_sort_kernel(Load load, Write write, const __grid_constant__ SortPlan plan) {
  __shared__ E tile[kSortTile];
  const int size = static_cast<int>(plan.tile);
  const int64_t first = blockIdx.x * int64_t{kSortTile / size}, segments = plan.lines * plan.tiles;
#pragma unroll 1
  for (int slot = threadIdx.x; slot < kSortTile; slot += kSortThreads) {
    const int64_t segment = first + slot / size, line = segment / plan.tiles;
    const int64_t k = segment % plan.tiles * size + (slot & (size - 1));
    tile[slot] = segment < segments && k < plan.n ? load(line, k) : last_entry<E>();
  }
  __syncthreads();
#pragma unroll 1
  for (int span = 2; span <= size; span *= 2) {
#pragma unroll 1
    for (int reach = span / 2; reach > 0; reach /= 2) {
      const int low = threadIdx.x & (reach - 1), i = 2 * (threadIdx.x - low) + low;
      const bool up = (i & (size - 1) & span) == 0;
      const E a = tile[i], b = tile[i + reach];
      if (b < a == up) {
        tile[i] = b;
        tile[i + reach] = a;
      }
      __syncthreads();
    }
  }
#pragma unroll 1
  for (int slot = threadIdx.x; slot < kSortTile; slot += kSortThreads) {
    const int64_t segment = first + slot / size;
    if (segment < segments) write(segment / plan.tiles, segment % plan.tiles, slot & (size - 1), tile[slot]);
  }
}

template <class E>
__global__ void __launch_bounds__(256) merge_kernel(const E* in, E* out, int64_t lines, const __grid_constant__ SortedRuns from,
                                                    const __grid_constant__ SortedRuns to) {
  const int64_t total = from.total();
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < lines * total; i += gridDim.x * int64_t{256}) {
    const int64_t line = i / total, at = i % total, run = at / from.length, other = run ^ 1;
    const E* base = in + line * total;
    const E mine = base[at];
    int64_t rank = at - run * from.length;
    if (other < from.count) {
      const E* theirs = base + other * from.length;
      int64_t low = 0, high = other + 1 < from.count ? from.length : from.last;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (theirs[middle] < mine) low = middle + 1;
        else high = middle;
      }
      rank += low;
    }
    const int64_t target = run / 2;
    if (rank < (target + 1 < to.count ? to.length : to.last)) out[line * to.total() + target * to.length + rank] = mine;
  }
}

template <class E, class Load, class Write>
int32_t sort_tiles(const KernelArgs* args, const SortPlan& plan, const Load& load, const Write& write) {
  const int64_t side_by_side = kSortTile / plan.tile;
  const auto blocks = static_cast<unsigned>((plan.lines * plan.tiles + side_by_side - 1) / side_by_side);
  tile_sort_kernel<E><<<blocks, kSortThreads, 0, stream_of(args).stream>>>(load, write, plan);
  return launched(args);
}

template <class E>
int64_t sort_workspace(const SortPlan& plan) {
  return plan.n == 0 ? 0 : 2 * plan.lines * SortedRuns(plan).total() * static_cast<int64_t>(sizeof(E));
}

// Sorts into the workspace; `*sorted` holds `keep` entries for each line.
template <class E, class Load>
int32_t sort_lines(const KernelArgs* args, const SortPlan& plan, const Load& load, const E** sorted) {
  SortedRuns runs(plan);
  E *in = static_cast<E*>(args->workspace), *out = in + plan.lines * runs.total();
  if (const int32_t code = sort_tiles<E>(args, plan, load, ToRuns<E>{in, runs})) return code;
  while (runs.count > 1) {
    const SortedRuns next = runs.merged(plan.keep);
    merge_kernel<<<blocks_for(args, plan.lines * runs.total(), 256), 256, 0, stream_of(args).stream>>>(in, out, plan.lines, runs, next);
    if (const int32_t code = launched(args)) return code;
    E* spare = in;
    in = out;
    out = spare;
    runs = next;
  }
  *sorted = in;
  return kOk;
}

}  // namespace lf::cuda
