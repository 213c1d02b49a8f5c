// csr_attention and its gradient: cuSPARSE's SDDMM for the scores of the listed pairs, a softmax over each row's pairs, SpMM
// for the output; backwards two SDDMM and three SpMM, those of keys and values over the transposed lists. Chunks of (batch
// entry, head) pairs are stacked along the diagonal of one sparse matrix (see native/ops/csr_attention.cpp), so that a chunk
// is one call of the library. Everything between the first kernel and the last is f32 (f64 for f64): the library has no
// SDDMM over CSR in bf16, and scores keep their digits.
// pack, unpack: [batch, tokens, heads, width] <-> [pairs, tokens, width]; a thread owns 4 numbers; bound by bytes.
// Softmax: a warp owns a row, in registers up to kHeld numbers a lane; longer rows are done by the whole block, in two sweeps.
// A row starts anywhere, so the packs at its ends are moved number by number. Bound by bytes.
// Turn: probabilities and score gradients from the order of rows into that of the transposed lists. A block owns 4096 places
// of the latter. It reads packs of 4 entries in the order of rows, which the layout lists for it, puts what is its own into
// shared memory, and writes whole lines. 1 pack a list entry; bound by bytes, 32 KB of shared memory (f64: 64 KB). The layout
// deals out slots so that no two of f32's stores or loads at once lie in the same bank.
// Warps an SM: pack_kernel 32, unpack_kernel 32, csr_softmax_kernel 24, csr_softmax_backward_kernel 32, csr_turn_kernel 48.
#include "cuda/rows.cuh"
#include "cuda/sparse_library.h"

namespace lf::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

// --- between the layouts of tensors and of sparse matrices ----------------------------------------------------------------

// Pairs first, first + 1, ... of a tensor whose head h serves the pairs of `group` heads.
struct Move {
  const void* from;
  void* to;
  int64_t items;  // of `V` numbers in the tensor of pairs (pack), or in the tensor (unpack)
  Divisor tokens;
};
struct Moves {
  Move at[4];
  Divisor pieces;  // of V numbers in a width
  Divisor heads, group;
  int64_t first;
};

template <class T, int V>
__global__ void __launch_bounds__(kThreads) pack_kernel(Moves moves, int64_t grouped) {
  const Move& move = moves.at[blockIdx.y];
  const bool shared = grouped >> blockIdx.y & 1;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < move.items; i += int64_t{gridDim.x} * kThreads) {
    int64_t piece, token, head;
    const int64_t pair = move.tokens.divide(moves.pieces.divide(i, piece), token);
    const int64_t batch = moves.heads.divide(moves.first + pair, head);
    int64_t heads = moves.heads.by, rest;
    if (shared) {
      head = moves.group.divide(head, rest);
      heads = moves.group.divide(heads, rest);
    }
    const T* from = static_cast<const T*>(move.from) + (((batch * move.tokens.by + token) * heads + head) * moves.pieces.by + piece) * V;
    const auto read = load_piece<V>(from);
    Piece<Acc<T>, V> wide;
#pragma unroll
    for (int k = 0; k < V; ++k) wide.at[k] = widen(read.at[k]);
    store_piece<V>(static_cast<Acc<T>*>(move.to) + i * V, wide);
  }
}

// Heads that share their keys add up, in order.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) unpack_kernel(Moves moves, int64_t grouped) {
  const Move& move = moves.at[blockIdx.y];
  const bool shared = grouped >> blockIdx.y & 1;
  const int64_t group = shared ? moves.group.by : 1;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < move.items; i += int64_t{gridDim.x} * kThreads) {
    int64_t piece, token, head;
    const int64_t pair = move.tokens.divide(moves.pieces.divide(i, piece), token) * group;
    const int64_t batch = moves.heads.divide(moves.first + pair, head);
    const int64_t step = move.tokens.by * moves.pieces.by * V;
    const Acc<T>* from = static_cast<const Acc<T>*>(move.from) + pair * step + (token * moves.pieces.by + piece) * V;
    auto sum = load_piece<V>(from);
    for (int64_t g = 1; g < group; ++g) {
      const auto more = load_piece<V>(from + g * step);
#pragma unroll
      for (int k = 0; k < V; ++k) sum.at[k] += more.at[k];
    }
    int64_t heads = moves.heads.by, rest;
    if (shared) {
      head = moves.group.divide(head, rest);
      heads = moves.group.divide(heads, rest);
    }
    Piece<T, V> narrowed;
#pragma unroll
    for (int k = 0; k < V; ++k) narrowed.at[k] = narrow<T>(sum.at[k]);
    store_piece<V>(static_cast<T*>(move.to) + (((batch * move.tokens.by + token) * heads + head) * moves.pieces.by + piece) * V, narrowed);
  }
}

