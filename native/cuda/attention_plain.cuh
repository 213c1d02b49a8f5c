// attention without tensor cores, in the tensors' accumulation type: all of f64, head widths above 256, and the 16-bit
// and f32 formats on chips before sm_80. Tiles of 32 queries and 32 keys; any width, in slices of kPlainSlice columns of
// the result a block, each of which computes the scores of its tiles again.
// A block of 256 threads owns one tile of one head and one slice; a thread 2 x 2 scores and 2 x 4 (backward 2 x 2) sums.
// Bound by shared memory loads (one for each two multiply-adds). Two blocks an SM at the least (f64: 1): told so, the compiler spills
// nothing. Warps an SM: attention_delta 64, attention_plain_forward 16, attention_plain_grad_q 16, attention_plain_grad_kv 16.
#pragma once
#include "cuda/attention.cuh"

namespace lf::cuda {

constexpr int kPlainTile = 32;
constexpr int kPlainThreads = 256;
constexpr int kPlainSlice = 64;          // forward
constexpr int kPlainBackwardSlice = 32;  // backward
constexpr int kPlainPitch = kPlainTile + 1;

// rows [first, first + 32) and columns [column, column + Columns) of x, zero outside, to `to`.
template <int Columns, class T, class A>
__device__ void plain_load(const T* x, int64_t stride, int first, int rows, int column, int width, A factor, A* to) {
  for (int e = threadIdx.x; e < kPlainTile * Columns; e += kPlainThreads) {
    const int r = e / Columns, c = e % Columns;
    A value{};
    if (first + r < rows && column + c < width) value = static_cast<A>(widen(x[(first + r) * stride + column + c])) * factor;
    to[r * (Columns + 1) + c] = value;
  }
}

// product[i][j] = x row ty + 16 i times y row tx + 16 j, over the whole width. Uses both buffers; ends with a barrier.
template <class T, class A>
__device__ void plain_product(A (&product)[2][2], const T* x, int64_t x_stride, int x_first, int x_rows, A factor, const T* y,
                              int64_t y_stride, int y_first, int y_rows, int width, A* xs, A* ys) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) product[i][0] = product[i][1] = A{};
  for (int d = 0; d < width; d += kPlainTile) {
    plain_load<kPlainTile>(x, x_stride, x_first, x_rows, d, width, factor, xs);
    plain_load<kPlainTile>(y, y_stride, y_first, y_rows, d, width, A{1}, ys);
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kPlainTile; ++c) {
      const A x0 = xs[ty * kPlainPitch + c], x1 = xs[(ty + 16) * kPlainPitch + c];
      const A y0 = ys[tx * kPlainPitch + c], y1 = ys[(tx + 16) * kPlainPitch + c];
      product[0][0] += x0 * y0;
      product[0][1] += x0 * y1;
      product[1][0] += x1 * y0;
      product[1][1] += x1 * y1;
    }
    __syncthreads();
  }
}

using PlainSteps = AttentionSteps<kPlainTile, kPlainTile>;

// Which part of the work a block has: blocks of a head follow each other, the longest rows of a causal head first.
struct PlainTask {
  int batch, head, tile, slice;
  __device__ PlainTask(int heads, int tiles, int slices) {
    int64_t at = blockIdx.x;
    slice = static_cast<int>(at % slices);
    at /= slices;
    tile = tiles - 1 - static_cast<int>(at % tiles);
    at /= tiles;
    head = static_cast<int>(at % heads);
    batch = static_cast<int>(at / heads);
  }
};

