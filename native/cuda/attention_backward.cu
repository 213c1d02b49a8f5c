// attention_backward on tensor cores, after FlashAttention-2 (Dao, arXiv 2307.08691), in two kernels that each add up what
// they own in a fixed order, so that there are neither atomics nor partial sums in memory:
//   grad_q   a block of 4 warps owns 64 queries of one head; keys and values pass by.     dQ = dS K
//   grad_kv  a block owns 64 keys of one key-value head; the queries of its group of heads and their gradients pass by.
//            Scores are computed transposed, so that they are the left sides of dV = P^T dO and dK = dS^T Q as they are.
// A warp owns 16 rows. P = exp(S - lse) and dS = P (dP - delta), with dP = dO V^T, never leave registers. Seven products
// instead of the five of a kernel with atomics. Wide heads: a block adds up a slice of the columns only, so that its sums stay
// in registers, and computes the scores again for each slice. Bound by tensor cores.
// An H100's multiprocessor has 2 blocks of grad_kv and 3 of grad_q (2 above 128 columns of 16 bits or 64 of f32); 1 of f32 heads
// above 128 columns (160 KB of shared memory). At most 255 registers a thread, 168 where there are 3 blocks.
// Warps an SM, of heads of 64 and 128 columns: attention_mma_grad_q 12, attention_mma_grad_kv 8.
#include "cuda/attention_mma.cuh"

namespace lf::cuda {
namespace {

// A thread's scores, as products of q and k, and gradients dP of one 16 x kN tile become P (with dropout) and dS.
// lse(n, i) and delta(n, i) are those of an element's query.
template <class T, int kN, bool kKeysAreRows, class Steps, class Lse, class Delta>
__device__ __forceinline__ void score_gradients(const AttentionProblem& p, const AttentionView<float>& sees, const Steps& steps,
                                                int step, bool whole, int head_index, int row, int column, float (&scores)[kN / 8][4],
                                                float (&grads)[kN / 8][4], Lse&& lse, Delta&& delta) {
  const float scale = static_cast<float>(p.scale) * kScoreUnit<T>, kept = static_cast<float>(p.kept);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  uint32_t seen = ~0u, keeps = ~0u;
  if (steps.items) {
    const int own = static_cast<int>(threadIdx.x) / 32 * 16;
    const int32_t* entries = steps.entries(step, own);
    if (!whole || !steps.whole(step, own)) {
      seen = element_bits<kN, kKeysAreRows>(row, column, [&](int query, int key) {
        return steps.sees(p, entries[((kKeysAreRows ? query : key) - column) / 16], query, key);
      });
    }
  } else if (!whole || sees.masked()) {
    seen = element_bits<kN, kKeysAreRows>(row, column, [&](int query, int key) { return sees.sees(p, query, key); });
  }
  if (p.dropout > 0) keeps = kept_bits<kN, kKeysAreRows>(p, head_index, row, column);
  const int shift = kKeysAreRows ? p.kv_length - p.queries + column - row : p.kv_length - p.queries + row - column;
#pragma unroll
  for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float x = scores[n][i] * scale;
      if (sees.slope != 0) {
        const int r = g + i / 2 * 8, c = n * 8 + 2 * t + i % 2;
        x -= sees.slope * fabsf(static_cast<float>(shift + (kKeysAreRows ? c - r : r - c)));
      }
      const float e = seen >> (4 * n + i) & 1 ? score_exp<T>(x - lse(n, i)) : 0.f;
      float dp = grads[n][i], weight = e;
      if (p.dropout > 0) {
        const float keep = keeps >> (4 * n + i) & 1 ? kept : 0.f;
        dp *= keep;
        weight *= keep;
      }
      scores[n][i] = weight;
      grads[n][i] = e * (dp - delta(n, i));
    }
  }
}

// A query that sees nothing has lse = -inf; nothing of it is seen, so that any number does.
template <class T>
__device__ __forceinline__ float score_lse(float lse) {
  return lse == -INFINITY ? 0.f : lse * kScoreUnit<T>;
}

