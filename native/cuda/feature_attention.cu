// feature_attention and its gradient (native/ops/feature_attention.cpp) by tiles of 64 x 64 numbers (f64: 32 x 32) in shared memory,
// products in f32 without tensor cores. Three kernels do all of it, each from the queries' side and from the keys':
//   feature_states  a block owns 64 features by 64 columns of a head's state and walks along the tokens: from phi(k) and v forwards,
//                   from phi(q) and g backwards, where groups of heads add up in order. It leaves the state before each chunk.
//   feature_rows    a block owns 64 tokens by 64 columns: out from W = phi(q) phi(k)^T, masked, and the state; dv from W^T and g.
//   feature_grads   a block owns 64 tokens by 64 features: dphi(q), dphi(k) from dW = g v^T + d, masked, and the state; then times
//                   the map's derivative.
// feature_factors before them: a warp a row, 1 / norm and d = -g . out. 256 threads a block, 4 x 4 sums a thread; both sides of a
// product lie with the summed index first, so that a thread reads it in packs of 16 bytes. 35 KB of shared memory and at most 128
// registers a thread: 2 blocks, 16 warps, a multiprocessor. Bound by f32 FMAs, 16-bit formats as well: chunks of 64 keep products
// and bytes of states (4 m d / 64 a token) alike. Partial sums are added in the order of chunks, the same bits on every run.
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

constexpr int kThreads = 256;
enum Map { kNone, kElu, kExp };

// Numbers on a side of a tile, and from one row of it to the next.
template <class A>
constexpr int kTile = sizeof(A) == 8 ? 32 : 64;
template <class A>
constexpr int kPitch = kTile<A> + 4;
template <class A>
constexpr int kOwn = kTile<A> / 16;  // rows and columns of a thread

template <class T>
struct Features {
  using A = Acc<T>;
  const T *q, *k, *v, *q_shift, *k_shift, *grad_out, *out;
  T *result, *grad_q, *grad_k, *grad_v;
  const A* norm;
  A *norm_out, *states, *totals, *factors;  // factors: 1 / norm of all rows of q, then d
  int batch, queries, keys, heads, kv_heads, features, width, map, group, chunks, offset;
  bool causal, feature_packs, width_packs;
  A eps;

  __device__ __forceinline__ A phi(A x) const {
    if (map == kElu) return x > 0 ? x + 1 : exp(x);
    return map == kExp ? exp(x) + eps : x;
  }
  __device__ __forceinline__ A derivative(A x) const {
    if (map == kElu) return x > 0 ? A{1} : exp(x);
    return map == kExp ? exp(x) : A{1};
  }
};

// Rows of a matrix as a tile wants them: row r, for low <= r < end, begins at base + r * stride, and its numbers become
// apply(number, factor(r)); all others are 0.
template <class T, class P>
struct Matrix {
  using A = Acc<T>;
  const T* base;
  int64_t stride;
  int end, columns;
  bool packs;
  P per_row;
};
template <class A>
struct Plain {
  __device__ __forceinline__ A factor(int) const { return A{}; }
  __device__ __forceinline__ A apply(A x, A) const { return x; }
};
template <class A>
struct Scaled {
  const A* factors;  // of row 0
  int stride;
  __device__ __forceinline__ A factor(int row) const { return factors[int64_t{row} * stride]; }
  __device__ __forceinline__ A apply(A x, A factor) const { return x * factor; }
};
template <class T>
struct Mapped {
  using A = Acc<T>;
  const Features<T>& p;
  const T* shift;  // of row 0, or nullptr
  int stride;
  __device__ __forceinline__ A factor(int row) const { return shift ? widen(shift[int64_t{row} * stride]) : A{}; }
  __device__ __forceinline__ A apply(A x, A shift_of_row) const { return p.phi(x - shift_of_row); }
};

