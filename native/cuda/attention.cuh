// What all attention kernels share: the problem in numbers and pointers, which query sees which key and with which bias,
// and the random numbers of dropout. Semantics are those of native/ops/attention.cpp.
#pragma once
#include "api/philox.h"
#include "cuda/kernel.cuh"

namespace lf::cuda {

// What passes by each tile of a block-sparse call, from block_sparse_attention.cu; items == nullptr otherwise: everything.
struct AttentionBlocks {
  const int32_t* items;  // AttentionSteps::kItem numbers each
  const int2* tiles;     // [patterns, tiles]: a tile's first item, and how many
  const int32_t* mask_ids;
  const uint8_t* masks;
  int block, patterns;
};

struct AttentionProblem {
  int batch, queries, keys, heads, kv_heads, width, kv_length, window;
  // Elements from one token to the next, and where the keys' and values' first heads start in packed tensors.
  int64_t q_stride, kv_stride, out_stride, k_offset, v_offset;
  const uint8_t* key_mask;  // [batch, keys] or nullptr
  const int32_t* segments;  // [batch, keys] or nullptr
  const float* slopes;      // [heads] or nullptr
  double scale, kept;       // kept: what dropout multiplies with, 1 / (1 - probability)
  float dropout;            // probability
  Attribute seed, offset;   // of dropout; a step that is replayed as a graph has other ones each time
  bool causal, packed;
  AttentionBlocks by_query, by_key;  // for tiles of queries, and of keys
  bool aligned;  // every row of every tensor of elements starts at a multiple of 16 bytes and is made of whole 16 bytes

  __device__ PhiloxKey random_key() const {
    return philox_key(static_cast<int64_t>(seed.get()), static_cast<int64_t>(offset.get()));
  }
  __device__ int position(int query) const { return kv_length - queries + query; }
  // Query i may see keys [first_key, end_key); both grow with i.
  __device__ int first_key(int query) const { return window ? max(0, position(query) - window + 1) : 0; }
  __device__ int end_key(int query) const {
    const int at = position(query);
    const int end = causal ? at + 1 : window ? (at < kv_length - window ? at + window : kv_length) : kv_length;
    return max(0, min(end, kv_length));
  }
  // The queries that may see any of the keys [k0, k1): [first_query, end_query).
  __device__ int first_query(int k0) const {
    const int shift = kv_length - queries;
    const int64_t first = causal ? int64_t{k0} - shift : window ? int64_t{k0} - window + 1 - shift : 0;
    return static_cast<int>(max(int64_t{0}, min(first, int64_t{queries})));
  }
  __device__ int end_query(int k1) const {
    if (k1 > kv_length) k1 = kv_length;
    const int64_t end = window ? int64_t{k1} - 1 + window - (kv_length - queries) : queries;
    return static_cast<int>(max(int64_t{0}, min(end, int64_t{queries})));
  }
};

// Scores of one batch entry and head: bias added, -inf for what is not seen.
template <class A>
struct AttentionView {
  const uint8_t* key_mask;
  const int32_t* segments;
  A slope;

  __device__ AttentionView(const AttentionProblem& p, int batch, int head)
      : key_mask(p.key_mask ? p.key_mask + int64_t{batch} * p.keys : nullptr),
        segments(p.segments ? p.segments + int64_t{batch} * p.keys : nullptr),
        slope(p.slopes ? static_cast<A>(p.slopes[head]) : A{}) {}
  __device__ bool masked() const { return key_mask || segments; }
  __device__ bool sees(const AttentionProblem& p, int query, int key) const {
    if (query >= p.queries || key < p.first_key(query) || key >= p.end_key(query)) return false;
    return !(key_mask && !key_mask[key]) && !(segments && segments[key] != segments[query]);
  }
  __device__ A apply(const AttentionProblem& p, A score, int query, int key) const {
    if (!sees(p, query, key)) return -static_cast<A>(INFINITY);
    return slope == A{} ? score : score - slope * static_cast<A>(abs(p.position(query) - key));
  }
};

// The tiles of kPassing tokens that pass by one tile of kOwn tokens: all of a range, or the items of a list. An item is the
// passing tile's number, then for every 16 own tokens and every 16 passing ones the layout's entry, -1 where there is none.
template <int kOwn, int kPassing>
struct AttentionSteps {
  static constexpr int kSlots = kPassing / 16, kItem = 1 + kOwn / 16 * kSlots;
  const AttentionBlocks& blocks;
  const int32_t* items = nullptr;
  int begin, count;