// --- softmax over the pairs of a row ----------------------------------------------------------------------------------------

struct Rows {
  const int32_t *row_starts, *columns;
  int64_t rows, first, entries;  // rows of this chunk, its first pair, and its entries
  int queries, keys, heads;
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

// Numbers i ... of a list of `total`, of which those of [begin, end) count; others become `fill`. i is a multiple of a pack.
// Neighbouring rows may be written meanwhile: what is theirs is not looked at.
template <class A>
__device__ __forceinline__ Pack<A> load_between(const A* list, int64_t i, int64_t begin, int64_t end, int64_t total, A fill) {
  constexpr int n = Pack<A>::n;
  Pack<A> pack;
  if (i < end && i + n <= total) {
    pack = load_pack(list + i);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) pack.at[k] = i + k < end ? list[i + k] : fill;
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
// The same by a whole warp: the numbers of a pack at an end of the row are spread over lanes and take one store together.
template <class A>
__device__ __forceinline__ void store_row(A* list, int64_t i, int64_t begin, int64_t end, const Pack<A>& pack) {
  constexpr int n = Pack<A>::n;
  const int lane = threadIdx.x % 32;
  const bool whole = i >= begin && i + n <= end;
  if (whole) store_pack(list + i, pack);
  for (unsigned ends = __ballot_sync(kFullWarp, !whole && i < end && i + n > begin); ends; ends &= ends - 1) {
    const int from = __ffs(static_cast<int>(ends)) - 1;
    const int64_t at = __shfl_sync(kFullWarp, i, from) + lane;
    A own{};
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const A number = __shfl_sync(kFullWarp, pack.at[k], from);
      if (lane == k) own = number;
    }
    if (lane < n && at >= begin && at < end) list[at] = own;
  }
}

// Scores, with -inf outside of the row and for hidden keys.
template <class A>
__device__ __forceinline__ Pack<A> load_scores(const Rows& r, const Hidden& hidden, const A* values, int64_t i, int64_t begin, int64_t end) {
  Pack<A> pack = load_between(values, i, begin, end, r.entries, -static_cast<A>(INFINITY));
  if (r.hides()) {
#pragma unroll
    for (int k = 0; k < Pack<A>::n; ++k) {
      if (i + k >= begin && i + k < end && hidden(r.columns[i + k])) pack.at[k] = -static_cast<A>(INFINITY);
    }
  }
  return pack;
}

template <class A>
__device__ __forceinline__ A finite(A highest) {
  return highest == -static_cast<A>(INFINITY) ? A{} : highest;
}
template <class A>
__device__ __forceinline__ A larger(A a, A b) {
  return b > a || b != b ? b : a;
}

// values: scores, then probabilities, in place. kPacks a lane are held.
template <class A, int kPacks>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 3 : 2) csr_softmax_kernel(Rows r, A* values, A* lse) {
  constexpr int n = Pack<A>::n;
  __shared__ A shared[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t block_row = int64_t{blockIdx.x} * kWarps;
  const int64_t row = block_row + warp;
  bool longer = false;
  if (row < r.rows) {
    const int64_t begin = r.row_starts[row], end = r.row_starts[row + 1], from = begin / n * n;
    longer = end - from > int64_t{32} * kPacks * n;
    if (!longer) {
      const Hidden hidden(r, row);
      Pack<A> held[kPacks];
      A highest = -static_cast<A>(INFINITY);
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (from + j * 32 * n >= end) break;
        held[j] = load_scores(r, hidden, values, from + (j * 32 + lane) * n, begin, end);
#pragma unroll
        for (int k = 0; k < n; ++k) highest = larger(highest, held[j].at[k]);
      }
      highest = warp_max(highest);
      const A base = finite(highest);
      A sum = 0;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (from + j * 32 * n >= end) break;
#pragma unroll
        for (int k = 0; k < n; ++k) sum += held[j].at[k] = exp(held[j].at[k] - base);
      }
      sum = warp_sum(sum);
      const A factor = sum == 0 ? A{} : 1 / sum;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (from + j * 32 * n >= end) break;
#pragma unroll
        for (int k = 0; k < n; ++k) held[j].at[k] *= factor;
        store_row(values, from + (j * 32 + lane) * n, begin, end, held[j]);
      }
      if (lane == 0) lse[row] = highest + log(sum);
    }
  }
  if (!__syncthreads_or(longer)) return;
  for (int64_t other = block_row; other < block_row + kWarps && other < r.rows; ++other) {
    const int64_t begin = r.row_starts[other], end = r.row_starts[other + 1], from = begin / n * n;
    if (end - from <= int64_t{32} * kPacks * n) continue;
    const Hidden hidden(r, other);
    // A running maximum and sum in each thread.
    A highest = -static_cast<A>(INFINITY), sum = 0;
    for (int64_t i = from + threadIdx.x * n; i < end; i += kThreads * n) {
      const Pack<A> pack = load_scores(r, hidden, values, i, begin, end);
      A now = highest;
#pragma unroll
      for (int k = 0; k < n; ++k) now = larger(now, pack.at[k]);
      const A base = finite(now);
      sum *= exp(highest - base);
#pragma unroll
      for (int k = 0; k < n; ++k) sum += exp(pack.at[k] - base);
      highest = now;
    }
    const A whole = block_max(highest, shared), base = finite(whole);
    sum = block_sum(sum * exp(highest - base), shared);
    const A factor = sum == 0 ? A{} : 1 / sum;
    for (int64_t i = from + threadIdx.x * n; i < end; i += kThreads * n) {
      Pack<A> pack = load_scores(r, hidden, values, i, begin, end);
#pragma unroll
      for (int k = 0; k < n; ++k) pack.at[k] = exp(pack.at[k] - base) * factor;
      store_between(values, i, begin, end, pack);
    }
    if (threadIdx.x == 0) lse[other] = whole + log(sum);
  }
}