template <class T>
__device__ __forceinline__ Matrix<T, Mapped<T>> features_of(const Features<T>& p, bool queries, int b, int head) {
  const int tokens = queries ? p.queries : p.keys, heads = queries ? p.heads : p.kv_heads;
  const T *x = queries ? p.q : p.k, *shift = queries ? p.q_shift : p.k_shift;
  const int64_t row = int64_t{b} * tokens * heads + head;
  return {x + row * p.features, int64_t{heads} * p.features, tokens, p.features, p.feature_packs, {p, shift ? shift + row : nullptr, heads}};
}
template <class T>
__device__ __forceinline__ Matrix<T, Plain<Acc<T>>> values_of(const Features<T>& p, int b, int head) {
  return {p.v + (int64_t{b} * p.keys * p.kv_heads + head) * p.width, int64_t{p.kv_heads} * p.width, p.keys, p.width, p.width_packs, {}};
}
// g: grad_out / norm.
template <class T>
__device__ __forceinline__ Matrix<T, Scaled<Acc<T>>> grads_of(const Features<T>& p, int b, int head) {
  const int64_t row = int64_t{b} * p.queries * p.heads + head;
  return {p.grad_out + row * p.width, int64_t{p.heads} * p.width, p.queries, p.width, p.width_packs, {p.factors + row, p.heads}};
}

// Rows from `first` and columns from `column` on. Natural: tile[row][column]; turned: tile[column][row], where a warp takes 16 rows
// by two packs, whole sectors, into different banks.
template <bool kTurned, class T, class P>
__device__ __forceinline__ void load_tile(const Matrix<T, P>& m, int first, int column, Acc<T>* tile) {
  using A = Acc<T>;
  constexpr int kSide = kTile<A>, kStep = kPitch<A>, kItems = Pack<T>::n;
  if constexpr (sizeof(T) < 8) {
    if (m.packs) {
      constexpr int kPacks = kSide / kItems, kWarps = kThreads / 32;
#pragma unroll 2
      for (int i = 0; i < kSide * kPacks / kThreads; ++i) {
        int l, c;
        if (kTurned) {
          const int at = static_cast<int>(threadIdx.x) / 32 + i * kWarps, lane = threadIdx.x % 32;
          l = at % (kSide / 16) * 16 + lane / 2;
          c = (at / (kSide / 16) * 2 + lane % 2) * kItems;
        } else {
          const int at = static_cast<int>(threadIdx.x) + i * kThreads;
          l = at / kPacks;
          c = at % kPacks * kItems;
        }
        const int row = first + l;
        A x[kItems] = {};
        if (row >= 0 && row < m.end && column + c < m.columns) {
          const auto piece = load_piece<kItems>(m.base + row * m.stride + column + c);
          const A factor = m.per_row.factor(row);
#pragma unroll
          for (int k = 0; k < kItems; ++k) x[k] = m.per_row.apply(widen(piece.at[k]), factor);
        }
        if (kTurned) {
#pragma unroll
          for (int k = 0; k < kItems; ++k) tile[(c + k) * kStep + l] = x[k];
        } else {
#pragma unroll
          for (int k = 0; k < kItems; k += 4) {
            *reinterpret_cast<float4*>(tile + l * kStep + c + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
          }
        }
      }
      return;
    }
  }
#pragma unroll 1
  for (int at = threadIdx.x; at < kSide * kSide; at += kThreads) {
    const int l = at / kSide, c = at % kSide, row = first + l;
    A x{};
    if (row >= 0 && row < m.end && column + c < m.columns) {
      x = m.per_row.apply(widen(m.base[row * m.stride + column + c]), m.per_row.factor(row));
    }
    tile[kTurned ? c * kStep + l : l * kStep + c] = x;
  }
}

// sums[i][j] += sum over k of x[k][own row i] y[k][own column j].
template <class A>
__device__ __forceinline__ void add_product(A (&sums)[kOwn<A>][kOwn<A>], const A* x, const A* y) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  x += ty * kOwn<A>;
  y += tx * kOwn<A>;
#pragma unroll 4
  for (int k = 0; k < kTile<A>; ++k) {
    A a[kOwn<A>], b[kOwn<A>];
    if constexpr (sizeof(A) == 4) {
      *reinterpret_cast<float4*>(a) = *reinterpret_cast<const float4*>(x + k * kPitch<A>);
      *reinterpret_cast<float4*>(b) = *reinterpret_cast<const float4*>(y + k * kPitch<A>);
    } else {
#pragma unroll
      for (int i = 0; i < kOwn<A>; ++i) {
        a[i] = x[k * kPitch<A> + i];
        b[i] = y[k * kPitch<A> + i];
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn<A>; ++i) {
#pragma unroll
      for (int j = 0; j < kOwn<A>; ++j) sums[i][j] += a[i] * b[j];
    }
  }
}

// A product of a thread as the left side of the next one: tile[column][row].
template <class A>
__device__ __forceinline__ void store_turned(const A (&x)[kOwn<A>][kOwn<A>], A* tile) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
  for (int j = 0; j < kOwn<A>; ++j) {
    A* to = tile + (tx * kOwn<A> + j) * kPitch<A> + ty * kOwn<A>;
    if constexpr (sizeof(A) == 4) {
      *reinterpret_cast<float4*>(to) = make_float4(x[0][j], x[1][j], x[2][j], x[3][j]);
    } else {
#pragma unroll
      for (int i = 0; i < kOwn<A>; ++i) to[i] = x[i][j];
    }
  }
}

