// block_sparse_attention and its gradient: the kernels of attention, which then take the tiles that pass by them from lists.
// block_sparse_plan_kernel makes the lists from the layout: for each tile of queries (and of keys, for their gradients), the
// tiles of the other side that any of its rows lists, with the layout's entry for every 16 x 16 elements. So blocks of 16 to
// 128 all run in the same tiles, and a tile that nobody lists costs nothing. A thread owns a tile's list; bound by latency,
// but a list is a few hundred bytes. Layouts that point outside of themselves are reported, and nothing is read there.
#include "cuda/attention.cuh"

namespace lf::cuda {
namespace {

constexpr int kMostRows = 8;  // block rows in a tile: 128 / 16

// One direction of a layout: `starts` [patterns, own blocks + 1] into the list `entries` (nullptr: entry i is i) of entries,
// and the passing block of each entry.
struct Listing {
  const int32_t *starts, *entries, *others, *mask_ids;
  int64_t count, masks;
  int patterns, own_blocks, other_blocks, block, own, passing, tiles;

  __host__ __device__ int parts() const { return block > passing ? block / passing : 1; }    // tiles of a block
  __host__ __device__ int shares() const { return block > own ? block / own : 1; }           // own tiles in a block row
  __host__ __device__ int item_size() const { return 1 + own / 16 * (passing / 16); }
  __host__ __device__ int64_t capacity() const { return count * parts() * shares(); }
};

__global__ void block_sparse_plan_kernel(Listing l, int32_t* items, int2* tiles, Faults faults) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= l.patterns * l.tiles) return;
  const int pattern = index / l.tiles, tile = index % l.tiles, slots = l.passing / 16;
  const int32_t* starts = l.starts + int64_t{pattern} * (l.own_blocks + 1);
  const int first = tile * l.own / l.block, rows = min(max(1, l.own / l.block), l.own_blocks - first);
  int at[kMostRows], end[kMostRows];
  bool right = true;
  for (int r = 0; r < rows; ++r) {
    at[r] = starts[first + r];
    end[r] = starts[first + r + 1];
    if (at[r] < 0 || end[r] < at[r] || end[r] > l.count) {
      faults.report(end[r], first + r, l.count);
      right = false;
    }
  }
  auto entry_at = [&](int i) { return l.entries ? l.entries[i] : i; };
  for (int r = 0; right && r < rows; ++r) {
    for (int i = at[r]; i < end[r]; ++i) {
      const int entry = entry_at(i);
      const bool known = entry >= 0 && entry < l.count;
      const int other = known ? l.others[entry] : -1, mask = known ? l.mask_ids[entry] : -1;
      if (other >= 0 && other < l.other_blocks && mask >= -1 && mask < l.masks) continue;
      faults.report(known ? other : entry, i, l.other_blocks);
      right = false;
    }
  }
  const int64_t begin = int64_t{right ? at[0] : 0} * l.parts() * l.shares() +
                        (right ? int64_t{tile * l.own % l.block / l.own} * (end[0] - at[0]) * l.parts() : 0);
  int count = 0;
  // Parts of a block (blocks wider than a tile) come one after the other; `part` is the same for all rows then, as rows = 1 or
  // blocks are wider than tiles for all of them.
  int part[kMostRows] = {};
  while (right) {
    int next = INT_MAX;
    for (int r = 0; r < rows; ++r) {
      if (at[r] >= end[r]) continue;
      const int other = l.others[entry_at(at[r])];
      next = min(next, l.block > l.passing ? other * l.parts() + part[r] : other / (l.passing / l.block));
    }
    if (next == INT_MAX) break;
    int32_t* item = items + (begin + count++) * l.item_size();
    item[0] = next;
    for (int i = 1; i < l.item_size(); ++i) item[i] = -1;
    for (int r = 0; r < rows; ++r) {
      // 16-token rows of the tile that belong to this block row.
      const int own16 = min(l.block, l.own) / 16, row16 = r * own16;
      while (at[r] < end[r]) {
        const int entry = entry_at(at[r]), other = l.others[entry];
        const bool wide = l.block > l.passing;
        if ((wide ? other * l.parts() + part[r] : other / (l.passing / l.block)) != next) break;
        const int slot = wide ? 0 : other % (l.passing / l.block) * (l.block / 16), width = wide ? slots : l.block / 16;
        for (int i = row16; i < row16 + own16; ++i) {
          for (int c = slot; c < slot + width; ++c) item[1 + i * slots + c] = entry;
        }
        if (wide && ++part[r] < l.parts()) break;
        part[r] = 0;
        ++at[r];
        if (wide) break;
      }
    }
  }
  tiles[index] = make_int2(static_cast<int>(begin), count);
}