template <class T>
__global__ void __launch_bounds__(kPlainThreads, sizeof(T) == 8 ? 1 : 2) attention_plain_forward(AttentionProblem p, AttentionForward<T> t) {
  using A = Acc<T>;
  __shared__ A xs[kPlainTile * kPlainPitch], ys[kPlainTile * kPlainPitch], scores[kPlainTile * kPlainPitch];
  __shared__ A values[kPlainTile * (kPlainSlice + 1)], shrink[kPlainTile];
  const int tiles = (p.queries + kPlainTile - 1) / kPlainTile, slices = (p.width + kPlainSlice - 1) / kPlainSlice;
  const PlainTask task(p.heads, tiles, slices);
  const int q0 = task.tile * kPlainTile, column = task.slice * kPlainSlice;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16, row = threadIdx.x / 8, part = threadIdx.x % 8;
  const int64_t head_index = int64_t{task.batch} * p.heads + task.head;
  const T* q = t.q + int64_t{task.batch} * p.queries * p.q_stride + int64_t{task.head} * p.width;
  const int64_t kv = int64_t{task.batch} * p.keys * p.kv_stride + int64_t{task.head / (p.heads / p.kv_heads)} * p.width;
  const AttentionView<A> sees(p, task.batch, task.head);
  const A scale = static_cast<A>(p.scale), none = -static_cast<A>(INFINITY);
  A sums[2][4] = {}, highest = none, total = A{};

  const PlainSteps steps(p.by_query, task.head, task.tile, tiles, p.first_key(q0) / kPlainTile * kPlainTile,
                         p.end_key(min(q0 + kPlainTile, p.queries) - 1));
  for (int step = 0; step < steps.count; ++step) {
    const int k0 = steps.at(step);
    A product[2][2];
    plain_product(product, q, p.q_stride, q0, p.queries, scale, t.k + kv, p.kv_stride, k0, p.kv_length, p.width, xs, ys);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int r = ty + 16 * i, c = tx + 16 * j;
        A x = sees.apply(p, product[i][j], q0 + r, k0 + c);
        if (steps.items && !steps.sees(p, steps.entries(step, r)[c / 16], q0 + r, k0 + c)) x = none;
        scores[r * kPlainPitch + c] = x;
      }
    }
    plain_load<kPlainSlice>(t.v + kv, p.kv_stride, k0, p.kv_length, column, p.width, A{1}, values);
    __syncthreads();
    // Softmax: 8 threads a row, 4 keys each.
    A* mine = scores + row * kPlainPitch + part;
    A best = highest;
#pragma unroll
    for (int c = 0; c < kPlainTile; c += 8) best = mine[c] > best || mine[c] != mine[c] ? mine[c] : best;
#pragma unroll
    for (int step = 4; step > 0; step /= 2) {
      const A other = __shfl_xor_sync(kFullWarp, best, step);
      best = other > best || other != other ? other : best;
    }
    const A base = best == none ? A{} : best;  // nothing seen yet: every exp below is 0
    A sum{};
#pragma unroll
    for (int c = 0; c < kPlainTile; c += 8) {
      A e = exp(mine[c] - base);
      sum += e;
      if (p.dropout > 0 && q0 + row < p.queries && k0 + part + c < p.keys) {
        e *= attention_keeps(p, head_index, q0 + row, k0 + part + c) ? static_cast<A>(p.kept) : A{};
      }
      mine[c] = e;
    }
#pragma unroll
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    const A less = exp(highest - base);
    total = total * less + sum;
    highest = best;
    if (part == 0) shrink[row] = less;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = ty + 16 * i;
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] *= shrink[r];
#pragma unroll 4
      for (int c = 0; c < kPlainTile; ++c) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += scores[r * kPlainPitch + c] * values[c * (kPlainSlice + 1) + tx + 16 * j];
      }
    }
    __syncthreads();
  }
  if (part == 0) {
    shrink[row] = total > 0 || total != total ? 1 / total : A{};
    if (task.slice == 0 && q0 + row < p.queries) t.lse[head_index * p.queries + q0 + row] = highest + log(total);
  }
  __syncthreads();
  T* out = t.out + int64_t{task.batch} * p.queries * p.out_stride + int64_t{task.head} * p.width;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int r = ty + 16 * i;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int c = column + tx + 16 * j;
      if (q0 + r < p.queries && c < p.width) out[(q0 + r) * p.out_stride + c] = narrow<T>(sums[i][j] * shrink[r]);
    }
  }
}

