// feature_attention and its gradient without tensor cores, by tiles of 64 x 64 numbers (f64: 32 x 32) in shared memory: f64, narrow
// f32, and the other formats on chips before sm_80. Three kernels do all of it, each from the queries' side and from the keys':
//   feature_states  a block owns 64 features by 64 columns of a head's state and walks along the tokens: from phi(k) and v forwards,
//                   from phi(q) and g backwards, where groups of heads add up in order. It leaves the state before each chunk.
//   feature_rows    a block owns 64 tokens by 64 columns: out from W = phi(q) phi(k)^T, masked, and the state; dv from W^T and g.
//   feature_grads   a block owns 64 tokens by 64 features: dphi(q), dphi(k) from dW = g v^T + d, masked, and the state; then times
//                   the map's derivative.
// With g = grad_out / norm and d = -g . out. 256 threads a block, 4 x 4 sums a thread; both sides of a product lie with the summed
// index first, so that a thread reads it in packs of 16 bytes. 35 KB of shared memory and at most 128 registers a thread: 2 blocks
// an SM. Bound by FMAs of the accumulation type. Partial sums are added in the order of chunks, the same bits on every run.
// Warps an SM: feature_states 16, feature_rows 16, feature_grads 16.
#pragma once
#include "cuda/feature_attention.cuh"

namespace lf::cuda {

constexpr int kPlainThreads = 256;

// Numbers on a side of a tile, and from one row of it to the next.
template <class A>
constexpr int kTile = sizeof(A) == 8 ? 32 : 64;
template <class A>
constexpr int kPitch = kTile<A> + 4;
template <class A>
constexpr int kOwn = kTile<A> / 16;  // rows and columns of a thread

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
  __device__ __forceinline__ A factor(int row) const { return factors[row]; }
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
  return {p.grad_out + row * p.width, int64_t{p.heads} * p.width, p.queries, p.width, p.width_packs, {p.factors + p.first_factor(b, head)}};
}

template <class T>
__device__ __forceinline__ Acc<T> plain_d(const Features<T>& p, int b, int head, int query) {
  if (query < 0 || query >= p.queries) return {};
  const int64_t at = p.first_factor(b, head) + query;
  return p.factors[at] * p.deltas[at];
}

// Rows from `first` and columns from `column` on. Natural: tile[row][column]; turned: tile[column][row], where a warp takes 16 rows
// by two packs, whole sectors, into different banks.
template <bool kTurned, class T, class P>
__device__ __forceinline__ void load_tile(const Matrix<T, P>& m, int first, int column, Acc<T>* tile) {
  using A = Acc<T>;
  constexpr int kSide = kTile<A>, kStep = kPitch<A>, kItems = Pack<T>::n;
  if constexpr (sizeof(T) < 8) {
    if (m.packs) {
      constexpr int kPacks = kSide / kItems, kWarps = kPlainThreads / 32;
#pragma unroll 2
      for (int i = 0; i < kSide * kPacks / kPlainThreads; ++i) {
        int l, c;
        if (kTurned) {
          const int at = static_cast<int>(threadIdx.x) / 32 + i * kWarps, lane = threadIdx.x % 32;
          l = at % (kSide / 16) * 16 + lane / 2;
          c = (at / (kSide / 16) * 2 + lane % 2) * kItems;
        } else {
          const int at = static_cast<int>(threadIdx.x) + i * kPlainThreads;
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
  for (int at = threadIdx.x; at < kSide * kSide; at += kPlainThreads) {
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

// The state before each chunk, or, without a causal rule, that of all tokens. kQueries: of phi(q) and g, from the last chunk on.
template <class T, bool kQueries>
__global__ void __launch_bounds__(kPlainThreads, 2) feature_states(Features<T> p) {
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
      if (row < p.features) store_own(static_cast<A*>(p.states) + (at * p.features + row) * p.width, column + tx * kOwn<A>, p.width, p.width % 4 == 0, sums[i]);
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
#pragma unroll 4
        for (int k = 0; k < kSide; ++k) {
          A x = xs[k * kPitch<A> + threadIdx.x];
          if (kQueries) {
            const int row = first + k;
            x *= plain_d(p, b, h, row);
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
__global__ void __launch_bounds__(kPlainThreads, 2) feature_rows(Features<T> p, int first_chunk) {
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
  const Matrix<A, Plain<A>> state_rows = {static_cast<const A*>(p.states) + state_at * p.features * p.width, p.width, p.features, p.width, p.width % 4 == 0, {}};
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
__global__ void __launch_bounds__(kPlainThreads, 2) feature_grads(Features<T> p, int first_chunk) {
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
  A sums[kOwn<A>][kOwn<A>] = {};
  if (state) {
    const Matrix<A, Plain<A>> rows = {static_cast<const A*>(p.states) + state_at * p.features * p.width, p.width, p.features, p.width, p.width % 4 == 0, {}};
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
      for (int i = 0; i < kOwn<A>; ++i) sums[i][j] += kKeys ? total : total * plain_d(p, b, head, own_at + ty * kOwn<A> + i);
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
        weights[i][j] += plain_d(p, b, h, query_at + (kKeys ? other : row));
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

// --- launches ---------------------------------------------------------------------------------------------------------------

template <bool kQueries, class T>
void launch_plain_states(const KernelArgs* args, const Features<T>& p) {
  constexpr int kSide = kTile<Acc<T>>;
  const int64_t tiles = up(p.features, kSide) * (p.width ? up(p.width, kSide) : 1), blocks = int64_t{p.batch} * p.kv_heads * tiles;
  if (blocks) feature_states<T, kQueries><<<static_cast<unsigned>(blocks), kPlainThreads, 0, stream_of(args).stream>>>(p);
}

template <class T>
int32_t features_plain(const KernelArgs* args, const Features<T>& p) {
  launch_plain_states<false>(args, p);
  int64_t chunks = 0;
  const int first = first_chunk(p, &chunks);
  const int64_t blocks = chunks * p.batch * p.heads * (p.width ? up(p.width, kTile<Acc<T>>) : 1);
  if (blocks) feature_rows<T, false><<<static_cast<unsigned>(blocks), kPlainThreads, 0, stream_of(args).stream>>>(p, first);
  return launched(args);
}

// The states of keys give dq, then those of queries take their place.
template <class T>
int32_t features_backward_plain(const KernelArgs* args, const Features<T>& p) {
  constexpr int kSide = kTile<Acc<T>>;
  const auto stream = stream_of(args).stream;
  launch_plain_states<false>(args, p);
  int64_t chunks = 0;
  const int first = first_chunk(p, &chunks);
  const int64_t feature_tiles = up(p.features, kSide), value_tiles = up(p.width, kSide);
  const int64_t query_blocks = chunks * p.batch * p.heads * feature_tiles, key_blocks = int64_t{p.chunks} * p.batch * p.kv_heads;
  if (query_blocks) feature_grads<T, false><<<static_cast<unsigned>(query_blocks), kPlainThreads, 0, stream>>>(p, first);
  launch_plain_states<true>(args, p);
  if (key_blocks * feature_tiles > 0) feature_grads<T, true><<<static_cast<unsigned>(key_blocks * feature_tiles), kPlainThreads, 0, stream>>>(p, 0);
  if (key_blocks * value_tiles > 0) feature_rows<T, true><<<static_cast<unsigned>(key_blocks * value_tiles), kPlainThreads, 0, stream>>>(p, 0);
  return launched(args);
}

}  // namespace lf::cuda