// The gradient's lists: scores, which become probabilities, and gradients of probabilities, which become those of scores.
template <class A>
struct GradientLists {
  A *scores, *grads;
  A scale;

  __device__ Pack<A> grad(const Pack<A>& p, const Pack<A>& d, A delta) const {
    Pack<A> grad;
#pragma unroll
    for (int k = 0; k < Pack<A>::n; ++k) grad.at[k] = p.at[k] * (d.at[k] - delta) * scale;
    return grad;
  }
};

template <class A, int kPacks>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 2) csr_softmax_backward_kernel(Rows r, GradientLists<A> l, const A* lse) {
  constexpr int n = Pack<A>::n;
  __shared__ A shared[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t block_row = int64_t{blockIdx.x} * kWarps;
  const int64_t row = block_row + warp;
  bool longer = false;
  if (row < r.rows) {
    const int64_t begin = r.row_starts[row], end = r.row_starts[row + 1], from = begin / n * n;
    longer = end - from > int64_t{32} * kPacks * n;
    if (!longer) {
      const Hidden hidden(r, row);
      const A base = finite(lse[row]);
      Pack<A> p[kPacks], d[kPacks];
      A delta = 0;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (from + j * 32 * n >= end) break;
        const int64_t i = from + (j * 32 + lane) * n;
        p[j] = load_scores(r, hidden, l.scores, i, begin, end);
        d[j] = load_between<A>(l.grads, i, begin, end, r.entries, 0);
#pragma unroll
        for (int k = 0; k < n; ++k) delta += (p[j].at[k] = exp(p[j].at[k] - base)) * d[j].at[k];
      }
      delta = warp_sum(delta);
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (from + j * 32 * n >= end) break;
        const int64_t i = from + (j * 32 + lane) * n;
        store_row(l.scores, i, begin, end, p[j]);
        store_row(l.grads, i, begin, end, l.grad(p[j], d[j], delta));
      }
    }
  }
  if (!__syncthreads_or(longer)) return;
  for (int64_t other = block_row; other < block_row + kWarps && other < r.rows; ++other) {
    const int64_t begin = r.row_starts[other], end = r.row_starts[other + 1], from = begin / n * n;
    if (end - from <= int64_t{32} * kPacks * n) continue;
    const Hidden hidden(r, other);
    const A base = finite(lse[other]);
    A delta = 0;
    for (int64_t i = from + threadIdx.x * n; i < end; i += kThreads * n) {
      const Pack<A> p = load_scores(r, hidden, l.scores, i, begin, end), d = load_between<A>(l.grads, i, begin, end, r.entries, 0);
#pragma unroll
      for (int k = 0; k < n; ++k) delta += exp(p.at[k] - base) * d.at[k];
    }
    delta = block_sum(delta, shared);
    for (int64_t i = from + threadIdx.x * n; i < end; i += kThreads * n) {
      Pack<A> p = load_scores(r, hidden, l.scores, i, begin, end);
      const Pack<A> d = load_between<A>(l.grads, i, begin, end, r.entries, 0);
#pragma unroll
      for (int k = 0; k < n; ++k) p.at[k] = exp(p.at[k] - base);
      store_between(l.scores, i, begin, end, p);
      store_between(l.grads, i, begin, end, l.grad(p, d, delta));
    }
  }
}

