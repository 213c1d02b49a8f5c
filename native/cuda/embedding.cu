// embedding: rows of a table by id, plus rows of a position table. embedding_backward: rows of the gradient added up by id.
//
// Backward, with the same bits on every run and no atomics: ids are sorted with their places by one block (stable, 4 bits at a
// time, so that equal ids keep the order of their places); then the block of the first place of each id adds that id's rows in
// this order. Rows that no id names are only zeroed. Without ids (the position table) row v gets places v - offset + j * tokens.
// Bound by bytes; the sort by latency: about 2 us for each 4 bits of the largest id and 16384 ids.
// Warps an SM: embedding_kernel 64, add_rows_kernel 64, sort_ids_kernel 32.
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

constexpr const char* kBadId = "id %lld at place %lld is outside the table of %lld rows";
constexpr const char* kBadPosition = "position %lld at place %lld is outside the table of %lld rows";

// A row of threads owns a result; the block's rows walk on together. A bad id is reported and counts as 0.
template <class T, int V>
__global__ void __launch_bounds__(256) embedding_kernel(const T* weight, const int32_t* ids, const T* table, const int32_t* positions,
                                                        T* out, int64_t count, int width, int64_t rows, int64_t places, int64_t tokens,
                                                        int64_t offset, Faults bad_id, Faults bad_position) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; i < count; i += int64_t{gridDim.x} * blockDim.y) {
    int64_t id = ids[i], at = 0;
    if (id < 0 || id >= rows) {
      if (threadIdx.x == 0) bad_id.report(id, i, rows);
      continue;
    }
    if (table) {
      at = positions ? positions[i] : offset + i % tokens;
      if (at < 0 || at >= places) {
        if (threadIdx.x == 0) bad_position.report(at, i, places);
        continue;
      }
    }
    for (int column = threadIdx.x * V; column < width; column += blockDim.x * V) {
      Piece<T, V> piece = load_piece<V>(weight + id * width + column);
      if (table) {
        const Piece<T, V> place = load_piece<V>(table + at * width + column);
#pragma unroll
        for (int k = 0; k < V; ++k) piece.at[k] = narrow<T>(widen(piece.at[k]) + widen(place.at[k]));
      }
      store_piece<V>(out + i * width + column, piece);
    }
  }
}

int32_t embedding(const KernelArgs* args) {
  const TensorView &weight = args->inputs[0], &ids = args->inputs[1], &table = args->inputs[2], &positions = args->inputs[3];
  const TensorView& out = args->outputs[0];
  const int64_t width = weight.shape[1], tokens = ids.rank ? ids.dim(-1) : 1, offset = args->integer(0);
  if (ids.numel == 0) return kOk;
  if (table.present() && !positions.present() && (offset < 0 || offset + tokens > table.shape[0])) {
    std::snprintf(args->error, kErrorText, "%lld tokens from position %lld on are more than the table of %lld positions",
                  static_cast<long long>(tokens), static_cast<long long>(offset), static_cast<long long>(table.shape[0]));
    return kKernel;
  }
  return dispatch_floating(weight.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const void* places = table.present() ? table.data : nullptr;
    return dispatch_pieces<T>(rows_in_packs<T>(width, {weight.data, places, out.data}), [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      unsigned across = 32;
      while (across < 256 && across * V < width) across *= 2;
      const dim3 block(across, 256 / across);
      embedding_kernel<T, V><<<blocks_for(args, ids.numel, block.y), block, 0, stream_of(args).stream>>>(
          weight.as<const T>(), ids.as<const int32_t>(), static_cast<const T*>(places),
          positions.present() ? positions.as<const int32_t>() : nullptr, out.as<T>(), ids.numel, static_cast<int>(width), weight.shape[0],
          table.present() ? table.shape[0] : 0, tokens, offset, faults_of(args, kBadId), faults_of(args, kBadPosition));
      return launched(args);
    });
  });
}

// --- the sort ------------------------------------------------------------------------------------------------------------

constexpr int kSorters = 1024, kDigits = 16;

struct Sorted {
  int32_t id, place;
};

