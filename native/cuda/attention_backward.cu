// attention_backward on tensor cores, after FlashAttention-2 (Dao, arXiv 2307.08691), in two kernels that each add up what
// they own in a fixed order, so that there are neither atomics nor partial sums in memory:
//   grad_q   a block of 4 warps owns 64 or 128 queries of one head; keys and values pass by.     dQ = dS K
//   grad_kv  a block owns 64 keys of one key-value head; the queries of its group of heads and their gradients pass by.
//            Scores are computed transposed, so that they are the left sides of dV = P^T dO and dK = dS^T Q as they are.
// P = exp(S - lse) and dS = P (dP - delta), with dP = dO V^T, never leave registers. Seven products instead of the five of a
// kernel with atomics. Wide heads: a block adds up a slice of the columns only, so that its sums stay in registers, and computes
// the scores again for each slice. Tiles of 64 queries where the forward kernel has them. Bound by the instructions of few warps, as
// the forward kernel is.
// An H100's multiprocessor has 2 blocks of either, 3 of grad_q of f32 heads of up to 64 columns; 1 of f32 heads above 128 columns
// (160 KB of shared memory). Warps an SM, of heads of 64 and 128 columns: attention_mma_grad_q 8, attention_mma_grad_kv 8.
#include "cuda/attention_mma.cuh"

namespace lf::cuda {
namespace {

// A warp's scores and gradients dP become P, as dropout leaves it, and dS. base(m, n, i) and delta(m, n, i) are those of an
// element's query.
template <bool kRules, class T, int kM, int kN, class Base, class Delta>
__device__ __forceinline__ void score_gradients(const AttentionProblem& p, float scale, const PartBits<kM>& bits,
                                                float (&scores)[kM][kN / 8][4], float (&grads)[kM][kN / 8][4], Base&& base, Delta&& delta) {
  auto each = [](auto&& body) {
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) body(m, n, i);
      }
    }
  };
  auto keep = [&](int m, int n, int i) { return bits.keeps[m] >> (4 * n + i) & 1 ? static_cast<float>(p.kept) : 0.f; };
  if (kRules && p.dropout > 0) each([&](int m, int n, int i) { grads[m][n][i] *= keep(m, n, i); });
  each([&](int m, int n, int i) {
    scores[m][n][i] = score_exp<T>(fmaf(scores[m][n][i], scale, -base(m, n, i)));
    grads[m][n][i] = (grads[m][n][i] - delta(m, n, i)) * scores[m][n][i];
  });
  if (kRules && p.dropout > 0) each([&](int m, int n, int i) { scores[m][n][i] *= keep(m, n, i); });
}

// Columns of the results that a block adds up, so that they fit in registers.
template <class T, int D>
constexpr int kQueryColumns = sizeof(T) == 4 && D > 128 ? 128 : D;
template <class T, int D>
constexpr int kKeyColumns = sizeof(T) == 4 && D > 64 ? 64 : D > 128 ? 128 : D;