int blocks_of(int64_t n, int64_t block) { return static_cast<int>((n + block - 1) / block); }
int64_t round64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t items_bytes(const Listing& l) { return round64(l.capacity() * l.item_size() * 4); }
int64_t plan_bytes(const Listing& l) { return items_bytes(l) + round64(int64_t{l.patterns} * l.tiles * 8); }

// `q` is the position of q among the inputs, `at` that of row_starts.
AttentionProblem sparse_problem(const KernelArgs* args, int q) {
  const TensorView &query = args->inputs[q], &key = args->inputs[q + 1];
  AttentionProblem p{};
  p.heads = static_cast<int>(args->integer(0));
  p.kv_heads = static_cast<int>(args->integer(1));
  p.batch = static_cast<int>(query.shape[0]);
  p.queries = static_cast<int>(query.shape[1]);
  p.keys = p.kv_length = static_cast<int>(key.shape[1]);
  p.width = static_cast<int>(query.shape[3]);
  p.q_stride = p.out_stride = int64_t{p.heads} * p.width;
  p.kv_stride = int64_t{p.kv_heads} * p.width;
  p.scale = args->number(3) ? args->number(3) : 1.0 / sqrt(static_cast<double>(p.width));
  return p;
}

Listing listing_of(const KernelArgs* args, int q, int at, bool by_key, const AttentionTiling& tiling) {
  const TensorView &query = args->inputs[q], &key = args->inputs[q + 1];
  Listing l{};
  l.block = static_cast<int>(args->integer(2));
  l.count = args->inputs[at + 1].numel;
  l.masks = args->inputs[at + 3].shape[0];
  l.patterns = static_cast<int>(args->inputs[at].shape[0]);
  l.own = tiling.own;
  l.passing = tiling.passing;
  const int64_t own = by_key ? key.shape[1] : query.shape[1], other = by_key ? query.shape[1] : key.shape[1];
  l.own_blocks = blocks_of(own, l.block);
  l.other_blocks = blocks_of(other, l.block);
  l.tiles = blocks_of(own, l.own);
  l.starts = args->inputs[by_key ? at + 4 : at].as<const int32_t>();
  l.entries = by_key ? args->inputs[at + 5].as<const int32_t>() : nullptr;
  l.others = args->inputs[by_key ? at + 6 : at + 1].as<const int32_t>();
  l.mask_ids = args->inputs[at + 2].as<const int32_t>();
  return l;
}

// Makes the lists in `memory`, which moves on.
int32_t plan(const KernelArgs* args, const Listing& l, const TensorView& masks, char*& memory, AttentionBlocks* out) {
  auto* items = reinterpret_cast<int32_t*>(memory);
  auto* tiles = reinterpret_cast<int2*>(memory + items_bytes(l));
  memory += plan_bytes(l);
  *out = {items, tiles, l.mask_ids, masks.as<const uint8_t>(), l.block, l.patterns};
  const int lists = l.patterns * l.tiles;
  if (lists == 0) return kOk;
  const Faults faults = faults_of(args, "the block layout's number %lld at position %lld points outside of %lld");
  block_sparse_plan_kernel<<<(lists + 63) / 64, 64, 0, stream_of(args).stream>>>(l, items, tiles, faults);
  return launched(args);
}