// One block. Thread t owns run t of the list in every pass: it counts its digits, learns where they go (all smaller digits,
// then equal digits of earlier threads), and moves them in order. `a` and `b` are used in turn; the result is in the one
// that `passes` ends with: a for an even number.
__global__ void __launch_bounds__(kSorters) sort_ids_kernel(const int32_t* ids, int count, int64_t rows, int passes, Sorted* a, Sorted* b,
                                                            Faults bad_id) {
  // [digit][thread], with a gap after every 32 so that a thread's 16 neighbours do not all lie in one bank.
  extern __shared__ int32_t counts[];
  __shared__ int32_t warp_totals[32];
  const int t = threadIdx.x, run = (count + kSorters - 1) / kSorters;
  const int begin = t * run < count ? t * run : count, end = begin + run < count ? begin + run : count;
  auto slot = [](int i) { return i + i / 32; };
  for (int pass = 0; pass < passes; ++pass) {
    const Sorted* from = pass % 2 ? b : a;
    Sorted* to = pass % 2 ? a : b;
    const int shift = 4 * pass;
    auto item = [&](int i) { return pass == 0 ? Sorted{ids[i], i} : from[i]; };
#pragma unroll
    for (int digit = 0; digit < kDigits; ++digit) counts[slot(digit * kSorters + t)] = 0;
    for (int i = begin; i < end; ++i) {
      const Sorted s = item(i);
      if (pass == 0 && (s.id < 0 || s.id >= rows)) bad_id.report(s.id, i, rows);
      ++counts[slot((static_cast<uint32_t>(s.id) >> shift & 15) * kSorters + t)];
    }
    __syncthreads();
    // An exclusive scan over all counts: each thread its 16 neighbours, then warps, then the block.
    int32_t mine = 0;
#pragma unroll
    for (int k = 0; k < kDigits; ++k) mine += counts[slot(t * kDigits + k)];
    int32_t before = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int32_t other = __shfl_up_sync(kFullWarp, before, step);
      if (t % 32 >= step) before += other;
    }
    if (t % 32 == 31) warp_totals[t / 32] = before;
    __syncthreads();
    int32_t start = before - mine;
    for (int w = 0; w < t / 32; ++w) start += warp_totals[w];
#pragma unroll
    for (int k = 0; k < kDigits; ++k) {
      int32_t& at = counts[slot(t * kDigits + k)];
      const int32_t number = at;
      at = start;
      start += number;
    }
    __syncthreads();
    for (int i = begin; i < end; ++i) {
      const Sorted s = item(i);
      to[counts[slot((static_cast<uint32_t>(s.id) >> shift & 15) * kSorters + t)]++] = s;
    }
    __syncthreads();  // also makes `to` visible to the block
  }
}

// Block (x, y) owns the id whose places begin at y of the sorted list, if one does there, and a strip of columns. Its rows of
// threads take every 4th run of the places; the runs are added in order.
constexpr int kRuns = 4;
template <class T, int V>
__global__ void __launch_bounds__(64 * kRuns) add_rows_kernel(const T* grad, const Sorted* sorted, int count, Acc<T>* out, int64_t rows,
                                                              int width, bool add) {
  using A = Acc<T>;
  __shared__ A runs[kRuns][V][64];
  const int first = blockIdx.x;
  const int32_t id = sorted[first].id;
  if (id < 0 || id >= rows || (first > 0 && sorted[first - 1].id == id)) return;
  int low = first + 1, high = count;  // the first place beyond this id
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (sorted[middle].id == id) low = middle + 1; else high = middle;
  }
  const int run = (low - first + kRuns - 1) / kRuns, begin = first + threadIdx.y * run, end = begin + run < low ? begin + run : low;
  const int column = (blockIdx.y * 64 + threadIdx.x) * V;
  A sum[V] = {};
  if (column < width) {
#pragma unroll 4
    for (int p = begin; p < end; ++p) {
      const auto piece = load_piece<V>(grad + static_cast<int64_t>(sorted[p].place) * width + column);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += widen(piece.at[k]);
    }
  }
  if (low - first > 1) {  // the same for the whole block
#pragma unroll
    for (int k = 0; k < V; ++k) runs[threadIdx.y][k][threadIdx.x] = sum[k];
    __syncthreads();
  }
  if (threadIdx.y != 0 || column >= width) return;
  A* to = out + static_cast<int64_t>(id) * width + column;
  if (low - first > 1) {
    for (int r = 1; r < kRuns; ++r) {
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += runs[r][k][threadIdx.x];
    }
  }
  store_sums<V>(to, sum, add);
}