// delta = grad_out . out of each head and query, and base. `lanes` (a power of two) neighbouring threads own a row of 16-byte packs, or
// of elements where rows are not aligned. Bound by bytes.
template <class T>
__global__ void __launch_bounds__(256) attention_delta(AttentionProblem p, AttentionBackward<T> t, int lanes) {
  const int64_t rows = int64_t{p.batch} * p.heads * p.queries, stride = int64_t{gridDim.x} * (256 / lanes);
  const int64_t whole_warps = (rows + stride - 1) / stride;
  for (int64_t i = 0; i < whole_warps; ++i) {
    const int64_t row = i * stride + blockIdx.x * int64_t{256 / lanes} + threadIdx.x / lanes;
    Acc<T> sum{};
    if (row < rows) {
      const int64_t query = row % p.queries, head = row / p.queries % p.heads, batch = row / p.queries / p.heads;
      const int64_t at = (batch * p.queries + query) * p.out_stride + head * p.width;
      if (p.aligned) {
        for (int c = threadIdx.x % lanes * Pack<T>::n; c < p.width; c += lanes * Pack<T>::n) {
          const Pack<T> g = load_pack(t.grad_out + at + c), o = load_pack(t.out + at + c);
#pragma unroll
          for (int k = 0; k < Pack<T>::n; ++k) sum += widen(g.at[k]) * widen(o.at[k]);
        }
      } else {
        for (int c = threadIdx.x % lanes; c < p.width; c += lanes) sum += widen(t.grad_out[at + c]) * widen(t.out[at + c]);
      }
    }
    for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    if (row < rows && threadIdx.x % lanes == 0) {
      t.delta[row] = sum;
      if constexpr (sizeof(T) < 8) t.base[row] = score_base<T>(t.lse[row]);
    }
  }
}

// A thread's 2 x 2 probabilities and gradients of scores of one tile, as they go into the products: P with dropout, dS.
template <class T, class A>
__device__ void plain_score_gradients(const AttentionProblem& p, const AttentionBackward<T>& t, const AttentionView<A>& sees,
                                      const PlainSteps& steps, int step, bool keys_own, const T* q, const T* k, const T* v,
                                      const T* grad_out, int64_t head_index, int q0, int k0, A* xs, A* ys,
                                      A (&probability)[2][2], A (&gradient)[2][2]) {
  plain_product(probability, q, p.q_stride, q0, p.queries, static_cast<A>(p.scale), k, p.kv_stride, k0, p.kv_length, p.width, xs, ys);
  plain_product(gradient, grad_out, p.out_stride, q0, p.queries, A{1}, v, p.kv_stride, k0, p.kv_length, p.width, xs, ys);
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = q0 + ty + 16 * i;
    A lse{}, delta{};
    if (query < p.queries) {
      lse = t.lse[head_index * p.queries + query];
      delta = t.delta[head_index * p.queries + query];
    }
    if (lse == -static_cast<A>(INFINITY)) lse = A{};  // sees nothing: all its scores are -inf
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int key = k0 + tx + 16 * j;
      A e = exp(sees.apply(p, probability[i][j], query, key) - lse);
      if (steps.items) {
        const int own = keys_own ? key - k0 : query - q0, passing = keys_own ? query - q0 : key - k0;
        if (!steps.sees(p, steps.entries(step, own)[passing / 16], query, key)) e = A{};
      }
      A dp = gradient[i][j];
      A keep{1};
      if (p.dropout > 0 && query < p.queries && key < p.keys) {
        keep = attention_keeps(p, head_index, query, key) ? static_cast<A>(p.kept) : A{};
      }
      gradient[i][j] = e * (dp * keep - delta);
      probability[i][j] = e * keep;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads, sizeof(T) == 8 ? 1 : 2) attention_plain_grad_q(AttentionProblem p, AttentionBackward<T> t) {
  using A = Acc<T>;
  __shared__ A xs[kPlainTile * kPlainPitch], ys[kPlainTile * kPlainPitch], grads[kPlainTile * kPlainPitch];
  const int tiles = (p.queries + kPlainTile - 1) / kPlainTile;
  const PlainTask task(p.heads, tiles, (p.width + kPlainBackwardSlice - 1) / kPlainBackwardSlice);
  const int q0 = task.tile * kPlainTile, column = task.slice * kPlainBackwardSlice;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int64_t head_index = int64_t{task.batch} * p.heads + task.head;
  const int64_t q_at = int64_t{task.batch} * p.queries * p.q_stride + int64_t{task.head} * p.width;
  const int64_t out_at = int64_t{task.batch} * p.queries * p.out_stride + int64_t{task.head} * p.width;
  const int64_t kv = int64_t{task.batch} * p.keys * p.kv_stride + int64_t{task.head / (p.heads / p.kv_heads)} * p.width;
  const AttentionView<A> sees(p, task.batch, task.head);
  A sums[2][2] = {};
  const PlainSteps steps(p.by_query, task.head, task.tile, tiles, p.first_key(q0) / kPlainTile * kPlainTile,
                         p.end_key(min(q0 + kPlainTile, p.queries) - 1));
  for (int step = 0; step < steps.count; ++step) {
    const int k0 = steps.at(step);
    A probability[2][2], gradient[2][2];
    plain_score_gradients(p, t, sees, steps, step, false, t.q + q_at, t.k + kv, t.v + kv, t.grad_out + out_at, head_index, q0, k0, xs, ys, probability, gradient);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) grads[(ty + 16 * i) * kPlainPitch + tx + 16 * j] = gradient[i][j];
    }
    plain_load<kPlainBackwardSlice>(t.k + kv, p.kv_stride, k0, p.kv_length, column, p.width, A{1}, ys);
    __syncthreads();