// --- from the order of rows into that of columns ------------------------------------------------------------------------------

constexpr int kTurnPiece = 4096;  // as in lib/ops/csr_attention.ts

template <class A>
struct Turn {
  const int32_t *slots, *starts, *quads, *order;
  int64_t entries;
  const A* from[2];
  A* to[2];
};

template <class A>
struct alignas(2 * sizeof(A)) Turned {
  A probability, grad;
};

template <class A>
__global__ void __launch_bounds__(kThreads) csr_turn_kernel(Turn<A> t) {
  extern __shared__ __align__(16) unsigned char turn_memory[];
  auto* const held = reinterpret_cast<Turned<A>*>(turn_memory);
  const int64_t first = int64_t{blockIdx.x} * kTurnPiece;
  const int count = static_cast<int>(t.entries - first < kTurnPiece ? t.entries - first : kTurnPiece);
  const auto hold = [&](int32_t slot, A p, A d) {
    const int64_t own = slot - first;
    if (own >= 0 && own < kTurnPiece) held[own] = {p, d};
  };
  const int end = t.starts[blockIdx.x + 1];
  for (int q = t.starts[blockIdx.x] + static_cast<int>(threadIdx.x); q < end; q += kThreads) {
    const int64_t i = int64_t{4} * t.quads[q];
    if (i + 4 <= t.entries) {
      const auto slots = load_piece<4>(t.slots + i);
      const auto p = load_piece<4>(t.from[0] + i), d = load_piece<4>(t.from[1] + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) hold(slots.at[k], p.at[k], d.at[k]);
    } else {
      for (int64_t e = i; e < t.entries; ++e) hold(t.slots[e], t.from[0][e], t.from[1][e]);
    }
  }
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < count; j += kThreads) {
    const Turned<A> own = held[(j & ~15) | (t.order[(first + j) >> 3] >> (4 * (j & 7)) & 15)];
    t.to[0][first + j] = own.probability;
    t.to[1][first + j] = own.grad;
  }
}

template <class A>
int32_t turn(const KernelArgs* args, const Turn<A>& t) {
  const auto blocks = static_cast<unsigned>((t.entries + kTurnPiece - 1) / kTurnPiece);
  constexpr int kBytes = 2 * kTurnPiece * static_cast<int>(sizeof(A));
  if (kBytes > 48 << 10) {
    if (const cudaError_t code = cudaFuncSetAttribute(csr_turn_kernel<A>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes)) return report(args, code);
  }
  csr_turn_kernel<A><<<blocks, kThreads, kBytes, stream_of(args).stream>>>(t);
  return launched(args);
}

// --- a call -------------------------------------------------------------------------------------------------------------------

