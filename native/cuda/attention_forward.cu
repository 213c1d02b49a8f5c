// attention on tensor cores: FlashAttention-2 (Dao, arXiv 2307.08691). A block of 4 warps owns 128 queries of one head (64 of f32
// and above 128 columns), a warp a quarter of them with their running maximum, sum and results in registers; tiles of keys and
// values pass by in shared memory, the next one being copied while one is used. Tiles, and parts of them, that no query of a
// warp sees are skipped; only parts at the edges of what is seen, or under masks, look at single elements. The loop is short,
// as a warp's own instructions take longer than its products: queries stay in registers where there is room, results are
// scaled again only when the maximum has grown by much, and calls without masks, slopes and dropout have kernels without the
// code for them. Bound by the instructions of few warps.
// A sparse layout gets tiles of 64 queries, 16 a warp: what a half of a tile does not see, its warps wait for, and what a half of
// a warp's rows does not see is multiplied in vain. On an H200 that takes 7 to 55 % less time forwards and up to 22 % less
// backwards, over windows, BigBird, Longformer, scattered blocks and all keys; 6 % more backwards with one in 17 blocks of 16 and
// heads of 64 columns.
// An H100's multiprocessor has 2 blocks of 16-bit heads (3 of 64 queries and up to 64 columns); of f32 heads of 32, 64, 128 and 256
// columns 3, 2, 2 and 2 (registers).
// Warps an SM: attention_mma_forward 8.
#include "cuda/attention_mma.cuh"