  __device__ AttentionSteps(const AttentionBlocks& given, int head, int tile, int tiles, int first, int end)
      : blocks(given), begin(first), count(end > first ? (end - first + kPassing - 1) / kPassing : 0) {
    if (blocks.items == nullptr) return;
    const int2 list = blocks.tiles[(blocks.patterns == 1 ? 0 : head) * tiles + tile];
    items = blocks.items + int64_t{list.x} * kItem;
    count = list.y;
  }
  __device__ int at(int step) const { return items ? items[int64_t{step} * kItem] * kPassing : begin + step * kPassing; }
  // The entries of the 16 own tokens from `row` on and passing ones from `column` on.
  __device__ const int32_t* entries(int step, int row, int column = 0) const {
    return items + int64_t{step} * kItem + 1 + row / 16 * kSlots + column / 16;
  }
  __device__ bool sees(const AttentionProblem& p, int entry, int query, int key) const {
    if (entry < 0 || query >= p.queries || key >= p.keys) return false;
    const int mask = blocks.mask_ids[entry], block = blocks.block;
    return mask < 0 || blocks.masks[(int64_t{mask} * block + query % block) * block + key % block];
  }
  // Of 16 own tokens and kColumns passing ones: whether they have any entry, and whether nothing of their entries is hidden.
  template <int kColumns = kPassing>
  __device__ bool any(const int32_t* entries) const {
    bool found = false;
    for (int i = 0; i < kColumns / 16; ++i) found |= entries[i] >= 0;
    return found;
  }
  template <int kColumns>
  __device__ bool whole(const int32_t* entries) const {
    for (int i = 0; i < kColumns / 16; ++i) {
      if (entries[i] < 0 || blocks.mask_ids[entries[i]] >= 0) return false;
    }
    return true;
  }
};

// Whether dropout keeps a probability. Element e of the operator's Philox block.
__device__ __forceinline__ bool attention_keeps(const AttentionProblem& p, int64_t head_index, int query, int key) {
  const int64_t e = (head_index * p.queries + query) * p.keys + key;
  uint32_t words[4];
  philox(p.random_key(), static_cast<uint64_t>(e) / 4, words);
  const int w = static_cast<int>(e % 4);
  const uint32_t word = w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3];
  return philox_uniform(word) >= p.dropout;
}