#pragma unroll 4
    for (int c = 0; c < kPlainTile; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) sums[i][j] += grads[(ty + 16 * i) * kPlainPitch + c] * ys[c * kPlainPitch + tx + 16 * j];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = q0 + ty + 16 * i, c = column + tx + 16 * j;
      if (r < p.queries && c < p.width) t.grad_q[q_at + r * p.q_stride + c] = narrow<T>(sums[i][j] * static_cast<A>(p.scale));
    }
  }
}

// A block owns a tile of keys of one key-value head and sums over the query heads of its group in order.
template <class T>
__global__ void __launch_bounds__(kPlainThreads, sizeof(T) == 8 ? 1 : 2) attention_plain_grad_kv(AttentionProblem p, AttentionBackward<T> t) {
  using A = Acc<T>;
  __shared__ A xs[kPlainTile * kPlainPitch], ys[kPlainTile * kPlainPitch];
  __shared__ A grads[kPlainTile * kPlainPitch], weights[kPlainTile * kPlainPitch];
  const int tiles = (p.keys + kPlainTile - 1) / kPlainTile, group = p.heads / p.kv_heads;
  const PlainTask task(p.kv_heads, tiles, (p.width + kPlainBackwardSlice - 1) / kPlainBackwardSlice);
  const int k0 = task.tile * kPlainTile, column = task.slice * kPlainBackwardSlice;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int64_t kv = int64_t{task.batch} * p.keys * p.kv_stride + int64_t{task.head} * p.width;
  A key_sums[2][2] = {}, value_sums[2][2] = {};
  const int begin = k0 < p.kv_length ? p.first_query(k0) / kPlainTile * kPlainTile : 0;
  const int end = k0 < p.kv_length ? p.end_query(k0 + kPlainTile) : 0;
  for (int head = task.head * group; head < (task.head + 1) * group; ++head) {
    const int64_t head_index = int64_t{task.batch} * p.heads + head;
    const T* q = t.q + int64_t{task.batch} * p.queries * p.q_stride + int64_t{head} * p.width;
    const T* grad_out = t.grad_out + int64_t{task.batch} * p.queries * p.out_stride + int64_t{head} * p.width;
    const AttentionView<A> sees(p, task.batch, head);
    const PlainSteps steps(p.by_key, head, task.tile, tiles, begin, end);
    for (int step = 0; step < steps.count; ++step) {
      const int q0 = steps.at(step);
      A probability[2][2], gradient[2][2];
      plain_score_gradients(p, t, sees, steps, step, true, q, t.k + kv, t.v + kv, grad_out, head_index, q0, k0, xs, ys, probability, gradient);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          weights[(ty + 16 * i) * kPlainPitch + tx + 16 * j] = probability[i][j];
          grads[(ty + 16 * i) * kPlainPitch + tx + 16 * j] = gradient[i][j];
        }
      }
      plain_load<kPlainBackwardSlice>(grad_out, p.out_stride, q0, p.queries, column, p.width, A{1}, xs);
      plain_load<kPlainBackwardSlice>(q, p.q_stride, q0, p.queries, column, p.width, static_cast<A>(p.scale), ys);
      __syncthreads();
#pragma unroll 4
      for (int r = 0; r < kPlainTile; ++r) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            value_sums[i][j] += weights[r * kPlainPitch + ty + 16 * i] * xs[r * kPlainPitch + tx + 16 * j];
            key_sums[i][j] += grads[r * kPlainPitch + ty + 16 * i] * ys[r * kPlainPitch + tx + 16 * j];
          }
        }
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int r = k0 + ty + 16 * i, c = column + tx + 16 * j;
      if (r < p.keys && c < p.width) {
        t.grad_k[kv + r * p.kv_stride + c] = narrow<T>(key_sums[i][j]);
        t.grad_v[kv + r * p.kv_stride + c] = narrow<T>(value_sums[i][j]);
      }
    }
  }
}

}  // namespace lf::cuda