// `q`, `lists` and `masks` are the positions of q, row_starts and key_mask among the inputs.
struct Problem {
  int64_t batch, queries, keys, width, heads, kv_heads, group, pairs, copies, patterns, per_cycle;

  Problem(const KernelArgs* args, int q, int lists)
      : batch(args->inputs[q].shape[0]),
        queries(args->inputs[q].shape[1]),
        keys(args->inputs[q + 1].shape[1]),
        width(args->inputs[q].shape[3]),
        heads(args->integer(0)),
        kv_heads(args->integer(1)),
        group(heads / kv_heads),
        pairs(batch * heads),
        patterns(args->list_size(4)),
        per_cycle(0) {
    const int64_t stacked = queries ? (args->inputs[lists].numel - 1) / queries : patterns;
    copies = stacked < pairs ? stacked : pairs;
    for (int i = 0; i < patterns; ++i) per_cycle += args->item(4, i);
  }
  // Entries of the first `count` copies.
  int64_t entries(int64_t count) const { return count / patterns * per_cycle; }
  bool empty() const { return pairs == 0 || queries == 0; }
  // Whether there is anything to multiply.
  bool multiplies() const { return per_cycle > 0 && width > 0; }
};

int64_t round256(int64_t bytes) { return (bytes + 255) / 256 * 256; }
int64_t bytes_of(DType dtype) { return dtype == DType::kF64 ? 8 : 4; }
// Matrices of `of_queries` and `of_keys` for a chunk, and lists of numbers for its entries.
int64_t room(const Problem& p, DType dtype, int of_queries, int of_keys, int lists) {
  const int64_t size = bytes_of(dtype);
  return 256 + of_queries * round256(p.copies * p.queries * p.width * size) + of_keys * round256(p.copies * p.keys * p.width * size) +
         lists * round256(p.entries(p.copies) * size);
}

template <class A>
struct Workspace {
  char* at;
  explicit Workspace(const KernelArgs* args) : at(static_cast<char*>(args->workspace)) {
    at += round256(reinterpret_cast<int64_t>(at)) - reinterpret_cast<int64_t>(at);
  }
  A* take(int64_t count) {
    A* piece = reinterpret_cast<A*>(at);
    at += round256(count * static_cast<int64_t>(sizeof(A)));
    return piece;
  }
};

// One tensor of [batch, tokens, heads (or kv_heads), width], and where its pairs are.
struct Side {
  const void* from;
  void* to;
  int64_t tokens;
  bool shared;  // the heads of a group share it
};

template <class T, bool kPack, int V>
int32_t start_moves(const KernelArgs* args, const Problem& p, int64_t first, int64_t count, const Side* sides, int num_sides) {
  Moves moves{};
  moves.pieces = Divisor(p.width / V);
  moves.heads = Divisor(p.heads);
  moves.group = Divisor(p.group);
  moves.first = first;
  int64_t most = 0, grouped = 0;
  for (int i = 0; i < num_sides; ++i) {
    const int64_t units = !kPack && sides[i].shared ? count / p.group : count;
    moves.at[i] = {sides[i].from, sides[i].to, units * sides[i].tokens * (p.width / V), Divisor(sides[i].tokens)};
    if (moves.at[i].items > most) most = moves.at[i].items;
    if (sides[i].shared && p.group > 1) grouped |= int64_t{1} << i;
  }
  if (most == 0) return kOk;
  const dim3 grid(blocks_for(args, most, kThreads), num_sides);
  if constexpr (kPack) {
    pack_kernel<T, V><<<grid, kThreads, 0, stream_of(args).stream>>>(moves, grouped);
  } else {
    unpack_kernel<T, V><<<grid, kThreads, 0, stream_of(args).stream>>>(moves, grouped);
  }
  return launched(args);
}
template <class T, bool kPack, int N>
int32_t move(const KernelArgs* args, const Problem& p, int64_t first, int64_t count, const Side (&sides)[N]) {
  bool packs = p.width % 4 == 0 && sizeof(T) < 8;
  for (const Side& side : sides) packs &= reinterpret_cast<uintptr_t>(kPack ? side.from : side.to) % (4 * sizeof(T)) == 0;
  if constexpr (sizeof(T) < 8) {
    if (packs) return start_moves<T, kPack, 4>(args, p, first, count, sides, N);
  }
  return start_moves<T, kPack, 1>(args, p, first, count, sides, N);
}

