// attention on tensor cores: FlashAttention-2 (Dao, arXiv 2307.08691). A block of 4 warps owns 64 queries of one head, a warp
// 16 of them with their running maximum, sum and results in registers; tiles of keys and values pass by in shared memory,
// the next one being copied while one is used. Tiles that no query of the block sees are skipped; only tiles at the edges of
// what is seen, or under masks, look at single elements. Bound by tensor cores.
// An H100's multiprocessor has 4 blocks of 16-bit heads of 32 or 64 columns (128 registers), 2 of wider ones (80 to 96 KB of
// shared memory); 5, 3, 2 and 2 of f32 heads of 32, 64, 128 and 256. Warps an SM: attention_mma_forward 8.
#include "cuda/attention_mma.cuh"

namespace lf::cuda {
namespace {

template <class T, int D>
__global__ void __launch_bounds__(kMmaThreads) attention_mma_forward(AttentionProblem p, AttentionForward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Sizes = MmaSizes<T, D>;
  constexpr int kChunks = Sizes::kChunks, kKeys = Sizes::kForwardKeys, kStages = Sizes::kForwardStages;
  extern __shared__ __align__(128) char shared[];
  char* const queries = shared;
  char* const stages = shared + kMmaRows * Sizes::kRowBytes;
  constexpr int kTile = kKeys * Sizes::kRowBytes;

  // The longest rows of all heads first.
  const int tiles = (p.queries + kMmaRows - 1) / kMmaRows, all_heads = p.batch * p.heads;
  const int q0 = (tiles - 1 - static_cast<int>(blockIdx.x) / all_heads) * kMmaRows;
  const int head_index = static_cast<int>(blockIdx.x) % all_heads, batch = head_index / p.heads, head = head_index % p.heads;
  const T* q = t.q + int64_t{batch} * p.queries * p.q_stride + int64_t{head} * p.width;
  const int64_t kv = int64_t{batch} * p.keys * p.kv_stride + int64_t{head / (p.heads / p.kv_heads)} * p.width;
  const int last_query = min(q0 + kMmaRows, p.queries) - 1;
  const AttentionSteps<kMmaRows, kKeys> steps(p.by_query, head, q0 / kMmaRows, tiles, p.first_key(q0) / kKeys * kKeys,
                                              p.end_key(last_query));
  auto load = [&](int k0, int stage) {
    char* at = stages + stage * 2 * kTile;
    load_tile<kKeys, kChunks>(at, t.k + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
    load_tile<kKeys, kChunks>(at + kTile, t.v + kv, p.kv_stride, k0, p.kv_length, p.width, p.aligned);
  };
  load_tile<kMmaRows, kChunks>(queries, q, p.q_stride, q0, p.queries, p.width, p.aligned);
  if (steps.count > 0) load(steps.at(0), 0);
  commit_copies();

  AttentionView<float> sees(p, batch, head);
  sees.slope *= kScoreUnit<T>;
  const float scale = static_cast<float>(p.scale) * kScoreUnit<T>, kept = static_cast<float>(p.kept);
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16, g = lane / 4, column = lane % 4 * 2;
  float sums[D / 8][4] = {}, highest[2] = {-INFINITY, -INFINITY}, total[2] = {};

  for (int step = 0; step < steps.count; ++step) {
    const int k0 = steps.at(step);
    if (kStages == 2) {
      if (step + 1 < steps.count) load(steps.at(step + 1), (step + 1) % 2);
      commit_copies();
    }
    wait_copies<kStages - 1>();
    __syncthreads();
    const char* keys = stages + (kStages == 2 ? step % 2 : 0) * 2 * kTile;
    float scores[kKeys / 8][4];
    product_nt<T, kChunks, kKeys>(scores, shared_address(queries), row, shared_address(keys));
    const bool whole = k0 >= p.first_key(last_query) && k0 + kKeys <= p.end_key(q0);
    uint32_t seen = ~0u;
    if (steps.items) {
      const int32_t* entries = steps.entries(step, row);
      if (!whole || !steps.whole(step, row)) {
        seen = element_bits<kKeys, false>(q0 + row, k0, [&](int query, int key) { return steps.sees(p, entries[(key - k0) / 16], query, key); });
      }
    } else if (!whole || sees.masked()) {
      seen = element_bits<kKeys, false>(q0 + row, k0, [&](int query, int key) { return sees.sees(p, query, key); });
    }
    float best[2] = {highest[0], highest[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x = scores[n][i] * scale;
        if (sees.slope != 0) x -= sees.slope * fabsf(static_cast<float>(p.position(q0 + row + g + i / 2 * 8) - (k0 + n * 8 + column + i % 2)));
        scores[n][i] = seen >> (4 * n + i) & 1 ? x : -INFINITY;
        best[i / 2] = fmaxf(best[i / 2], scores[n][i]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      best[h] = fmaxf(best[h], __shfl_xor_sync(kFullWarp, best[h], 1));
      best[h] = fmaxf(best[h], __shfl_xor_sync(kFullWarp, best[h], 2));
      const float base = best[h] == -INFINITY ? 0.f : best[h];  // nothing seen yet: every exp below is 0
      const float shrink = score_exp<T>(highest[h] - base);
      highest[h] = best[h];
      total[h] *= shrink;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        sums[n][2 * h] *= shrink;
        sums[n][2 * h + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          scores[n][i] = score_exp<T>(scores[n][i] - base);
          total[h] += scores[n][i];
        }
      }
    }
    if (p.dropout > 0) {
      const uint32_t keeps = kept_bits<kKeys, false>(p, head_index, q0 + row, k0);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[n][i] = keeps >> (4 * n + i) & 1 ? scores[n][i] * kept : 0.f;
      }
    }
    product_nn<T, kChunks, kKeys, D>(sums, scores, keys + kTile, 0);
    __syncthreads();
    if (kStages == 1 && step + 1 < steps.count) {
      load(steps.at(step + 1), 0);
      commit_copies();
    }
  }
  wait_copies<0>();
  __syncthreads();
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] += __shfl_xor_sync(kFullWarp, total[h], 1);
    total[h] += __shfl_xor_sync(kFullWarp, total[h], 2);
    factor[h] = total[h] > 0 || total[h] != total[h] ? 1 / total[h] : 0.f;
    const int query = q0 + row + g + 8 * h;
    if (column == 0 && query < p.queries) {
      t.lse[int64_t{head_index} * p.queries + query] = highest[h] / kScoreUnit<T> + logf(total[h]);
    }
  }
  T* out = t.out + int64_t{batch} * p.queries * p.out_stride + int64_t{head} * p.width;
  store_rows<T, kChunks, D>(sums, factor[0], factor[1], queries, row, 0, out, p.out_stride, q0, p.queries, p.width, p.aligned);
#endif
}

}  // namespace

template <class T>
int32_t attention_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionForward<T>& t) {
  return dispatch_width(p.width, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    const int64_t blocks = int64_t{p.batch} * p.heads * ((p.queries + kMmaRows - 1) / kMmaRows);
    return launch_mma(args, attention_mma_forward<T, D>, blocks, MmaSizes<T, D>::kForwardBytes, p, t);
  });
}
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<float>&);
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<__half>&);
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<__nv_bfloat16>&);

}  // namespace lf::cuda