inline AttentionProblem attention_problem(const KernelArgs* args, int q, int k, int masks) {
  const TensorView &query = args->inputs[q], &key = args->inputs[k];
  AttentionProblem p{};
  p.heads = static_cast<int>(args->integer(0));
  p.kv_heads = static_cast<int>(args->integer(1));
  p.causal = args->flag(2);
  p.packed = !key.present();
  p.batch = static_cast<int>(query.shape[0]);
  p.queries = static_cast<int>(query.shape[1]);
  if (p.packed) {
    p.keys = p.queries;
    p.width = static_cast<int>(query.shape[2] / (p.heads + 2 * p.kv_heads));
    p.q_stride = p.kv_stride = query.shape[2];
    p.k_offset = int64_t{p.heads} * p.width;
    p.v_offset = int64_t{p.heads + p.kv_heads} * p.width;
  } else {
    p.keys = static_cast<int>(key.shape[1]);
    p.width = static_cast<int>(query.shape[3]);
    p.q_stride = int64_t{p.heads} * p.width;
    p.kv_stride = int64_t{p.kv_heads} * p.width;
  }
  p.out_stride = int64_t{p.heads} * p.width;
  p.kv_length = args->integer(8) ? static_cast<int>(args->integer(8)) : p.keys;
  // A window as wide as everything is none; so sums with it stay small.
  const int64_t window = args->integer(3);
  p.window = window >= int64_t{p.queries} + p.keys ? 0 : static_cast<int>(window);
  p.scale = args->number(4) ? args->number(4) : 1.0 / sqrt(static_cast<double>(p.width));
  p.dropout = static_cast<float>(args->number(5));
  p.kept = 1.0 / (1.0 - args->number(5));
  p.seed = attribute(args, 6);
  p.offset = attribute(args, 7);
  const TensorView &mask = args->inputs[masks], &segments = args->inputs[masks + 1], &slopes = args->inputs[masks + 2];
  p.key_mask = mask.present() ? mask.as<const uint8_t>() : nullptr;
  p.segments = segments.present() ? segments.as<const int32_t>() : nullptr;
  p.slopes = slopes.present() ? slopes.as<const float>() : nullptr;
  return p;
}

// The tensors of a call, of elements T. Statistics (lse, delta) are [batch, heads, queries] in Acc<T>.
template <class T>
struct AttentionForward {
  const T *q, *k, *v;
  T* out;
  Acc<T>* lse;
};
template <class T>
struct AttentionBackward {
  const T *grad_out, *q, *k, *v, *out;
  const Acc<T>* lse;
  Acc<T>*delta, *base;  // base: lse as score_base makes it, for tensor cores
  T *grad_q, *grad_k, *grad_v;
};

// Scores on tensor cores: 16-bit formats keep them in units of log 2, where one instruction is the exponential.
template <class T>
constexpr float kScoreUnit = sizeof(T) == 2 ? 1.4426950408889634f : 1.f;
// What exponentials in the gradient are relative to. A query that sees nothing has lse = -inf; nothing of it is seen, so that any
// number does.
template <class T>
__device__ __forceinline__ float score_base(float lse) {
  return lse == -INFINITY ? 0.f : lse * kScoreUnit<T>;
}

// Whether 16-byte accesses may be used: see AttentionProblem::aligned.
constexpr int64_t kMostStride = int64_t{1} << 25;  // 32 rows further on is still in 32 bits
template <class T, class... Pointers>
bool attention_aligned(const AttentionProblem& p, const Pointers*... pointers) {
  return p.width % Pack<T>::n == 0 && p.q_stride < kMostStride && p.kv_stride < kMostStride && p.q_stride % Pack<T>::n == 0 && p.kv_stride % Pack<T>::n == 0 && (aligned16(pointers) && ...);
}

// Which tokens pass by: keys forwards and for the gradient of queries, queries for the gradients of keys and values.
enum class AttentionPass { kForward, kGradQ, kGradKv };
// How many tokens a block of threads owns, and how many pass by at once.
struct AttentionTiling {
  bool tensor_cores;
  int own, passing;
};

// In attention.cu, for every floating format. The problem is complete but for `aligned`; t.delta and t.base have room.
// The tiling of a sparse layout on a device, and, for sizes that must be known before there is one, on any with tensor cores (or not).
AttentionTiling attention_tiling(const KernelArgs* args, DType dtype, int width, AttentionPass pass);
AttentionTiling attention_tiling(bool tensor_cores, DType dtype, int width, AttentionPass pass);
template <class T>
int32_t run_attention(const KernelArgs* args, AttentionProblem p, const AttentionForward<T>& t);
template <class T>
int32_t run_attention_backward(const KernelArgs* args, AttentionProblem p, const AttentionBackward<T>& t);

// In attention_forward.cu and attention_backward.cu, for float, __half and __nv_bfloat16.
template <class T>
int32_t attention_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionForward<T>& t);
template <class T>
int32_t attention_backward_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionBackward<T>& t);

}  // namespace lf::cuda