Rows rows_of(const KernelArgs* args, const Problem& p, int64_t first, int64_t count, int lists, int masks) {
  const TensorView &mask = args->inputs[masks], &segments = args->inputs[masks + 1];
  Rows r{};
  r.row_starts = args->inputs[lists].as<const int32_t>();
  r.columns = args->inputs[lists + 1].as<const int32_t>();
  r.rows = count * p.queries;
  r.first = first;
  r.entries = p.entries(count);
  r.queries = static_cast<int>(p.queries);
  r.keys = static_cast<int>(p.keys);
  r.heads = static_cast<int>(p.heads);
  r.causal = args->flag(2);
  r.key_mask = mask.present() ? mask.as<const uint8_t>() : nullptr;
  r.segments = segments.present() ? segments.as<const int32_t>() : nullptr;
  return r;
}

template <class A>
A scale_of(const KernelArgs* args, const Problem& p) {
  return static_cast<A>(args->number(3) ? args->number(3) : 1.0 / sqrt(static_cast<double>(p.width)));
}

template <class A>
int32_t zero(const KernelArgs* args, A* list, int64_t count) {
  return report(args, cudaMemsetAsync(list, 0, static_cast<size_t>(count) * sizeof(A), stream_of(args).stream));
}

#define LF_STEP(call)                            \
  do {                                           \
    if (const int32_t code_ = (call)) return code_; \
  } while (0)

int64_t forward_workspace(const KernelArgs* args) {
  const Problem p(args, 0, 3);
  return p.empty() ? 0 : room(p, args->inputs[0].dtype, 1, 2, 1);
}

int32_t csr_attention(const KernelArgs* args) {
  const Problem p(args, 0, 3);
  if (p.empty()) return kOk;
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) -> int32_t {
    using T = typename decltype(tag)::Type;
    using A = Acc<T>;
    Workspace<A> workspace(args);
    A* q = workspace.take(p.copies * p.queries * p.width);
    A* k = workspace.take(p.copies * p.keys * p.width);
    A* v = workspace.take(p.copies * p.keys * p.width);
    A* values = workspace.take(p.entries(p.copies));
    for (int64_t first = 0; first < p.pairs; first += p.copies) {
      const int64_t count = p.pairs - first < p.copies ? p.pairs - first : p.copies, entries = p.entries(count);
      const Rows rows = rows_of(args, p, first, count, 3, 5);
      const SparsePattern pattern = {args->integer(5), rows.rows, count * p.keys, entries, rows.row_starts, rows.columns};
      LF_STEP((move<T, true, 3>(args, p, first, count,
                                {{args->inputs[0].data, q, p.queries, false}, {args->inputs[1].data, k, p.keys, true},
                                 {args->inputs[2].data, v, p.keys, true}})));
      LF_STEP(p.multiplies() ? sampled_product<A>(args, pattern, p.width, scale_of<A>(args, p), q, k, values) : zero(args, values, entries));
      const auto blocks = static_cast<unsigned>((rows.rows + kWarps - 1) / kWarps);
      csr_softmax_kernel<A, 8><<<blocks, kThreads, 0, stream_of(args).stream>>>(rows, values, args->outputs[1].as<A>() + first * p.queries);
      LF_STEP(launched(args));
      // The queries are not needed any more: their place takes the output.
      LF_STEP(p.multiplies() ? sparse_product<A>(args, pattern, p.width, values, v, q) : zero(args, q, count * p.queries * p.width));
      LF_STEP((move<T, false, 1>(args, p, first, count, {{q, args->outputs[0].data, p.queries, false}})));
    }
    return kOk;
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const Problem p(args, 1, 5);
  return p.empty() ? 0 : room(p, args->inputs[1].dtype, 2, 2, 4);
}