template <class T, int D, bool kRules, bool kShort>
__global__ void __launch_bounds__(QueryShape<T, D, kShort>::kThreads, QueryShape<T, D, kShort>::kBlocks)
    attention_mma_grad_q(AttentionProblem p, AttentionBackward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Shape = QueryShape<T, D, kShort>;
  constexpr int kColumns = kQueryColumns<T, D>;
  constexpr int kM = Shape::kM, kOwn = Shape::kOwn, kPassing = Shape::kPassing, kPart = Shape::kPart, kStages = Shape::kStages;
  constexpr int kRowBytes = D * static_cast<int>(sizeof(T)), kChunks = kRowBytes / 16, kTile = kPassing * kRowBytes, kSlices = D / kColumns;
  using Copy = TileCopy<T, Shape::kThreads, kChunks>;
  const int width = kRules ? p.width : D;
  const bool aligned = kRules ? p.aligned : true;
  extern __shared__ __align__(128) char shared[];
  char* const queries = shared;
  char* const grad_outs = shared + kOwn * kRowBytes;
  char* const stages = shared + 2 * kOwn * kRowBytes;

  const int tiles = (p.queries + kOwn - 1) / kOwn, all_heads = p.batch * p.heads;
  const int slice = static_cast<int>(blockIdx.x) % kSlices, at = static_cast<int>(blockIdx.x) / kSlices;
  const int q0 = (tiles - 1 - at / all_heads) * kOwn;
  const int head_index = at % all_heads, batch = head_index / p.heads, head = head_index % p.heads;
  const int64_t q_at = int64_t{batch} * p.queries * p.q_stride + int64_t{head} * p.width;
  const int64_t out_at = int64_t{batch} * p.queries * p.out_stride + int64_t{head} * p.width;
  const int64_t kv = int64_t{batch} * p.keys * p.kv_stride + int64_t{head / (p.heads / p.kv_heads)} * p.width;
  const int last_query = min(q0 + kOwn, p.queries) - 1;
  const AttentionBlocks none{};
  const AttentionBlocks& blocks = kRules ? p.by_query : none;
  const AttentionSteps<kOwn, kPassing> steps(blocks, head, q0 / kOwn, tiles, p.first_key(q0) / kPassing * kPassing, p.end_key(last_query));
  const uint32_t to = Copy::to_of_lane();
  const Copy copy(p.kv_stride, to);
  auto load = [&](int step) {
    if (step < steps.count) {
      char* at = stages + step % kStages * 2 * kTile;
      const int k0 = steps.at(step);
      copy.template load<kPassing>(at, t.k + kv, k0, p.kv_length, width, aligned);
      copy.template load<kPassing>(at + kTile, t.v + kv, k0, p.kv_length, width, aligned);
    }
    commit_copies();
  };
  Copy(p.q_stride, to).template load<kOwn>(queries, t.q + q_at, q0, p.queries, width, aligned);
  Copy(p.out_stride, to).template load<kOwn>(grad_outs, t.grad_out + out_at, q0, p.queries, width, aligned);
  commit_copies();
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load(step);

  const float score = score_scale<T>(p);
  const int row = threadIdx.x / 32 * Shape::kWarpRows, g = threadIdx.x % 32 / 4;
  const bool ruled = kRules && (steps.items || p.key_mask || p.segments || p.slopes || p.scale < 0);
  const WarpSpan span = span_of_queries(p, q0 + row, Shape::kWarpRows);
  const uint32_t left_offset = left_lane<kChunks>(row);
  constexpr bool kHold = Shape::kHold && !(kRules && kM == 2);  // rules leave no registers for it
  LeftSide<kChunks, kM, kHold> left_q(shared_address(queries), left_offset), left_grad(shared_address(grad_outs), left_offset);
  const int first_chunk = slice * kColumns / Pack<T>::n;
  const RightLane<kChunks> right(first_chunk);
  float sums[kM][kColumns / 8][4] = {}, base[kM][2] = {}, delta[kM][2] = {};
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = q0 + row + g + 16 * m + 8 * h;
      if (query < p.queries) {
        base[m][h] = t.base[int64_t{head_index} * p.queries + query];
        delta[m][h] = t.delta[int64_t{head_index} * p.queries + query];
      }
    }
  }
  wait_copies<kStages - 1>();
  __syncthreads();
  left_q.hold();
  left_grad.hold();

  for (int step = 0; step < steps.count; ++step) {
    next_tile<kStages>(step, load);
    const char* keys = stages + step % kStages * 2 * kTile;
    const int k0 = steps.at(step);
#pragma unroll 1
    for (int part = 0; part < kPassing; part += kPart) {
      const int first = k0 + part;
      if (span.hidden(first, kPart) || unlisted<kM, kPart>(steps, step, row, part)) continue;
      const bool whole = span.whole(first, kPart);
      const auto bits = part_bits<kRules, kM, kPart, false>(p, batch, head, steps, step, row, part, whole, q0 + row, first);
      float scores[kM][kPart / 8][4], grads[kM][kPart / 8][4];
      product_nt<T, kChunks, kM, kPart>(scores, left_q, shared_address(keys), right, part);
      product_nt<T, kChunks, kM, kPart>(grads, left_grad, shared_address(keys + kTile), right, part);
      if (!whole || ruled) apply_rules<kRules, T, kM, kPart, false>(p, head, bits, whole, q0 + row, first, scores);
      score_gradients<kRules, T, kM, kPart>(p, score, bits, scores, grads,
                                        [&](int m, int, int i) { return base[m][i / 2]; }, [&](int m, int, int i) { return delta[m][i / 2]; });
      product_nn<T, kChunks, kM, kPart, kColumns>(sums, grads, keys, right, part, first_chunk);
    }
  }
  wait_copies<0>();
  __syncthreads();
  const float scale = static_cast<float>(p.scale);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    store_rows<T, kChunks, kColumns>(sums[m], scale, scale, queries, row + 16 * m, slice * kColumns, t.grad_q + q_at, p.q_stride, q0,
                                     p.queries, width, aligned);
  }
#endif
}

