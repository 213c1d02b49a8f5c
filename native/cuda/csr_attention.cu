// csr_attention and its gradient: cuSPARSE's SDDMM for the scores of the listed pairs, a softmax over each row's pairs, SpMM
// for the output; backwards two SDDMM and three SpMM, those of keys and values over the transposed lists. Chunks of (batch
// entry, head) pairs are stacked along the diagonal of one sparse matrix (see native/ops/csr_attention.cpp), so that a chunk
// is one call of the library. Pairs that make up whole blocks are a BSR matrix, others CSR. Everything between the first kernel
// and the last is f32 (f64 for f64): the library has no SDDMM over CSR in bf16, and scores keep their digits.
// pack, unpack: [batch, tokens, heads, width] <-> [pairs, tokens, width]; a thread owns 4 numbers; bound by bytes.
// Softmax: csr_softmax.cuh.
// Turn: probabilities and score gradients from the order of rows into that of the transposed lists. A block owns 4096 places
// of the latter. It reads packs of 4 entries in the order of rows, which the layout lists for it, puts what is its own into
// shared memory, and writes whole lines. 1 pack a list entry; bound by bytes, 32 KB of shared memory (f64: 64 KB). The layout
// deals out slots so that no two of f32's stores or loads at once lie in the same bank.
// Turn of blocks: a tile of up to 32 x 32 values is transposed in shared memory on the way to its block's place.
// Warps an SM: pack_kernel 32, unpack_kernel 32, csr_softmax_kernel 40, csr_softmax_backward_kernel 32, csr_turn_kernel 48,
// bsr_softmax_kernel 32, bsr_softmax_backward_kernel 32, bsr_turn_kernel 64.
#include "cuda/csr_softmax.cuh"
#include "cuda/rows.cuh"
#include "cuda/sparse_library.h"

namespace lf::cuda {
namespace {

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

// Block e of the lists' order goes, transposed, to place places[e]. blockIdx.y: which of the two lists.
template <class A>
__global__ void __launch_bounds__(kThreads, 8) bsr_turn_kernel(Turn<A> t, int shift) {
  __shared__ A tile[32 * 33];
  const int side = shift < 5 ? shift : 5, across = shift - side;  // powers of two
  const int64_t entry = blockIdx.x >> 2 * across;
  const int part = static_cast<int>(blockIdx.x) & ((1 << 2 * across) - 1);
  const int row = part >> across << 5, column = (part & ((1 << across) - 1)) << 5, last = (1 << side) - 1, pitch = (1 << side) + 1;
  const A* from = (blockIdx.y ? t.from[1] : t.from[0]) + (entry << 2 * shift) + (row << shift) + column;
  for (int i = threadIdx.x; i < 1 << 2 * side; i += kThreads) tile[(i >> side) * pitch + (i & last)] = from[(i >> side << shift) + (i & last)];
  __syncthreads();
  A* to = (blockIdx.y ? t.to[1] : t.to[0]) + (int64_t{t.slots[entry]} << 2 * shift) + (column << shift) + row;
  for (int i = threadIdx.x; i < 1 << 2 * side; i += kThreads) to[(i >> side << shift) + (i & last)] = tile[(i & last) * pitch + (i >> side)];
}

template <class A>
int32_t turn(const KernelArgs* args, const Turn<A>& t, int shift) {
  if (shift) {
    const int64_t tiles = t.entries >> (shift < 5 ? 2 * shift : 10);
    bsr_turn_kernel<A><<<dim3(static_cast<unsigned>(tiles), 2), kThreads, 0, stream_of(args).stream>>>(t, shift);
    return launched(args);
  }
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
  int64_t batch, queries, keys, width, heads, kv_heads, group, pairs, copies, patterns, per_cycle, block;

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
        per_cycle(0),
        block(args->integer(6)) {
    const int64_t stacked = queries ? (args->inputs[lists].numel - 1) * block / queries : patterns;
    copies = stacked < pairs ? stacked : pairs;
    for (int i = 0; i < patterns; ++i) per_cycle += args->item(4, i);
  }
  // Entries of the first `count` copies.
  int64_t entries(int64_t count) const { return count / patterns * per_cycle; }
  int shift() const {
    int shift = 0;
    while (int64_t{1} << shift < block) ++shift;
    return shift;
  }
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
  r.shift = p.shift();
  r.causal = args->flag(2);
  r.key_mask = mask.present() ? mask.as<const uint8_t>() : nullptr;
  r.segments = segments.present() ? segments.as<const int32_t>() : nullptr;
  return r;
}

unsigned blocks_of_rows(const Rows& r, int rows) { return static_cast<unsigned>((r.rows + rows - 1) / rows); }

template <class A>
int32_t softmax(const KernelArgs* args, const Rows& r, A* values, A* lse) {
  const auto stream = stream_of(args).stream;
  if (r.shift) bsr_softmax_kernel<<<blocks_of_rows(r, kWarps), kThreads, 0, stream>>>(r, values, lse);
  else csr_softmax_kernel<<<blocks_of_rows(r, kRows), kThreads, 0, stream>>>(r, values, lse);
  return launched(args);
}
template <class A>
int32_t softmax_backward(const KernelArgs* args, const Rows& r, const GradientLists<A>& lists, const A* lse) {
  const auto stream = stream_of(args).stream;
  if (r.shift) bsr_softmax_backward_kernel<<<blocks_of_rows(r, kWarps), kThreads, 0, stream>>>(r, lists, lse);
  else csr_softmax_backward_kernel<<<blocks_of_rows(r, kRows), kThreads, 0, stream>>>(r, lists, lse);
  return launched(args);
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
      const SparsePattern pattern = {args->integer(5), rows.rows, count * p.keys, entries, p.block, rows.row_starts, rows.columns};
      LF_STEP((move<T, true, 3>(args, p, first, count,
                                {{args->inputs[0].data, q, p.queries, false}, {args->inputs[1].data, k, p.keys, true},
                                 {args->inputs[2].data, v, p.keys, true}})));
      LF_STEP(p.multiplies() ? sampled_product<A>(args, pattern, p.width, scale_of<A>(args, p), q, k, values) : zero(args, values, entries));
      LF_STEP(softmax(args, rows, values, args->outputs[1].as<A>() + first * p.queries));
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
  if (p.block == 1 && !args->inputs[12].present()) {
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
      const SparsePattern pattern = {args->integer(5), rows.rows, count * p.keys, entries, p.block, rows.row_starts, rows.columns};
      const SparsePattern turned = {args->integer(5), count * p.keys, rows.rows, entries, p.block, args->inputs[7].as<const int32_t>(),
                                    args->inputs[8].as<const int32_t>()};
      LF_STEP((move<T, true, 4>(args, p, first, count,
                                {{args->inputs[1].data, q, p.queries, false}, {args->inputs[0].data, grad, p.queries, false},
                                 {args->inputs[2].data, k, p.keys, true}, {args->inputs[3].data, v, p.keys, true}})));
      if (p.multiplies()) {
        LF_STEP(sampled_product<A>(args, pattern, p.width, scale, q, k, scores));
        LF_STEP(sampled_product<A>(args, pattern, p.width, A{1}, grad, v, grads));
        LF_STEP(softmax_backward<A>(args, rows, {scores, grads, scale}, args->inputs[4].as<const A>() + first * p.queries));
        auto list = [&](int i) { return args->inputs[i].present() ? args->inputs[i].as<const int32_t>() : nullptr; };
        LF_STEP(turn<A>(args, {list(9), list(12), list(13), list(14), entries, {scores, grads}, {turned_probabilities, turned_grads}}, rows.shift));
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