// Positions: row offset + t of the result is the sum over the batch of gradient rows t. A thread owns a piece of a row.
template <class T, int V>
__global__ void __launch_bounds__(256) add_batch_kernel(const T* grad, int64_t per_sample, int64_t samples, Acc<T>* out, bool add) {
  for (int64_t i = (int64_t{blockIdx.x} * 256 + threadIdx.x) * V; i < per_sample; i += int64_t{gridDim.x} * 256 * V) {
    Acc<T> sum[V] = {};
#pragma unroll 4
    for (int64_t s = 0; s < samples; ++s) {
      const auto piece = load_piece<V>(grad + s * per_sample + i);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += widen(piece.at[k]);
    }
    store_sums<V>(out + i, sum, add);
  }
}

int64_t backward_workspace(const KernelArgs* args) {
  if (!args->inputs[1].present()) return 0;
  const int64_t width = args->inputs[0].dim(-1);
  return width ? args->inputs[0].numel / width * 2 * static_cast<int64_t>(sizeof(Sorted)) : 0;
}

int32_t embedding_backward(const KernelArgs* args) {
  const TensorView &grad = args->inputs[0], &ids = args->inputs[1], &into = args->inputs[2];
  const TensorView& out = into.present() ? into : args->outputs[0];
  const int64_t rows = args->integer(0), width = grad.dim(-1), count = width ? grad.numel / width : 0, offset = args->integer(1);
  const auto stream = stream_of(args).stream;
  if (out.numel && !into.present()) {
    if (const auto code = report(args, cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.numel * dtype_size(out.dtype)), stream))) return code;
  }
  if (count == 0) return kOk;
  return dispatch_floating(grad.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const bool packs = rows_in_packs<T>(width, {grad.data, out.data});
    if (!ids.present()) {
      const int64_t per_sample = grad.dim(-2) * width;
      return dispatch_pieces<T>(packs, [&](auto pieces) {
        constexpr int V = decltype(pieces)::value;
        add_batch_kernel<T, V><<<blocks_for(args, per_sample, 256 * V), 256, 0, stream>>>(
            grad.as<const T>(), per_sample, count / grad.dim(-2), out.as<Acc<T>>() + offset * width, into.present());
        return launched(args);
      });
    }
    int passes = 1;
    while (passes < 8 && (rows - 1) >> (4 * passes)) ++passes;
    auto* a = static_cast<Sorted*>(args->workspace);
    Sorted* b = a + count;
    constexpr int kShared = (kDigits * kSorters + kDigits * kSorters / 32) * 4;
    if (const auto code = report(args, cudaFuncSetAttribute(sort_ids_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared))) return code;
    sort_ids_kernel<<<1, kSorters, kShared, stream>>>(ids.as<const int32_t>(), static_cast<int>(count), rows, passes, a, b,
                                                      faults_of(args, kBadId));
    if (const auto code = launched(args)) return code;
    const Sorted* sorted = passes % 2 ? b : a;
    return dispatch_pieces<T>(packs, [&](auto pieces) {
      constexpr int V = decltype(pieces)::value;
      const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>((width + 64 * V - 1) / (64 * V)));
      add_rows_kernel<T, V><<<grid, dim3(64, kRuns), 0, stream>>>(grad.as<const T>(), sorted, static_cast<int>(count), out.as<Acc<T>>(), rows,
                                                                  static_cast<int>(width), into.present());
      return launched(args);
    });
  });
}

}  // namespace

LF_CUDA_KERNEL(embedding, embedding)
LF_CUDA_KERNEL(embedding_backward, embedding_backward)
LF_CUDA_WORKSPACE(embedding_backward, backward_workspace)

}  // namespace lf::cuda