int32_t csr_attention_backward(const KernelArgs* args) {
  const Problem p(args, 1, 5);
  const auto stream = stream_of(args).stream;
  if (p.empty()) {
    for (int i = 1; i < 3; ++i) {
      const TensorView& out = args->outputs[i];
      if (out.numel) LF_STEP(report(args, cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.numel * dtype_size(out.dtype)), stream)));
    }
    return kOk;
  }
  if (!args->inputs[12].present()) {
    std::snprintf(args->error, kErrorText, "csr_attention_backward needs turn_starts, turn_quads and turn_order on a GPU");
    return kKernel;
  }
  return dispatch_floating(args->inputs[1].dtype, [&](auto tag) -> int32_t {
    using T = typename decltype(tag)::Type;
    using A = Acc<T>;
    Workspace<A> workspace(args);
    A* q = workspace.take(p.copies * p.queries * p.width);
    A* grad = workspace.take(p.copies * p.queries * p.width);
    A* k = workspace.take(p.copies * p.keys * p.width);
    A* v = workspace.take(p.copies * p.keys * p.width);
    A* scores = workspace.take(p.entries(p.copies));
    A* grads = workspace.take(p.entries(p.copies));
    A* turned_probabilities = workspace.take(p.entries(p.copies));
    A* turned_grads = workspace.take(p.entries(p.copies));
    const A scale = scale_of<A>(args, p);
    for (int64_t first = 0; first < p.pairs; first += p.copies) {
      const int64_t count = p.pairs - first < p.copies ? p.pairs - first : p.copies, entries = p.entries(count);
      const Rows rows = rows_of(args, p, first, count, 5, 10);
      const SparsePattern pattern = {args->integer(5), rows.rows, count * p.keys, entries, rows.row_starts, rows.columns};
      const SparsePattern turned = {args->integer(5), count * p.keys, rows.rows, entries, args->inputs[7].as<const int32_t>(),
                                    args->inputs[8].as<const int32_t>()};
      LF_STEP((move<T, true, 4>(args, p, first, count,
                                {{args->inputs[1].data, q, p.queries, false}, {args->inputs[0].data, grad, p.queries, false},
                                 {args->inputs[2].data, k, p.keys, true}, {args->inputs[3].data, v, p.keys, true}})));
      if (p.multiplies()) {
        LF_STEP(sampled_product<A>(args, pattern, p.width, scale, q, k, scores));
        LF_STEP(sampled_product<A>(args, pattern, p.width, A{1}, grad, v, grads));
        const GradientLists<A> lists = {scores, grads, scale};
        const auto blocks = static_cast<unsigned>((rows.rows + kWarps - 1) / kWarps);
        csr_softmax_backward_kernel<A, 4><<<blocks, kThreads, 0, stream>>>(rows, lists, args->inputs[4].as<const A>() + first * p.queries);
        LF_STEP(launched(args));
        LF_STEP(turn<A>(args, {args->inputs[9].as<const int32_t>(), args->inputs[12].as<const int32_t>(), args->inputs[13].as<const int32_t>(),
                               args->inputs[14].as<const int32_t>(), entries, {scores, grads}, {turned_probabilities, turned_grads}}));
        // Each result takes the place of what is not needed any more.
        LF_STEP(sparse_product<A>(args, turned, p.width, turned_probabilities, grad, v));
        LF_STEP(sparse_product<A>(args, pattern, p.width, grads, k, grad));
        LF_STEP(sparse_product<A>(args, turned, p.width, turned_grads, q, k));
      } else {
        LF_STEP(zero(args, grad, count * p.queries * p.width));
        LF_STEP(zero(args, k, count * p.keys * p.width));
        LF_STEP(zero(args, v, count * p.keys * p.width));
      }
      LF_STEP((move<T, false, 3>(args, p, first, count,
                                 {{grad, args->outputs[0].data, p.queries, false}, {k, args->outputs[1].data, p.keys, true},
                                  {v, args->outputs[2].data, p.keys, true}})));
    }
    return kOk;
  });
}

}  // namespace

LF_CUDA_KERNEL(csr_attention, csr_attention)
LF_CUDA_WORKSPACE(csr_attention, forward_workspace)
LF_CUDA_KERNEL(csr_attention_backward, csr_attention_backward)
LF_CUDA_WORKSPACE(csr_attention_backward, backward_workspace)

}  // namespace lf::cuda