template <class T, int D, bool kRules>
__global__ void __launch_bounds__(KeyShape<T, D>::kThreads, KeyShape<T, D>::kBlocks)
    attention_mma_grad_kv(AttentionProblem p, AttentionBackward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Shape = KeyShape<T, D>;
  constexpr int kColumns = kKeyColumns<T, D>;
  constexpr int kM = Shape::kM, kOwn = Shape::kOwn, kPassing = Shape::kPassing, kPart = Shape::kPart, kStages = Shape::kStages;
  constexpr int kRowBytes = D * static_cast<int>(sizeof(T)), kChunks = kRowBytes / 16, kTile = kPassing * kRowBytes, kSlices = D / kColumns;
  constexpr int kStageBytes = 2 * kTile + 2 * kPassing * 4;  // and two statistics a query
  static_assert(kStages <= 2 && kPassing <= Shape::kThreads);
  using Copy = TileCopy<T, Shape::kThreads, kChunks>;
  const int width = kRules ? p.width : D;
  const bool aligned = kRules ? p.aligned : true;
  extern __shared__ __align__(128) char shared[];
  char* const keys = shared;
  char* const values = shared + kOwn * kRowBytes;
  char* const stages = shared + 2 * kOwn * kRowBytes;

  // The first keys of a causal head have the most queries.
  const int all_heads = p.batch * p.kv_heads, slice = static_cast<int>(blockIdx.x) % kSlices, at = static_cast<int>(blockIdx.x) / kSlices;
  const int k0 = at / all_heads * kOwn, batch = at % all_heads / p.kv_heads, kv_head = at % all_heads % p.kv_heads;
  const int group = p.heads / p.kv_heads;
  auto kv_of = [&](int at) {
    return int64_t{at % all_heads / p.kv_heads} * p.keys * p.kv_stride + int64_t{at % all_heads % p.kv_heads} * p.width;
  };
  int64_t kv = kv_of(at);
  const bool used = k0 < p.kv_length;
  const int begin = used ? p.first_query(k0) / kPassing * kPassing : 0, end = used ? p.end_query(k0 + kOwn) : 0;
  const int tiles = (p.keys + kOwn - 1) / kOwn, end_head = (kv_head + 1) * group;
  using Steps = AttentionSteps<kOwn, kPassing>;
  const AttentionBlocks none{};
  const AttentionBlocks& blocks = kRules ? p.by_key : none;
  auto steps_of = [&](int head) { return Steps(blocks, head, k0 / kOwn, tiles, begin, end); };
  // The tiles of queries that pass by: those of one head, then those of the next that has any. `next` is copied while `now` is used.
  struct Place {
    int head, step, q0;
  };
  auto advance = [&](Place& at) {
    ++at.step;
    while (at.head < end_head && at.step >= steps_of(at.head).count) {
      ++at.head;
      at.step = 0;
    }
    if (at.head < end_head) at.q0 = steps_of(at.head).at(at.step);
  };
  int stage = 0;  // of the tile in use
  const uint32_t lane_to = Copy::to_of_lane();
  const Copy copy_q(p.q_stride, lane_to), copy_grad(p.out_stride, lane_to);
  auto load = [&](const Place& at, int to_stage) {
    if (at.head < end_head) {
      char* to = stages + to_stage * kStageBytes;
      const T* q = t.q + int64_t{batch} * p.queries * p.q_stride + int64_t{at.head} * p.width;
      const T* grad_out = t.grad_out + int64_t{batch} * p.queries * p.out_stride + int64_t{at.head} * p.width;
      copy_q.template load<kPassing>(to, q, at.q0, p.queries, width, aligned);
      copy_grad.template load<kPassing>(to + kTile, grad_out, at.q0, p.queries, width, aligned);
      const int64_t statistics = (int64_t{batch} * p.heads + at.head) * p.queries;
      load_statistics<kPassing>(reinterpret_cast<float*>(to + 2 * kTile), t.base + statistics, at.q0, p.queries);
      load_statistics<kPassing>(reinterpret_cast<float*>(to + 2 * kTile) + kPassing, t.delta + statistics, at.q0, p.queries);
    }
    commit_copies();
  };
  const Copy copy_own(p.kv_stride, lane_to);
  copy_own.template load<kOwn>(keys, t.k + kv, k0, p.kv_length, width, aligned);
  copy_own.template load<kOwn>(values, t.v + kv, k0, p.kv_length, width, aligned);
  commit_copies();
  Place now = {kv_head * group, -1, 0};
  advance(now);
  if (kStages == 2) load(now, 0);

  const int row = threadIdx.x / 32 * Shape::kWarpRows;
  const int first_chunk = slice * kColumns / Pack<T>::n;
  const float score = score_scale<T>(p);
  const bool ruled = kRules && (p.by_key.items || p.key_mask || p.segments || p.slopes || p.scale < 0);
  const WarpSpan span = span_of_keys(p, k0 + row, Shape::kWarpRows);
  const uint32_t left_offset = left_lane<kChunks>(row);
  LeftSide<kChunks, kM, Shape::kHold> left_k(shared_address(keys), left_offset), left_v(shared_address(values), left_offset);
  const RightLane<kChunks> right(first_chunk);
  float key_sums[kM][kColumns / 8][4] = {}, value_sums[kM][kColumns / 8][4] = {};
  wait_copies<kStages - 1>();
  __syncthreads();
  left_k.hold();
  left_v.hold();

  while (now.head < end_head) {
    Place next = now;
    advance(next);
    next_tile<kStages>(1, [&](int) { load(kStages == 2 ? next : now, kStages == 2 ? stage ^ 1 : 0); });
    const char* queries = stages + stage * kStageBytes;
    const float* statistics = reinterpret_cast<const float*>(queries + 2 * kTile);
    const Steps steps = steps_of(now.head);
#pragma unroll 1
    for (int part = 0; part < kPassing; part += kPart) {
      const int first = now.q0 + part;
      if (span.hidden(first, kPart) || unlisted<kM, kPart>(steps, now.step, row, part)) continue;
      const float* base = statistics + part + threadIdx.x % 4 * 2;
      const float* delta = base + kPassing;
      const bool whole = span.whole(first, kPart);
      const auto bits = part_bits<kRules, kM, kPart, true>(p, batch, now.head, steps, now.step, row, part, whole, reread(k0) + row, first);
      float scores[kM][kPart / 8][4], grads[kM][kPart / 8][4];
      product_nt<T, kChunks, kM, kPart>(scores, left_k, shared_address(queries), right, part);
      product_nt<T, kChunks, kM, kPart>(grads, left_v, shared_address(queries + kTile), right, part);
      if (!whole || ruled) apply_rules<kRules, T, kM, kPart, true>(p, now.head, bits, whole, k0 + row, first, scores);
      score_gradients<kRules, T, kM, kPart>(p, score, bits, scores, grads,
                                       [&](int, int n, int i) { return base[n * 8 + i % 2]; }, [&](int, int n, int i) { return delta[n * 8 + i % 2]; });
      product_nn<T, kChunks, kM, kPart, kColumns>(value_sums, scores, queries + kTile, right, part, first_chunk);
      product_nn<T, kChunks, kM, kPart, kColumns>(key_sums, grads, queries, right, part, first_chunk);
    }
    if (kStages == 2) stage ^= 1;
    now = next;
  }
  wait_copies<0>();
  __syncthreads();
  kv = kv_of(reread(static_cast<int>(blockIdx.x)) / kSlices);  // not held through the loop
  const float scale = static_cast<float>(p.scale);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    store_rows<T, kChunks, kColumns>(key_sums[m], scale, scale, keys, row + 16 * m, slice * kColumns, t.grad_k + kv, p.kv_stride, k0, p.keys,
                                     width, aligned);
    store_rows<T, kChunks, kColumns>(value_sums[m], 1.f, 1.f, values, row + 16 * m, slice * kColumns, t.grad_v + kv, p.kv_stride, k0,
                                     p.keys, width, aligned);
  }