namespace lf::cuda {
namespace {

// Scores above the highest one so far by less than this leave it as it is: exponentials reach 2^8 (e^8) then, and what was
// summed up need not be scaled again in almost every tile.
[[maybe_unused]] constexpr float kSlack = 8;

template <class T, int D, bool kRules, bool kShort>
__global__ void __launch_bounds__(ForwardShape<T, D, kShort>::kThreads, ForwardShape<T, D, kShort>::kBlocks)
    attention_mma_forward(AttentionProblem p, AttentionForward<T> t) {
#if __CUDA_ARCH__ >= 800
  using Shape = ForwardShape<T, D, kShort>;
  constexpr int kM = Shape::kM, kOwn = Shape::kOwn, kPassing = Shape::kPassing, kPart = Shape::kPart, kStages = Shape::kStages;
  constexpr int kRowBytes = D * static_cast<int>(sizeof(T)), kChunks = kRowBytes / 16, kTile = kPassing * kRowBytes;
  using Copy = TileCopy<T, Shape::kThreads, kChunks>;
  const int width = kRules ? p.width : D;
  const bool aligned = kRules ? p.aligned : true;
  extern __shared__ __align__(128) char shared[];
  char* const queries = shared;
  char* const stages = shared + kOwn * kRowBytes;

  // The longest rows of all heads first.
  const int tiles = (p.queries + kOwn - 1) / kOwn, all_heads = p.batch * p.heads;
  const int q0 = (tiles - 1 - static_cast<int>(blockIdx.x) / all_heads) * kOwn;
  const int head_index = static_cast<int>(blockIdx.x) % all_heads, batch = head_index / p.heads, head = head_index % p.heads;
  const T* q = t.q + int64_t{batch} * p.queries * p.q_stride + int64_t{head} * p.width;
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
  Copy(p.q_stride, to).template load<kOwn>(queries, q, q0, p.queries, width, aligned);
  commit_copies();
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load(step);

  const float scale = score_scale<T>(p);
  const int row = threadIdx.x / 32 * Shape::kWarpRows;
  const bool ruled = kRules && (steps.items || p.key_mask || p.segments || p.slopes || p.scale < 0);
  const WarpSpan span = span_of_queries(p, q0 + row, Shape::kWarpRows);
  LeftSide<kChunks, kM, Shape::kHold> left(shared_address(queries), left_lane<kChunks>(row));
  const RightLane<kChunks> right;
  float sums[kM][D / 8][4] = {}, highest[kM][2], total[kM][2] = {};
#pragma unroll
  for (int m = 0; m < kM; ++m) highest[m][0] = highest[m][1] = -INFINITY;
  wait_copies<kStages - 1>();
  __syncthreads();
  left.hold();

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
      float scores[kM][kPart / 8][4];
      product_nt<T, kChunks, kM, kPart>(scores, left, shared_address(keys), right, part);
      if (!whole || ruled) apply_rules<kRules, T, kM, kPart, false>(p, head, bits, whole, q0 + row, first, scores);

      float best[kM][2];
      bool grows = false;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float most = fmaxf(scores[m][0][2 * h], scores[m][0][2 * h + 1]);
#pragma unroll
          for (int n = 1; n < kPart / 8; ++n) most = fmaxf(most, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
          most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 1));
          best[m][h] = fmaxf(most, __shfl_xor_sync(kFullWarp, most, 2)) * scale;
          grows |= best[m][h] > highest[m][h] + kSlack;
        }
      }
      if (__any_sync(kFullWarp, grows)) {
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float now = fmaxf(best[m][h], highest[m][h]);
            const float shrink = now == -INFINITY ? 1.f : score_exp<T>(highest[m][h] - now);
            highest[m][h] = now;
            total[m][h] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
              sums[m][n][2 * h] *= shrink;
              sums[m][n][2 * h + 1] *= shrink;
            }
          }
        }
      }
      // Where nothing is seen yet, every exp is 0.
      auto exp_of = [&](int m, int n, int i) {
        const float base = highest[m][i / 2] == -INFINITY ? 0.f : highest[m][i / 2];
        return score_exp<T>(fmaf(scores[m][n][i], scale, -base));
      };
      if (kRules && p.dropout > 0) {  // what is dropped counts in the total only
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int n = 0; n < kPart / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (bits.keeps[m] >> (4 * n + i) & 1) continue;
              total[m][i / 2] += exp_of(m, n, i);
              scores[m][n][i] = -INFINITY;
            }
          }
        }
      }
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kPart / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            scores[m][n][i] = exp_of(m, n, i);
            total[m][i / 2] += scores[m][n][i];
          }
        }
      }
      product_nn<T, kChunks, kM, kPart, D>(sums, scores, keys + kTile, right, part, 0);
    }
  }
  wait_copies<0>();
  __syncthreads();
  const int own_index = reread(static_cast<int>(blockIdx.x)) % all_heads;  // head_index, not held through the loop
  const int g = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  T* out = t.out + int64_t{own_index / p.heads} * p.queries * p.out_stride + int64_t{own_index % p.heads} * p.width;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float all = total[m][h];
      all += __shfl_xor_sync(kFullWarp, all, 1);
      all += __shfl_xor_sync(kFullWarp, all, 2);
      factor[h] = all > 0 || all != all ? (p.dropout > 0 ? static_cast<float>(p.kept) : 1.f) / all : 0.f;
      const int query = q0 + row + 16 * m + g + 8 * h;
      if (column == 0 && query < p.queries) {
        t.lse[int64_t{own_index} * p.queries + query] = highest[m][h] / kScoreUnit<T> + logf(all);
      }
    }
    store_rows<T, kChunks, D>(sums[m], factor[0], factor[1], queries, row + 16 * m, 0, out, p.out_stride, q0, p.queries, width, aligned);
  }
#endif
}

}  // namespace

template <class T>
int32_t attention_on_tensor_cores(const KernelArgs* args, const AttentionProblem& p, const AttentionForward<T>& t) {
  return dispatch_width(p.width, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    constexpr bool kHasShort = !std::is_same_v<ForwardShape<T, D>, ForwardShape<T, D, true>>;
    return with_rules<T, D, kHasShort>(p, [&](auto rules, auto shorter) {
      constexpr bool kShort = decltype(shorter)::value;
      using Shape = ForwardShape<T, D, kShort>;
      const int64_t blocks = int64_t{p.batch} * p.heads * ((p.queries + Shape::kOwn - 1) / Shape::kOwn);
      auto* kernel = attention_mma_forward<T, D, decltype(rules)::value, kShort>;
      return launch_mma(args, kernel, blocks, Shape::kThreads, kForwardBytes<T, D, Shape>, p, t);
    });
  });
}
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<float>&);
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<__half>&);
template int32_t attention_on_tensor_cores(const KernelArgs*, const AttentionProblem&, const AttentionForward<__nv_bfloat16>&);

}  // namespace lf::cuda