// Columns of the results that a block adds up, so that they fit in registers.
template <class T, int D>
constexpr int kQueryColumns = sizeof(T) == 4 && D > 128 ? 128 : D;
template <class T, int D>
constexpr int kKeyColumns = sizeof(T) == 4 && D > 64 ? 64 : D > 128 ? 128 : D;

// As many blocks of a kernel as shared memory and registers leave room for; told so, the compiler spills nothing.
template <class T, int D>
constexpr int kQueryBlocks = MmaSizes<T, D>::kRowBytes <= 256 ? 3 : MmaSizes<T, D>::kRowBytes == 512 ? 2 : 1;
template <class T, int D>
constexpr int kKeyBlocks = MmaSizes<T, D>::kRowBytes == 1024 ? 1 : 2;

template <class T, int D>
__global__ void __launch_bounds__(kMmaThreads, kQueryBlocks<T, D>) attention_mma_grad_q(AttentionProblem p, AttentionBackward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Sizes = MmaSizes<T, D>;
  constexpr int kChunks = Sizes::kChunks, kKeys = Sizes::kPassing, kStages = Sizes::kBackwardStages;
  constexpr int kOwnBytes = kMmaRows * Sizes::kRowBytes, kTile = kKeys * Sizes::kRowBytes;
  constexpr int kColumns = kQueryColumns<T, D>, kSlices = D / kColumns;
  extern __shared__ __align__(128) char shared[];
  char* const queries = shared;
  char* const grad_outs = shared + kOwnBytes;
  char* const stages = shared + 2 * kOwnBytes;

  const int tiles = (p.queries + kMmaRows - 1) / kMmaRows, all_heads = p.batch * p.heads;
  const int slice = static_cast<int>(blockIdx.x) % kSlices, at = static_cast<int>(blockIdx.x) / kSlices;
  const int q0 = (tiles - 1 - at / all_heads) * kMmaRows;
  const int head_index = at % all_heads, batch = head_index / p.heads, head = head_index % p.heads;
  const int64_t q_at = int64_t{batch} * p.queries * p.q_stride + int64_t{head} * p.width;
  const int64_t out_at = int64_t{batch} * p.queries * p.out_stride + int64_t{head} * p.width;
  const int64_t kv = int64_t{batch} * p.keys * p.kv_stride + int64_t{head / (p.heads / p.kv_heads)} * p.width;
  const int last_query = min(q0 + kMmaRows, p.queries) - 1;
  const AttentionSteps<kMmaRows, kKeys> steps(p.by_query, head, q0 / kMmaRows, tiles, p.first_key(q0) / kKeys * kKeys,
                                              p.end_key(last_query));
  auto load = [&](int k0, int stage) {
    char* at = stages + stage * Sizes::kStageBytes;
    load_tile<kKeys, kChunks>(at, t.k + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
    load_tile<kKeys, kChunks>(at + kTile, t.v + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
  };
  load_tile<kMmaRows, kChunks>(queries, t.q + q_at, p.q_stride, q0, p.queries, p.width, p.aligned);
  load_tile<kMmaRows, kChunks>(grad_outs, t.grad_out + out_at, p.out_stride, q0, p.queries, p.width, p.aligned);
  if (steps.count > 0) load(steps.at(0), 0);
  commit_copies();

  AttentionView<float> sees(p, batch, head);
  sees.slope *= kScoreUnit<T>;
  const int row = threadIdx.x / 32 * 16, g = threadIdx.x % 32 / 4;
  float sums[kColumns / 8][4] = {}, lse[2] = {}, delta[2] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = q0 + row + g + 8 * h;
    if (query < p.queries) {
      lse[h] = score_lse<T>(t.lse[int64_t{head_index} * p.queries + query]);
      delta[h] = t.delta[int64_t{head_index} * p.queries + query];
    }
  }
  for (int step = 0; step < steps.count; ++step) {
    const int k0 = steps.at(step);
    if (kStages == 2) {
      if (step + 1 < steps.count) load(steps.at(step + 1), (step + 1) % 2);
      commit_copies();
    }
    wait_copies<kStages - 1>();
    __syncthreads();
    const char* keys = stages + (kStages == 2 ? step % 2 : 0) * Sizes::kStageBytes;
    float scores[kKeys / 8][4], grads[kKeys / 8][4];
    product_nt<T, kChunks, kKeys>(scores, shared_address(queries), row, shared_address(keys));
    product_nt<T, kChunks, kKeys>(grads, shared_address(grad_outs), row, shared_address(keys + kTile));
    const bool whole = k0 >= p.first_key(last_query) && k0 + kKeys <= p.end_key(q0);
    score_gradients<T, kKeys, false>(p, sees, steps, step, whole, head_index, q0 + row, k0, scores, grads,
                                     [&](int, int i) { return lse[i / 2]; }, [&](int, int i) { return delta[i / 2]; });
    product_nn<T, kChunks, kKeys, kColumns>(sums, grads, keys, slice * kColumns / Pack<T>::n);
    __syncthreads();
    if (kStages == 1 && step + 1 < steps.count) {
      load(steps.at(step + 1), 0);
      commit_copies();
    }
  }
  wait_copies<0>();
  __syncthreads();
  const float scale = static_cast<float>(p.scale);
  store_rows<T, kChunks, kColumns>(sums, scale, scale, queries, row, slice * kColumns, t.grad_q + q_at, p.q_stride, q0,
                                   p.queries, p.width, p.aligned);
#endif
}

template <class T, int D>
__global__ void __launch_bounds__(kMmaThreads, kKeyBlocks<T, D>) attention_mma_grad_kv(AttentionProblem p, AttentionBackward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Sizes = MmaSizes<T, D>;
  constexpr int kChunks = Sizes::kChunks, kQueries = Sizes::kPassing, kStages = Sizes::kBackwardStages;
  constexpr int kOwnBytes = kMmaRows * Sizes::kRowBytes, kTile = kQueries * Sizes::kRowBytes;
  constexpr int kColumns = kKeyColumns<T, D>, kSlices = D / kColumns;
  extern __shared__ __align__(128) char shared[];
  char* const keys = shared;
  char* const values = shared + kOwnBytes;
  char* const stages = shared + 2 * kOwnBytes;

  // The first keys of a causal head have the most queries.
  const int all_heads = p.batch * p.kv_heads, slice = static_cast<int>(blockIdx.x) % kSlices, at = static_cast<int>(blockIdx.x) / kSlices;
  const int k0 = at / all_heads * kMmaRows, batch = at % all_heads / p.kv_heads, kv_head = at % all_heads % p.kv_heads;
  const int group = p.heads / p.kv_heads;
  const int64_t kv = int64_t{batch} * p.keys * p.kv_stride + int64_t{kv_head} * p.width;
  const bool used = k0 < p.kv_length;
  const int begin = used ? p.first_query(k0) / kQueries * kQueries : 0, end = used ? p.end_query(k0 + kMmaRows) : 0;
  const int tiles = (p.keys + kMmaRows - 1) / kMmaRows, end_head = (kv_head + 1) * group;
  using Steps = AttentionSteps<kMmaRows, kQueries>;
  auto steps_of = [&](int head) { return Steps(p.by_key, head, k0 / kMmaRows, tiles, begin, end); };
  // The next tile of queries: of the same head, or the first one of a later head that has any.
  auto advance = [&](int& head, int& step) {
    ++step;
    while (head < end_head && step >= steps_of(head).count) {
      ++head;
      step = 0;
    }
  };
  auto load = [&](int head, int step, int stage) {
    const int q0 = steps_of(head).at(step);
    char* to = stages + stage * Sizes::kStageBytes;
    const T* q = t.q + int64_t{batch} * p.queries * p.q_stride + int64_t{head} * p.width;
    const T* grad_out = t.grad_out + int64_t{batch} * p.queries * p.out_stride + int64_t{head} * p.width;
    load_tile<kQueries, kChunks>(to, q, p.q_stride, q0, p.queries, p.width, p.aligned);
    load_tile<kQueries, kChunks>(to + kTile, grad_out, p.out_stride, q0, p.queries, p.width, p.aligned);
    if (threadIdx.x < kQueries) {
      const int query = q0 + static_cast<int>(threadIdx.x);
      const int64_t from = (int64_t{batch} * p.heads + head) * p.queries + query;
      float* statistics = reinterpret_cast<float*>(to + 2 * kTile) + threadIdx.x;
      statistics[0] = query < p.queries ? score_lse<T>(t.lse[from]) : 0.f;
      statistics[kQueries] = query < p.queries ? t.delta[from] : 0.f;
    }
  };
  load_tile<kMmaRows, kChunks>(keys, t.k + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
  load_tile<kMmaRows, kChunks>(values, t.v + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
  int head = kv_head * group, step = -1;
  advance(head, step);
  if (head < end_head) load(head, step, 0);
  commit_copies();

  const int row = threadIdx.x / 32 * 16, column = threadIdx.x % 4 * 2;
  const int first_chunk = slice * kColumns / Pack<T>::n;
  float key_sums[kColumns / 8][4] = {}, value_sums[kColumns / 8][4] = {};
  for (int stage = 0; head < end_head; stage ^= kStages - 1) {
    int next_head = head, next_step = step;
    advance(next_head, next_step);
    if (kStages == 2) {
      if (next_head < end_head) load(next_head, next_step, stage ^ 1);
      commit_copies();
    }
    wait_copies<kStages - 1>();
    __syncthreads();
    const char* queries = stages + stage * Sizes::kStageBytes;
    const float* statistics = reinterpret_cast<const float*>(queries + 2 * kTile);
    const Steps steps = steps_of(head);
    const int q0 = steps.at(step);
    AttentionView<float> sees(p, batch, head);
    sees.slope *= kScoreUnit<T>;
    float scores[kQueries / 8][4], grads[kQueries / 8][4];
    product_nt<T, kChunks, kQueries>(scores, shared_address(keys), row, shared_address(queries));
    product_nt<T, kChunks, kQueries>(grads, shared_address(values), row, shared_address(queries + kTile));
    const bool whole = q0 + kQueries <= p.queries && k0 >= p.first_key(q0 + kQueries - 1) && k0 + kMmaRows <= p.end_key(q0);
    score_gradients<T, kQueries, true>(p, sees, steps, step, whole, batch * p.heads + head, k0 + row, q0, scores, grads,
                                       [&](int n, int i) { return statistics[n * 8 + column + i % 2]; },
                                       [&](int n, int i) { return statistics[kQueries + n * 8 + column + i % 2]; });
    product_nn<T, kChunks, kQueries, kColumns>(value_sums, scores, queries + kTile, first_chunk);
    product_nn<T, kChunks, kQueries, kColumns>(key_sums, grads, queries, first_chunk);
    __syncthreads();
    if (kStages == 1 && next_head < end_head) {
      load(next_head, next_step, 0);
      commit_copies();
    }
    head = next_head;
    step = next_step;
  }
  wait_copies<0>();
  __syncthreads();
  const float scale = static_cast<float>(p.scale);
  store_rows<T, kChunks, kColumns>(key_sums, scale, scale, keys, row, slice * kColumns, t.grad_k + kv, p.kv_stride, k0, p.keys,
                                   p.width, p.aligned);
  store_rows<T, kChunks, kColumns>(value_sums, 1.f, 1.f, values, row, slice * kColumns, t.grad_v + kv, p.kv_stride, k0, p.keys,
                                   p.width, p.aligned);
#endif
}

}  // namespace

template <class T>
int32_t attention_backward_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionBackward<T>& t) {
  return dispatch_width(p.width, [&](auto padded) {
    constexpr int D = decltype(padded)::value, kBytes = MmaSizes<T, D>::kBackwardBytes;
    const int64_t q_blocks = int64_t{p.batch} * p.heads * ((p.queries + kMmaRows - 1) / kMmaRows) * (D / kQueryColumns<T, D>);
    const int64_t kv_blocks = int64_t{p.batch} * p.kv_heads * ((p.keys + kMmaRows - 1) / kMmaRows) * (D / kKeyColumns<T, D>);
    if (const int32_t code = launch_mma(args, attention_mma_grad_q<T, D>, q_blocks, kBytes, p, t)) return code;
    return launch_mma(args, attention_mma_grad_kv<T, D>, kv_blocks, kBytes, p, t);
  });
}
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<float>&);
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<__half>&);
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<__nv_bfloat16>&);

}  // namespace lf::cuda