// A thread's numbers of one row, from `column` on, to memory.
template <class T, class A>
__device__ __forceinline__ void store_own(T* row, int column, int columns, bool packs, const A (&x)[kOwn<A>]) {
  if constexpr (sizeof(A) == 4) {
    if (packs) {
      if (column >= columns) return;
      Piece<T, kOwn<A>> piece;
#pragma unroll
      for (int j = 0; j < kOwn<A>; ++j) piece.at[j] = narrow<T>(x[j]);
      store_piece<kOwn<A>>(row + column, piece);
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < kOwn<A>; ++j) {
    if (column + j < columns) row[column + j] = narrow<T>(x[j]);
  }
}

// 1 / norm and d = -(grad_out . out) / norm of every row of q; both 0 where no key is seen.
template <class T>
__global__ void __launch_bounds__(kThreads) feature_factors(Features<T> p) {
  using A = Acc<T>;
  const int64_t rows = int64_t{p.batch} * p.queries * p.heads;
  for (int64_t row = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32; row < rows; row += int64_t{gridDim.x} * (kThreads / 32)) {
    const T *grad = p.grad_out + row * p.width, *out = p.out + row * p.width;
    A sum{};
    if (sizeof(T) < 8 && p.width_packs) {
      for (int c = threadIdx.x % 32 * Pack<T>::n; c < p.width; c += 32 * Pack<T>::n) {
        const Pack<T> g = load_pack(grad + c), o = load_pack(out + c);
#pragma unroll
        for (int k = 0; k < Pack<T>::n; ++k) sum += widen(g.at[k]) * widen(o.at[k]);
      }
    } else {
      for (int c = threadIdx.x % 32; c < p.width; c += 32) sum += widen(grad[c]) * widen(out[c]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
      const A norm = p.norm[row], factor = norm != 0 ? 1 / norm : A{};
      p.factors[row] = factor;
      p.factors[rows + row] = -sum * factor;
    }
  }
}

// The state before each chunk, or, without a causal rule, that of all tokens. kQueries: of phi(q) and g, from the last chunk on.
template <class T, bool kQueries>
__global__ void __launch_bounds__(kThreads, 2) feature_states(Features<T> p) {
  using A = Acc<T>;
  constexpr int kSide = kTile<A>;
  __shared__ __align__(16) A xs[kSide * kPitch<A>], ys[kSide * kPitch<A>];
  const int feature_tiles = (p.features + kSide - 1) / kSide, width_tiles = max((p.width + kSide - 1) / kSide, 1);
  const int head = static_cast<int>(blockIdx.x) / (feature_tiles * width_tiles), tile = static_cast<int>(blockIdx.x) % (feature_tiles * width_tiles);
  const int feature = tile / width_tiles * kSide, column = tile % width_tiles * kSide, b = head / p.kv_heads, g = head % p.kv_heads;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16, tokens = kQueries ? p.queries : p.keys;
  const int steps = p.causal ? p.chunks : (tokens + kSide - 1) / kSide, own_feature = feature + static_cast<int>(threadIdx.x);
  const bool totals = column == 0 && threadIdx.x < kSide;
  A sums[kOwn<A>][kOwn<A>] = {}, total{};
  auto store = [&](int chunk) {
    const int64_t at = int64_t{head} * (p.causal ? p.chunks : 1) + chunk;
#pragma unroll
    for (int i = 0; i < kOwn<A>; ++i) {
      const int row = feature + ty * kOwn<A> + i;
      if (row < p.features) store_own(p.states + (at * p.features + row) * p.width, column + tx * kOwn<A>, p.width, p.width % 4 == 0, sums[i]);
    }
    if (totals && own_feature < p.features) p.totals[at * p.features + own_feature] = total;
  };
  for (int step = 0; step < steps; ++step) {
    const int chunk = kQueries && p.causal ? steps - 1 - step : step;
    if (p.causal) {
      if (step > 0) store(chunk);
      if (step == steps - 1) return;
    }
    for (int h = kQueries ? g * p.group : 0; h < (kQueries ? (g + 1) * p.group : 1); ++h) {
      const int first = chunk * kSide - (kQueries && p.causal ? p.offset : 0);
      __syncthreads();
      if constexpr (kQueries) {
        load_tile<false>(features_of(p, true, b, h), first, feature, xs);
        load_tile<false>(grads_of(p, b, h), first, column, ys);
      } else {
        load_tile<false>(features_of(p, false, b, g), first, feature, xs);
        load_tile<false>(values_of(p, b, g), first, column, ys);
      }
      __syncthreads();
      add_product(sums, xs, ys);
      if (totals) {
        const A* d = p.factors + int64_t{p.batch} * p.queries * p.heads + int64_t{b} * p.queries * p.heads + h;
#pragma unroll 4
        for (int k = 0; k < kSide; ++k) {
          A x = xs[k * kPitch<A> + threadIdx.x];
          if (kQueries) {
            const int row = first + k;
            x *= row >= 0 && row < p.queries ? d[int64_t{row} * p.heads] : A{};
          }
          total += x;
        }
      }
    }
  }
  if (!p.causal) store(0);
}

// kBackward false: out, norm; rows are queries, y keys and u values. true: dv; rows are keys, y queries and u their g.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads, 2) feature_rows(Features<T> p, int first_chunk) {
  using A = Acc<T>;
  constexpr int kSide = kTile<A>;
  __shared__ __align__(16) A xs[kSide * kPitch<A>], ys[kSide * kPitch<A>];
  __shared__ A norms[kSide];
  const int width_tiles = max((p.width + kSide - 1) / kSide, 1), heads = kBackward ? p.kv_heads : p.heads;
  const int column = static_cast<int>(blockIdx.x) % width_tiles * kSide, at = static_cast<int>(blockIdx.x) / width_tiles;
  const int b = at % (p.batch * heads) / heads, head = at % heads, chunk = first_chunk + at / (p.batch * heads);
  const int g = kBackward ? head : head / p.group, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int query_at = chunk * kSide - (p.causal ? p.offset : 0), own_at = kBackward ? chunk * kSide : query_at;
  const auto own = features_of(p, !kBackward, b, head);
  const bool state = p.causal ? (kBackward ? chunk < p.chunks - 1 : chunk > 0) : true;
  const int64_t state_at = int64_t{b * p.kv_heads + g} * (p.causal ? p.chunks : 1) + (p.causal ? max(chunk, 0) : 0);
  const Matrix<A, Plain<A>> state_rows = {p.states + state_at * p.features * p.width, p.width, p.features, p.width, p.width % 4 == 0, {}};
  A sums[kOwn<A>][kOwn<A>] = {}, total{};
  bool first_pass = true;
  for (int h = kBackward ? g * p.group : head; h < (kBackward ? (g + 1) * p.group : head + 1); ++h) {
    A weights[kOwn<A>][kOwn<A>] = {};
    for (int feature = 0; feature < p.features; feature += kSide) {
      __syncthreads();
      load_tile<true>(own, own_at, feature, xs);
      if (p.causal) {
        load_tile<true>(features_of(p, kBackward, b, kBackward ? h : g), kBackward ? query_at : chunk * kSide, feature, ys);
        __syncthreads();
        add_product(weights, xs, ys);
      }
      if (state && first_pass) {
        __syncthreads();
        load_tile<false>(state_rows, feature, column, ys);
        __syncthreads();
        add_product(sums, xs, ys);
        if (!kBackward && threadIdx.x < kSide) {
          const A* totals = p.totals + state_at * p.features + feature;
          const int count = min(kSide, p.features - feature);
#pragma unroll 4
          for (int k = 0; k < count; ++k) total += xs[k * kPitch<A> + threadIdx.x] * totals[k];
        }
      }
    }
    first_pass = false;
    if (p.causal) {
#pragma unroll
      for (int i = 0; i < kOwn<A>; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn<A>; ++j) {
          const int row = ty * kOwn<A> + i, other = tx * kOwn<A> + j;
          if (kBackward ? other < row : other > row) weights[i][j] = 0;
        }
      }
      __syncthreads();
      store_turned(weights, xs);
      if constexpr (kBackward) load_tile<false>(grads_of(p, b, h), query_at, column, ys);
      else load_tile<false>(values_of(p, b, g), chunk * kSide, column, ys);
      __syncthreads();
      add_product(sums, xs, ys);
      if (!kBackward && threadIdx.x < kSide) {
#pragma unroll 4
        for (int k = 0; k < kSide; ++k) total += xs[k * kPitch<A> + threadIdx.x];
      }
    }
  }
  const int tokens = kBackward ? p.keys : p.queries;
  if (!kBackward) {
    if (threadIdx.x < kSide) {
      norms[threadIdx.x] = total != 0 ? 1 / total : A{};
      const int row = own_at + static_cast<int>(threadIdx.x);
      if (column == 0 && row >= 0 && row < tokens) p.norm_out[(int64_t{b} * tokens + row) * heads + head] = total;
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kOwn<A>; ++i) {
    const int row = own_at + ty * kOwn<A> + i;
    if (row < 0 || row >= tokens) continue;
    if (!kBackward) {
      const A factor = norms[ty * kOwn<A> + i];
#pragma unroll
      for (int j = 0; j < kOwn<A>; ++j) sums[i][j] *= factor;
    }
    T* to = (kBackward ? p.grad_v : p.result) + ((int64_t{b} * tokens + row) * heads + head) * p.width;
    store_own(to, column + tx * kOwn<A>, p.width, p.width_packs, sums[i]);
  }
}

// kKeys false: dq; rows are queries with g and d, y keys with v and 1. true: dk; the other way round.
template <class T, bool kKeys>
__global__ void __launch_bounds__(kThreads, 2) feature_grads(Features<T> p, int first_chunk) {
  using A = Acc<T>;
  constexpr int kSide = kTile<A>;
  __shared__ __align__(16) A xs[kSide * kPitch<A>], ys[kSide * kPitch<A>];
  const int feature_tiles = (p.features + kSide - 1) / kSide, heads = kKeys ? p.kv_heads : p.heads;
  const int feature = static_cast<int>(blockIdx.x) % feature_tiles * kSide, at = static_cast<int>(blockIdx.x) / feature_tiles;
  const int b = at % (p.batch * heads) / heads, head = at % heads, chunk = first_chunk + at / (p.batch * heads);
  const int g = kKeys ? head : head / p.group, ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  const int query_at = chunk * kSide - (p.causal ? p.offset : 0), own_at = kKeys ? chunk * kSide : query_at;
  const bool state = p.causal ? (kKeys ? chunk < p.chunks - 1 : chunk > 0) : true;
  const int64_t state_at = int64_t{b * p.kv_heads + g} * (p.causal ? p.chunks : 1) + (p.causal ? max(chunk, 0) : 0);
  const A* ds = p.factors + int64_t{p.batch} * p.queries * p.heads + int64_t{b} * p.queries * p.heads;
  auto d_of = [&](int row, int h) { return row >= 0 && row < p.queries ? ds[int64_t{row} * p.heads + h] : A{}; };
  A sums[kOwn<A>][kOwn<A>] = {};
  if (state) {
    const Matrix<A, Plain<A>> rows = {p.states + state_at * p.features * p.width, p.width, p.features, p.width, p.width % 4 == 0, {}};
    for (int column = 0; column < p.width; column += kSide) {
      __syncthreads();
      if constexpr (kKeys) load_tile<true>(values_of(p, b, head), own_at, column, xs);
      else load_tile<true>(grads_of(p, b, head), own_at, column, xs);
      load_tile<true>(rows, feature, column, ys);
      __syncthreads();
      add_product(sums, xs, ys);
    }
    const A* totals = p.totals + state_at * p.features;
#pragma unroll
    for (int j = 0; j < kOwn<A>; ++j) {
      const int own_feature = feature + tx * kOwn<A> + j;
      const A total = own_feature < p.features ? totals[own_feature] : A{};
#pragma unroll
      for (int i = 0; i < kOwn<A>; ++i) sums[i][j] += kKeys ? total : total * d_of(own_at + ty * kOwn<A> + i, head);
    }
  }
  for (int h = kKeys ? g * p.group : head; p.causal && h < (kKeys ? (g + 1) * p.group : head + 1); ++h) {
    A weights[kOwn<A>][kOwn<A>] = {};
    for (int column = 0; column < p.width; column += kSide) {
      __syncthreads();
      if constexpr (kKeys) {
        load_tile<true>(values_of(p, b, g), own_at, column, xs);
        load_tile<true>(grads_of(p, b, h), query_at, column, ys);
      } else {
        load_tile<true>(grads_of(p, b, h), own_at, column, xs);
        load_tile<true>(values_of(p, b, g), chunk * kSide, column, ys);
      }
      __syncthreads();
      add_product(weights, xs, ys);
    }
#pragma unroll
    for (int i = 0; i < kOwn<A>; ++i) {
#pragma unroll
      for (int j = 0; j < kOwn<A>; ++j) {
        const int row = ty * kOwn<A> + i, other = tx * kOwn<A> + j;
        weights[i][j] += d_of(query_at + (kKeys ? other : row), h);
        if (kKeys ? other < row : other > row) weights[i][j] = 0;
      }
    }
    __syncthreads();
    store_turned(weights, xs);
    if constexpr (kKeys) load_tile<false>(features_of(p, true, b, h), query_at, feature, ys);
    else load_tile<false>(features_of(p, false, b, g), chunk * kSide, feature, ys);
    __syncthreads();
    add_product(sums, xs, ys);
  }
  const auto own = features_of(p, !kKeys, b, head);
#pragma unroll
  for (int i = 0; i < kOwn<A>; ++i) {
    const int row = own_at + ty * kOwn<A> + i;
    if (row < 0 || row >= own.end) continue;
    const A shift = own.per_row.factor(row);
    const T* x = own.base + row * own.stride;
    if (p.map != kNone) {
#pragma unroll
      for (int j = 0; j < kOwn<A>; ++j) {
        const int own_feature = feature + tx * kOwn<A> + j;
        if (own_feature < p.features) sums[i][j] *= p.derivative(widen(x[own_feature]) - shift);
      }
    }
    T* to = (kKeys ? p.grad_k : p.grad_q) + ((int64_t{b} * own.end + row) * heads + head) * p.features;
    store_own(to, feature + tx * kOwn<A>, p.features, p.feature_packs, sums[i]);
  }
}

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// The state of every chunk of keys, or one a head; in whole vectors.
int64_t states_of(const KernelArgs* args, int at, bool sums) {
  const TensorView &q = args->inputs[at], &k = args->inputs[at + 1], &v = args->inputs[at + 2];
  const int64_t tile = q.dtype == DType::kF64 ? kTile<double> : kTile<float>;
  const int64_t count = k.shape[0] * k.shape[2] * (args->flag(0) ? up(k.shape[1], tile) : 1);
  return up(count * q.shape[3] * (sums ? v.shape[3] : 1), 4) * 4;
}

template <class T>
Features<T> problem(const KernelArgs* args, int at, int shifts) {
  const TensorView &q = args->inputs[at], &k = args->inputs[at + 1], &v = args->inputs[at + 2];
  const TensorView &q_shift = args->inputs[shifts], &k_shift = args->inputs[shifts + 1];
  Features<T> p{};
  p.q = q.as<const T>();
  p.k = k.as<const T>();
  p.v = v.as<const T>();
  p.q_shift = q_shift.present() ? q_shift.as<const T>() : nullptr;
  p.k_shift = k_shift.present() ? k_shift.as<const T>() : nullptr;
  p.states = static_cast<Acc<T>*>(args->workspace);
  p.totals = p.states + states_of(args, at, true);
  p.factors = p.totals + states_of(args, at, false);
  p.batch = static_cast<int>(q.shape[0]);
  p.queries = static_cast<int>(q.shape[1]);
  p.keys = static_cast<int>(k.shape[1]);
  p.heads = static_cast<int>(q.shape[2]);
  p.kv_heads = static_cast<int>(k.shape[2]);
  p.features = static_cast<int>(q.shape[3]);
  p.width = static_cast<int>(v.shape[3]);
  p.group = p.heads / p.kv_heads;
  p.causal = args->flag(0);
  p.map = static_cast<int>(args->integer(1));
  p.eps = static_cast<Acc<T>>(args->number(2));
  p.chunks = static_cast<int>(up(p.keys, kTile<Acc<T>>));
  p.offset = p.keys - p.queries;
  p.feature_packs = rows_in_packs<T>(p.features, {p.q, p.k});
  p.width_packs = rows_in_packs<T>(p.width, {p.v});
  return p;
}

template <class T, bool kQueries>
void launch_states(const KernelArgs* args, const Features<T>& p) {
  constexpr int kSide = kTile<Acc<T>>;
  const int64_t tiles = up(p.features, kSide) * (p.width ? up(p.width, kSide) : 1), blocks = int64_t{p.batch} * p.kv_heads * tiles;
  if (blocks) feature_states<T, kQueries><<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(args).stream>>>(p);
}

// The first chunk of queries, below 0 where some stand before the first key, and the number of chunks.
template <class T>
int first_chunk(const Features<T>& p, int64_t* count) {
  constexpr int kSide = kTile<Acc<T>>;
  const int first = p.causal ? (p.offset < 0 ? -static_cast<int>(up(-p.offset, kSide)) : p.offset / kSide) : 0;
  *count = p.queries ? (p.causal ? p.chunks - first : up(p.queries, kSide)) : 0;
  return first;
}

int32_t feature_attention(const KernelArgs* args) {
  return dispatch_floating(args->inputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Features<T> p = problem<T>(args, 0, 3);
    p.result = args->outputs[0].as<T>();
    p.norm_out = args->outputs[1].as<Acc<T>>();
    p.width_packs = p.width_packs && aligned16(p.result);
    launch_states<T, false>(args, p);
    int64_t chunks = 0;
    const int first = first_chunk(p, &chunks);
    const int64_t blocks = chunks * p.batch * p.heads * (p.width ? up(p.width, kTile<Acc<T>>) : 1);
    if (blocks) feature_rows<T, false><<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(args).stream>>>(p, first);
    return launched(args);
  });
}