// Which kernels a device will take is not known when workspace is asked for: room for either.
int64_t forward_workspace(const KernelArgs* args) {
  int64_t most = 0;
  for (const bool tensor_cores : {false, true}) {
    const AttentionTiling tiling = attention_tiling(tensor_cores, args->inputs[0].dtype, static_cast<int>(args->inputs[0].dim(3)), AttentionPass::kForward);
    const int64_t bytes = plan_bytes(listing_of(args, 0, 3, false, tiling));
    if (bytes > most) most = bytes;
  }
  return most;
}

int32_t block_sparse_attention(const KernelArgs* args) {
  AttentionProblem p = sparse_problem(args, 0);
  if (int64_t{p.batch} * p.heads * p.queries == 0) return kOk;
  auto* memory = static_cast<char*>(args->workspace);
  const AttentionTiling tiling = attention_tiling(args, args->inputs[0].dtype, p.width, AttentionPass::kForward);
  if (const int32_t code = plan(args, listing_of(args, 0, 3, false, tiling), args->inputs[6], memory, &p.by_query)) return code;
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const AttentionForward<T> t = {args->inputs[0].as<const T>(), args->inputs[1].as<const T>(), args->inputs[2].as<const T>(),
                                   args->outputs[0].as<T>(), args->outputs[1].as<Acc<T>>()};
    return run_attention(args, p, t);
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const TensorView& lse = args->inputs[5];
  int64_t most = 0;
  for (const bool tensor_cores : {false, true}) {
    int64_t bytes = 0;
    for (const AttentionPass pass : {AttentionPass::kGradQ, AttentionPass::kGradKv}) {
      const AttentionTiling tiling = attention_tiling(tensor_cores, args->inputs[1].dtype, static_cast<int>(args->inputs[1].dim(3)), pass);
      bytes += plan_bytes(listing_of(args, 1, 6, pass == AttentionPass::kGradKv, tiling));
    }
    if (bytes > most) most = bytes;
  }
  return most + 2 * lse.numel * dtype_size(lse.dtype);
}

int32_t block_sparse_attention_backward(const KernelArgs* args) {
  AttentionProblem p = sparse_problem(args, 1);
  auto* memory = static_cast<char*>(args->workspace);
  for (const AttentionPass pass : {AttentionPass::kGradQ, AttentionPass::kGradKv}) {
    const bool by_key = pass == AttentionPass::kGradKv;
    const AttentionTiling tiling = attention_tiling(args, args->inputs[1].dtype, p.width, pass);
    if (const int32_t code = plan(args, listing_of(args, 1, 6, by_key, tiling), args->inputs[9], memory, by_key ? &p.by_key : &p.by_query)) return code;
  }
  return dispatch_floating(args->inputs[1].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    AttentionBackward<T> t{};
    t.grad_out = args->inputs[0].as<const T>();
    t.q = args->inputs[1].as<const T>();
    t.k = args->inputs[2].as<const T>();
    t.v = args->inputs[3].as<const T>();
    t.out = args->inputs[4].as<const T>();
    t.lse = args->inputs[5].as<const Acc<T>>();
    t.delta = reinterpret_cast<Acc<T>*>(memory);
    t.base = t.delta + args->inputs[5].numel;
    t.grad_q = args->outputs[0].as<T>();
    t.grad_k = args->outputs[1].as<T>();
    t.grad_v = args->outputs[2].as<T>();
    return run_attention_backward(args, p, t);
  });
}

}  // namespace

LF_CUDA_KERNEL(block_sparse_attention, block_sparse_attention)
LF_CUDA_WORKSPACE(block_sparse_attention, forward_workspace)
LF_CUDA_KERNEL(block_sparse_attention_backward, block_sparse_attention_backward)
LF_CUDA_WORKSPACE(block_sparse_attention_backward, backward_workspace)

}  // namespace lf::cuda