#endif
}

}  // namespace

template <class T>
int32_t attention_backward_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionBackward<T>& t) {
  return dispatch_width(p.width, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    using Keys = KeyShape<T, D>;
    const int64_t kv_tiles = (p.keys + Keys::kOwn - 1) / Keys::kOwn;
    const int64_t kv_blocks = int64_t{p.batch} * p.kv_heads * kv_tiles * (D / kKeyColumns<T, D>);
    auto launch = [&](auto rules, auto shorter) {
      constexpr bool kShort = decltype(shorter)::value;
      using Queries = QueryShape<T, D, kShort>;
      const int64_t q_tiles = (p.queries + Queries::kOwn - 1) / Queries::kOwn;
      const int64_t q_blocks = int64_t{p.batch} * p.heads * q_tiles * (D / kQueryColumns<T, D>);
      auto* grad_q = attention_mma_grad_q<T, D, decltype(rules)::value, kShort>;
      auto* grad_kv = attention_mma_grad_kv<T, D, decltype(rules)::value>;
      if (const int32_t code = launch_mma(args, grad_q, q_blocks, Queries::kThreads, kQueryBytes<T, D, Queries>, p, t)) return code;
      return launch_mma(args, grad_kv, kv_blocks, Keys::kThreads, kKeyBytes<T, D>, p, t);
    };
    return with_rules<T, D, !std::is_same_v<QueryShape<T, D>, QueryShape<T, D, true>>>(p, launch);
  });
}
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<float>&);
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<__half>&);
template int32_t attention_backward_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionBackward<__nv_bfloat16>&);

}  // namespace lf::cuda