int64_t forward_workspace(const KernelArgs* args) {
  const int64_t size = args->inputs[0].dtype == DType::kF64 ? 8 : 4;
  return size * (states_of(args, 0, true) + states_of(args, 0, false));
}

// The states of keys give dq, then those of queries take their place.
int32_t feature_attention_backward(const KernelArgs* args) {
  return dispatch_floating(args->inputs[1].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    constexpr int kSide = kTile<Acc<T>>;
    const auto stream = stream_of(args).stream;
    Features<T> p = problem<T>(args, 1, 6);
    p.grad_out = args->inputs[0].as<const T>();
    p.out = args->inputs[4].as<const T>();
    p.norm = args->inputs[5].as<const Acc<T>>();
    p.grad_q = args->outputs[0].as<T>();
    p.grad_k = args->outputs[1].as<T>();
    p.grad_v = args->outputs[2].as<T>();
    p.feature_packs = p.feature_packs && aligned16(p.grad_q) && aligned16(p.grad_k);
    p.width_packs = p.width_packs && aligned16(p.grad_out) && aligned16(p.out) && aligned16(p.grad_v);
    const int64_t rows = int64_t{p.batch} * p.queries * p.heads, feature_tiles = up(p.features, kSide);
    if (rows) feature_factors<T><<<blocks_for(args, rows, kThreads / 32), kThreads, 0, stream>>>(p);
    launch_states<T, false>(args, p);
    int64_t chunks = 0;
    const int first = first_chunk(p, &chunks);
    const int64_t query_blocks = chunks * p.batch * p.heads * feature_tiles;
    if (query_blocks) feature_grads<T, false><<<static_cast<unsigned>(query_blocks), kThreads, 0, stream>>>(p, first);
    launch_states<T, true>(args, p);
    const int64_t key_blocks = int64_t{p.chunks} * p.batch * p.kv_heads, value_tiles = up(p.width, kSide);
    if (key_blocks * feature_tiles > 0) feature_grads<T, true><<<static_cast<unsigned>(key_blocks * feature_tiles), kThreads, 0, stream>>>(p, 0);
    if (key_blocks * value_tiles > 0) feature_rows<T, true><<<static_cast<unsigned>(key_blocks * value_tiles), kThreads, 0, stream>>>(p, 0);
    return launched(args);
  });
}

int64_t backward_workspace(const KernelArgs* args) {
  const int64_t size = args->inputs[1].dtype == DType::kF64 ? 8 : 4;
  return size * (states_of(args, 1, true) + states_of(args, 1, false) + 2 * args->inputs[5].numel);
}

}  // namespace

LF_CUDA_KERNEL(feature_attention, feature_attention)
LF_CUDA_WORKSPACE(feature_attention, forward_workspace)
LF_CUDA_KERNEL(feature_attention_backward, feature_attention_backward)
LF_CUDA_WORKSPACE(feature_attention_backward, backward_workspace)

}  // namespace lf::cuda
