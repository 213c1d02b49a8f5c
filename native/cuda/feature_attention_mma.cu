// feature_attention and its gradient on tensor cores, f32 and 16-bit formats (sm_80 and later). Two kernels do all of it:
//   feature_mma_states  a block owns 64 features by 64 columns of a head's state and walks along the tokens: from phi(k) and v
//                       forwards, from phi(q) / norm and grad_out backwards, where groups of heads add up in order. It leaves the
//                       state before each chunk.
//   feature_mma_rows    a block owns 64 tokens by 64 columns of a result: a masked product W inside the chunk, W times a tile of the
//                       chunk, and a product with the state:
//                         out:       W = phi(q) phi(k)^T            phi(q) S + W v, over phi(q) z + the sums of W's rows
//                         dphi(q):   W = (grad v^T + delta) / norm  (grad S^T + delta z) / norm + W phi(k)
//                         dphi(k):   W = the same, turned           v R^T + r + W phi(q)
//                         dv:        W = phi(k) phi(q)^T / norm     phi(k) R + W grad
//                       with S, z the sums of phi(k) v^T and phi(k), R, r those of phi(q) / norm times grad and times delta, and
//                       delta = -grad . out. dphi is multiplied with the map's derivative on the way out.
// 128 threads a block, 16 rows a warp; copies of the next step's tiles are under way while a step is multiplied, and each thread
// maps what it has copied. bf16 is multiplied as bf16, its states are kept in bf16, too. Features of f16 leave its range (exp of what
// is far below the stabiliser, 1 / norm), so f16 becomes TF32, which has f16's digits and f32's range; f32 takes three TF32
// products. Sums are f32. z and delta z are columns more of the same products, cut into three parts each, so that they keep f32's
// digits. Partial sums are added in the order of chunks, the same bits on every run.
// Bound by the issue of instructions, some 20 for each mma (the map, addresses, copies), and behind it by bytes, of which those of
// states and of rows that are read for each tile again come from the second-level cache; where heads are few, the walk along the
// tokens by latency. 42 and 51 KB of shared memory and 128 registers a thread are 4 blocks an SM (f32, f16: twice the memory and 2).
// Warps an SM: feature_mma_states 16, feature_mma_rows 16.
#include "cuda/attention_mma.cuh"
#include "cuda/feature_attention.cuh"

namespace lf::cuda {
namespace {

constexpr int kSide = kFeatureChunk<float>;  // of a tile, both ways
constexpr int kThreads = 128;

// What is multiplied: numbers of tiles in shared memory, and of states.
template <class T>
using Element = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, __nv_bfloat16, float>;
template <class E>
constexpr int kRowChunks = kSide * static_cast<int>(sizeof(E)) / 16;
template <class T>
constexpr int kTileBytes = kSide * kSide * static_cast<int>(sizeof(Element<T>));
template <class T>
constexpr int kBlocks = sizeof(Element<T>) == 2 ? 4 : 2;

// --- from memory into tiles -------------------------------------------------------------------------------------------------

// Rows of a matrix: row r, for 0 <= r < end, begins at base + r * stride; all others, and columns from `columns` on, are 0.
template <class T>
struct Rows {
  const T* base;
  int64_t stride;
  int end, columns;
  bool packs;

  __device__ bool has(int row) const { return row >= 0 && row < end; }
};

// threadIdx.x, in a way that what is computed from it is not kept over a kernel's loop, in registers that there are not.
__device__ __forceinline__ int this_thread() {
  int thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  return thread;
}

// Of a tile of E thread t has chunk t % kRowChunks of kOwnChunks rows.
template <class E>
constexpr int kOwnChunks = kSide * kRowChunks<E> / kThreads;
template <class E>
struct OwnChunks {
  int thread = this_thread();
  __device__ __forceinline__ int row(int i) const { return thread / kRowChunks<E> + i * (kThreads / kRowChunks<E>); }
  __device__ __forceinline__ int chunk() const { return thread % kRowChunks<E>; }
};

// Rows from `first` and columns from `column` on, as they are, into a tile of E. Asynchronous where the tile is of their format;
// otherwise begin() leaves whole chunks in registers, and finish() puts them into the tile.
template <class E, class T>
struct TileLoad {
  static constexpr bool kSame = std::is_same_v<E, T>;
  static constexpr int kItems = Pack<E>::n;
  Piece<T, kItems> held[kSame ? 1 : kOwnChunks<E>];

  __device__ __forceinline__ void begin(char* tile, const Rows<T>& m, int first, int column) {
    const OwnChunks<E> own;
    column += own.chunk() * kItems;
    if (m.packs) {
      // Own rows are a multiple of 8 apart, so their swizzle is the same.
      constexpr int kStep = kThreads / kRowChunks<E>;
      static_assert(kStep % 8 == 0);
      const uint32_t to = shared_address(tile) + chunk_at<kRowChunks<E>>(own.row(0), own.chunk());
      const T* from = m.base + (first + own.row(0)) * m.stride + column;
#pragma unroll
      for (int i = 0; i < kOwnChunks<E>; ++i, from += kStep * m.stride) {
        const bool inside = m.has(first + own.row(i)) && column < m.columns;
        if constexpr (kSame) {
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + i * kStep * kRowChunks<E> * 16), "l"(inside ? from : m.base),
                       "r"(inside ? 16 : 0)
                       : "memory");
        } else {
          held[i] = {};
          if (inside) held[i] = load_piece<kItems>(from);
        }
      }
      return;
    }
#pragma unroll 1
    for (int i = 0; i < kOwnChunks<E>; ++i) {
      const int l = own.row(i), row = first + l;
      Piece<T, kItems> x = {};
#pragma unroll
      for (int k = 0; k < kItems; ++k) {
        if (m.has(row) && column + k < m.columns) x.at[k] = m.base[row * m.stride + column + k];
      }
      put(tile, l, own.chunk(), x);
    }
  }
  __device__ __forceinline__ void finish(char* tile, bool packs) const {
    if constexpr (!kSame) {
      if (!packs) return;
      const OwnChunks<E> own;
#pragma unroll
      for (int i = 0; i < kOwnChunks<E>; ++i) put(tile, own.row(i), own.chunk(), held[i]);
    }
  }

 private:
  __device__ __forceinline__ static void put(char* tile, int row, int chunk, const Piece<T, kItems>& x) {
    Pack<E> pack;
#pragma unroll
    for (int k = 0; k < kItems; ++k) pack.at[k] = narrow<E>(widen(x.at[k]));
    store_pack(reinterpret_cast<E*>(tile + chunk_at<kRowChunks<E>>(row, chunk)), pack);
  }
};

// of[i] asynchronously, 0 where it is not inside.
[[maybe_unused]] __device__ __forceinline__ void copy_number(float& to, const float* of, int64_t i, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(&to)), "l"(of + (inside ? i : 0)), "r"(inside ? 4 : 0) : "memory");
}

// Rows of q or k of one head.
template <class T>
struct FeatureRows {
  Rows<T> rows;
  const T* shift;  // of row 0, or nullptr
  int heads;

  __device__ FeatureRows(const Features<T>& p, bool queries, int b, int head) : heads(queries ? p.heads : p.kv_heads) {
    const int tokens = queries ? p.queries : p.keys;
    const T *x = queries ? p.q : p.k, *shifts = queries ? p.q_shift : p.k_shift;
    const int64_t row = int64_t{b} * tokens * heads + head;
    rows = {x + row * p.features, int64_t{heads} * p.features, tokens, p.features, p.feature_packs};
    shift = shifts ? shifts + row : nullptr;
  }
  __device__ float shift_of(int row) const { return shift && rows.has(row) ? widen(shift[int64_t{row} * heads]) : 0.f; }
};
template <class T>
__device__ __forceinline__ Rows<T> values_of(const Features<T>& p, int b, int head) {
  return {p.v + (int64_t{b} * p.keys * p.kv_heads + head) * p.width, int64_t{p.kv_heads} * p.width, p.keys, p.width, p.width_packs};
}
template <class T>
__device__ __forceinline__ Rows<T> grads_of(const Features<T>& p, int b, int head) {
  return {p.grad_out + (int64_t{b} * p.queries * p.heads + head) * p.width, int64_t{p.heads} * p.width, p.queries, p.width, p.width_packs};
}

// phi of the 64 rows from `first` on, in two steps, so that copies are under way meanwhile: begin() beside those of the tile, and,
// when they are there, map(), in which each thread changes what it has copied. The 16 rows of a warp's threads are no other warp's.
template <class T>
struct FeatureLoader {
  using E = Element<T>;
  float* shifts;  // 64, in shared memory
  float shift;  // of row own_row()

  // Of lanes 0 to 15: one of their warp's rows each.
  __device__ __forceinline__ static bool has_row() { return threadIdx.x % 32 < 16; }
  __device__ __forceinline__ static int own_row() {
    constexpr int kRows = 32 / kRowChunks<E>;  // of a warp's chunk i
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    return warp * kRows + lane % kRows + lane / kRows * (kThreads / kRowChunks<E>);
  }
  __device__ __forceinline__ void begin(const FeatureRows<T>& m, int first) {
    shift = has_row() ? m.shift_of(first + own_row()) : 0.f;
  }
  // Times factor(row of the tile). Between two calls stands a barrier.
  template <class Factor>
  __device__ __forceinline__ void map(const Features<T>& p, char* tile, int first, int rows, int feature, Factor&& factor) const {
    if (p.map == kExp) map_as<kExp>(p, tile, first, rows, feature, factor);
    else if (p.map == kElu) map_as<kElu>(p, tile, first, rows, feature, factor);
    else map_as<kNone>(p, tile, first, rows, feature, factor);
  }
  __device__ __forceinline__ void map(const Features<T>& p, char* tile, int first, int rows, int feature) const {
    map(p, tile, first, rows, feature, [](int) { return 1.f; });
  }

 private:
  template <Map kMap, class Factor>
  __device__ __forceinline__ void map_as(const Features<T>& p, char* tile, int first, int rows, int feature, Factor&& factor) const {
    constexpr int kItems = Pack<E>::n;
    const OwnChunks<E> own;
    const int left = p.features - feature - own.chunk() * kItems;
    if (has_row()) shifts[own_row()] = shift;
    __syncwarp();
#pragma unroll 2
    for (int i = 0; i < kOwnChunks<E>; ++i) {
      const int l = own.row(i), count = first + l >= 0 && first + l < rows ? left : 0;
      const float shift_of_row = shifts[l];
      auto* const at = reinterpret_cast<E*>(tile + chunk_at<kRowChunks<E>>(l, own.chunk()));
      Pack<E> pack = load_pack(at);
#pragma unroll
      for (int k = 0; k < kItems; ++k) pack.at[k] = narrow<E>(k < count ? p.phi(kMap, widen(pack.at[k]) - shift_of_row) * factor(l) : 0.f);
      store_pack(at, pack);
    }
  }
};

// State rows [features][width], of all tokens or of those before (keys) or behind (queries) a chunk.
[[maybe_unused]] __host__ __device__ inline int state_pitch(int width) { return (width + 7) / 8 * 8; }
template <class T>
__device__ __forceinline__ Element<T>* state_of(const Features<T>& p, int64_t at) {
  return static_cast<Element<T>*>(p.states) + at * p.features * state_pitch(p.width);
}

// --- products ---------------------------------------------------------------------------------------------------------------

// The sides of a product: get() brings a warp's 16 rows, or 16 columns from 16 j on, of group k of what is summed over, 16 numbers
// (f32: 8). f32 in mma's order has number t of a group at index t and number t + 4 at t + 4. kPairs: numbers 2 t and 2 t + 1
// instead, so that rows of a tile that are read together lie in different banks. In a tile, chunks 2, 4 and 6 further on are an
// exclusive or, 8 chunks or 8 rows further on an addition.
[[maybe_unused]] __device__ __forceinline__ uint32_t load_word(uint32_t address) {
  uint32_t word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}
template <class E>
constexpr int kRowBytes = kRowChunks<E> * 16;

template <class E>
struct AlongRows {  // tile[own row][summed]
  static constexpr bool kPairs = false;
  uint32_t address;
  __device__ __forceinline__ AlongRows(uint32_t tile, int row) {
    const int lane = this_thread() % 32;
    address = tile + chunk_at<kRowChunks<E>>(row + lane % 16, lane / 16);
  }
  __device__ __forceinline__ void get(uint32_t (&a)[4], int k) const { load_matrices(a, (address ^ (k & 3) << 5) + (k >> 2) * 128); }
};
template <class E>
struct AcrossRows {  // tile[summed][own row]
  static constexpr bool kPairs = true;
  uint32_t address;
  __device__ __forceinline__ AcrossRows(uint32_t tile, int row) {
    const int lane = this_thread() % 32, g = lane / 4, t = lane % 4;
    if constexpr (sizeof(E) == 2) address = tile + chunk_at<kRowChunks<E>>(lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2);
    else address = tile + chunk_at<kRowChunks<E>>(2 * t, row / 4 + g / 4) + g % 4 * 4;
  }
  __device__ __forceinline__ void get(uint32_t (&a)[4], int k) const {
    if constexpr (sizeof(E) == 2) {
      load_matrices_transposed(a, address + k * 16 * kRowBytes<E>);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = load_word((address ^ (i / 2 * 16 + i % 2 * 32)) + (8 * k + i / 2) * kRowBytes<E>);
    }
  }
};
// kAcross: tile[summed][column], else tile[column][summed].
template <class E, bool kAcross, bool kPairs>
struct RightSide {
  uint32_t address;
  __device__ __forceinline__ explicit RightSide(uint32_t tile) {
    const int lane = this_thread() % 32, g = lane / 4, t = lane % 4;
    constexpr int kChunks = kRowChunks<E>;
    if constexpr (!kAcross) address = tile + chunk_at<kChunks>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    else if constexpr (sizeof(E) == 2) address = tile + chunk_at<kChunks>(lane % 16, lane / 16);
    else address = tile + chunk_at<kChunks>(kPairs ? 2 * t : t, g / 4) + g % 4 * 4;
  }
  __device__ __forceinline__ void get(uint32_t (&b)[4], int j, int k) const {
    if constexpr (!kAcross) {
      load_matrices(b, (address ^ (k & 3) << 5) + (k >> 2) * 128 + 16 * j * kRowBytes<E>);
    } else if constexpr (sizeof(E) == 2) {
      load_matrices_transposed(b, (address ^ j << 5) + 16 * k * kRowBytes<E>);
    } else {
      constexpr int kOther = kPairs ? 1 : 4;  // the row of elements 1 and 3
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = load_word((address ^ (i % 2 * kOther * 16) ^ (i / 2 * 32) ^ (j % 2 * 64)) + j / 2 * 128 + (8 * k + i % 2 * kOther) * kRowBytes<E>);
      }
    }
  }
};

template <class E>
__device__ __forceinline__ float rounded(float x) {
  if constexpr (sizeof(E) == 2) {
    return widen(narrow<E>(x));
  } else {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
  }
}
// A vector to multiply with, beside a tile: each of its 64 numbers in three parts, as many digits as E holds, the next ones, and the
// rest. Part g is the column g of a product.
template <class E>
struct Vector {
  static constexpr int kPitch = kSide + 8;
  E parts[3 * kPitch];

  __device__ __forceinline__ void put(int k, float x) {
#pragma unroll
    for (int g = 0; g < 3; ++g) {
      const float top = rounded<E>(x);
      parts[g * kPitch + k] = narrow<E>(top);
      x -= top;
    }
  }
  __device__ __forceinline__ uint32_t word(int g, int k) const { return g < 3 ? *reinterpret_cast<const uint32_t*>(parts + g * kPitch + k) : 0; }
};
template <class E>
struct Ones {
  __device__ __forceinline__ uint32_t word(int g, int) const {
    if constexpr (sizeof(E) == 2) return g == 0 ? pack_pair<E>(1.f, 1.f) : 0;
    else return g == 0 ? __float_as_uint(1.f) : 0;
  }
};
struct NoVector {};

// c += x y; with a vector also sums += x vector, each part in a column of its own: see vector_sum.
template <class T, bool kAcross, class Left, class Column>
__device__ __forceinline__ void add_product(float (&c)[kSide / 8][4], const Left& x, uint32_t y, float (&sums)[4], const Column& vector) {
  using E = Element<T>;
  constexpr bool kVector = !std::is_same_v<Column, NoVector>;
  const RightSide<E, kAcross, Left::kPairs> right(y);
  const int lane = this_thread() % 32, g = lane / 4, t = lane % 4;
  if constexpr (sizeof(E) == 2) {
#pragma unroll 1  // more of them take registers that four blocks do not have
    for (int k = 0; k < kSide / 16; ++k) {
      uint32_t a[4];
      x.get(a, k);
#pragma unroll
      for (int j = 0; j < kSide / 16; ++j) {
        uint32_t b[4];
        right.get(b, j, k);
        mma<E>(c[2 * j], a, b[0], b[1]);
        mma<E>(c[2 * j + 1], a, b[2], b[3]);
      }
      if constexpr (kVector) mma<E>(sums, a, vector.word(g, 16 * k + 2 * t), vector.word(g, 16 * k + 2 * t + 8));
    }
  } else {
    float high[kSide / 8][4] = {}, low[kSide / 8][4] = {};
#pragma unroll 1
    for (int k = 0; k < kSide / 8; ++k) {
      uint32_t a[4], big[4], small[4];
      x.get(a, k);
#pragma unroll
      for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(a[i]), big[i], small[i]);
#pragma unroll
      for (int j = 0; j < kSide / 16; ++j) {
        uint32_t b[4], b_big[4], b_small[4];
        right.get(b, j, k);
#pragma unroll
        for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(b[i]), b_big[i], b_small[i]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if constexpr (std::is_same_v<T, float>) {
            mma<E>(low[2 * j + i], small, b_big[2 * i], b_big[2 * i + 1]);
            mma<E>(low[2 * j + i], big, b_small[2 * i], b_small[2 * i + 1]);
          }
          mma<E>(high[2 * j + i], big, b_big[2 * i], b_big[2 * i + 1]);
        }
      }
      if constexpr (kVector) {
        const uint32_t b0 = vector.word(g, 8 * k + (Left::kPairs ? 2 * t : t)), b1 = vector.word(g, 8 * k + (Left::kPairs ? 2 * t + 1 : t + 4));
        if constexpr (std::is_same_v<T, float>) mma<E>(sums, small, b0, b1);
        mma<E>(sums, big, b0, b1);
      }
    }
#pragma unroll
    for (int n = 0; n < kSide / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[n][i] += high[n][i] + low[n][i];
    }
  }
}
template <class T, bool kAcross, class Left>
__device__ __forceinline__ void add_product(float (&c)[kSide / 8][4], const Left& x, uint32_t y) {
  float none[4];
  add_product<T, kAcross>(c, x, y, none, NoVector{});
}
// Of the warp's row g + 8 h, in each of its four lanes.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}
[[maybe_unused]] __device__ __forceinline__ float vector_sum(const float (&sums)[4], int h) { return quad_sum(sums[2 * h] + sums[2 * h + 1]); }

// A warp's 16 rows of a product into a tile of D.
template <class D>
__device__ __forceinline__ void put_rows(const float (&c)[kSide / 8][4], char* tile, int row) {
  constexpr int kChunks = kRowChunks<D>;
  const int lane = this_thread() % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kSide / 8; ++n) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float x = c[n][2 * h], y = c[n][2 * h + 1];
      if constexpr (sizeof(D) == 2) {
        *reinterpret_cast<uint32_t*>(tile + chunk_at<kChunks>(row + g + 8 * h, n) + 4 * t) = pack_pair<D>(x, y);
      } else {
        *reinterpret_cast<float2*>(tile + chunk_at<kChunks>(row + g + 8 * h, 2 * n + t / 2) + t % 2 * 8) = make_float2(x, y);
      }
    }
  }
  __syncwarp();
}

// A warp's 16 rows of sums, of a block's tile from `first` on, to rows of D in memory: through the warp's own rows of a tile that
// nobody else reads, so that memory sees whole chunks.
template <class D>
__device__ __forceinline__ void store_rows(const float (&c)[kSide / 8][4], char* tile, int row, D* to, int64_t stride, int first, int end,
                                           int columns, bool packs) {
  constexpr int kChunks = kRowChunks<D>, kItems = Pack<D>::n;
  const int lane = this_thread() % 32;
  __syncwarp();
  put_rows<D>(c, tile, row);
#pragma unroll
  for (int i = 0; i < 16 * kChunks / 32; ++i) {
    const int at = lane + 32 * i, l = row + at / kChunks, chunk = at % kChunks;
    if (first + l < 0 || first + l >= end || chunk * kItems >= columns) continue;
    const char* from = tile + chunk_at<kChunks>(l, chunk);
    D* out = to + (first + l) * stride + chunk * kItems;
    if (packs) {
      *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll 1
      for (int k = 0; k < kItems && chunk * kItems + k < columns; ++k) out[k] = reinterpret_cast<const D*>(from)[k];
    }
  }
}

// --- kernels ----------------------------------------------------------------------------------------------------------------

constexpr int kStateTiles = 5, kRowTiles = 6;

// The state before each chunk, or, without a causal rule, that of all tokens. kQueries: of phi(q) / norm and grad_out, from the last
// chunk on. Totals: of phi(k), or of phi(q) / norm times delta. Steps are cut into segments, each with blocks of its own: the first
// launch (kSums) leaves what each segment adds, the second one begins with the sums of those before its own.
template <class T, bool kQueries, bool kSums>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) feature_mma_states(Features<T> p, FeatureSegments segments) {
#if __CUDA_ARCH__ >= 800
  using E = Element<T>;
  extern __shared__ __align__(128) char shared[];
  __shared__ Vector<E> delta_vectors[kQueries ? 2 : 1];
  __shared__ float deltas[kQueries ? kSide : 1], factors[kQueries ? kSide : 1], shifts[kSide];
  char* const staging = shared + 4 * kTileBytes<T>;
  const int feature_tiles = (p.features + kSide - 1) / kSide, width_tiles = max((p.width + kSide - 1) / kSide, 1), tiles = feature_tiles * width_tiles;
  const int segment = static_cast<int>(blockIdx.x) / segments.blocks, block = static_cast<int>(blockIdx.x) % segments.blocks;
  const int head = block / tiles, feature = block % tiles / width_tiles * kSide, column = block % width_tiles * kSide;
  const int b = head / p.kv_heads, g = head % p.kv_heads;
  const int lane = threadIdx.x % 32, row = static_cast<int>(threadIdx.x) / 32 * 16, pitch = state_pitch(p.width);
  const int tokens = kQueries ? p.queries : p.keys, group = kQueries ? p.group : 1;
  float sums[kSide / 8][4] = {}, totals[4] = {};
  const auto store = [&](int chunk) {
    const int64_t at = int64_t{head} * (p.causal ? p.chunks : 1) + chunk;
    store_rows<E>(sums, staging, row, state_of(p, at) + column, pitch, feature, p.features, p.width - column, true);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float total = vector_sum(totals, h);
      const int own = feature + row + lane / 4 + 8 * h;
      if (column == 0 && lane % 4 == 0 && own < p.features) p.totals[at * p.features + own] = total;
    }
  };
  // What a segment adds, as a thread has it.
  const auto added = [&](int of, int n) {
    return reinterpret_cast<float4*>(p.segment_sums) + ((int64_t{of} * segments.blocks + block) * kSegmentPacks + n) * kThreads + threadIdx.x;
  };

  // Item i: a chunk of tokens of one head. Two are in shared memory, features and then values or gradients.
  FeatureLoader<T> loader{shifts, 0.f};
  TileLoad<E, T> xs_load, ys_load;
  const auto head_of = [&](int i) { return kQueries ? g * p.group + i % group : g; };
  const auto chunk_of = [&](int i) { return kQueries && p.causal ? segments.all_steps - i / group : i / group; };
  const auto first_of = [&](int i) { return chunk_of(i) * kSide - (kQueries && p.causal ? p.offset : 0); };
  const auto tile_of = [&](int i) { return shared + i % 2 * 2 * kTileBytes<T>; };
  const auto begin = [&](int i) {
    const int h = head_of(i), first = first_of(i);
    const FeatureRows<T> rows(p, kQueries, b, h);
    xs_load.begin(tile_of(i), rows.rows, first, feature);
    ys_load.begin(tile_of(i) + kTileBytes<T>, kQueries ? grads_of(p, b, h) : values_of(p, b, h), first, column);
    if constexpr (kQueries) {
      const auto copy = [&](float& to, const float* of, int token) { copy_number(to, of, p.first_factor(b, h) + token, token >= 0 && token < tokens); };
      if (loader.has_row()) copy(factors[loader.own_row()], p.factors, first + loader.own_row());
      if (threadIdx.x < kSide) copy(deltas[threadIdx.x], p.deltas, first + static_cast<int>(threadIdx.x));
    }
    commit_copies();
    loader.begin(rows, first);
  };

  int i = segment * segments.steps * group, end = min((segment + 1) * segments.steps, segments.all_steps) * group;
  if (!kSums && segments.count > 1) {
    if (!p.causal) end = i;
    for (int of = 0; of < (p.causal ? segment : segments.count); ++of) {
#pragma unroll
      for (int n = 0; n < kSegmentPacks; ++n) {
        const float4 more = *added(of, n);
        float(&to)[4] = n < kSide / 8 ? sums[n] : totals;
        to[0] += more.x;
        to[1] += more.y;
        to[2] += more.z;
        to[3] += more.w;
      }
    }
    if (p.causal && segment > 0) store(kQueries ? segments.all_steps - segment * segments.steps : segment * segments.steps);
  }
  if (i < end) begin(i);
#pragma unroll 1
  for (; i < end; ++i) {
    char* const xs = tile_of(i);
    wait_copies<0>();
    xs_load.finish(xs, p.feature_packs);
    ys_load.finish(xs + kTileBytes<T>, p.width_packs);
    if (kQueries && threadIdx.x < kSide) delta_vectors[i % 2].put(threadIdx.x, deltas[threadIdx.x]);
    loader.map(p, xs, first_of(i), tokens, feature, [&](int l) { return kQueries ? factors[l] : 1.f; });
    __syncthreads();
    if (i + 1 < end) begin(i + 1);
    const AcrossRows<E> left(shared_address(xs), row);
    const uint32_t right = shared_address(xs + kTileBytes<T>);
    if constexpr (kQueries) add_product<T, true>(sums, left, right, totals, delta_vectors[i % 2]);
    else add_product<T, true>(sums, left, right, totals, Ones<E>());
    // The last one of a segment is the next segment's first.
    if (!kSums && p.causal && (i + 1) % group == 0 && (i + 1 < end || segment + 1 == segments.count)) store(kQueries ? chunk_of(i) - 1 : chunk_of(i) + 1);
  }
  if constexpr (kSums) {
#pragma unroll
    for (int n = 0; n < kSegmentPacks; ++n) {
      const float(&of)[4] = n < kSide / 8 ? sums[n] : totals;
      *added(segment, n) = make_float4(of[0], of[1], of[2], of[3]);
    }
  } else if (!p.causal) {
    store(0);
  }
#endif
}

enum class Result { kOut, kGradQ, kGradK, kGradV };

template <class T, Result kOf>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) feature_mma_rows(Features<T> p, int first_chunk) {
#if __CUDA_ARCH__ >= 800
  using E = Element<T>;
  constexpr bool kKeys = kOf == Result::kGradK || kOf == Result::kGradV;    // own rows are keys, else queries
  constexpr bool kFeatures = kOf == Result::kOut || kOf == Result::kGradV;  // W sums over features, else over columns of v
  extern __shared__ __align__(128) char shared[];
  __shared__ float factors[kKeys ? 2 : 1][kSide], deltas[kKeys ? 2 : 1][kSide];  // of a chunk's queries
  __shared__ float x_shifts[kFeatures ? kSide : 1], y_shifts[kSide];
  __shared__ Vector<E> z_vectors[kOf == Result::kOut ? 2 : 1];
  __shared__ float zs[kSide];  // z (r) of a step's features, or of those of the result
  const int columns = kFeatures ? p.width : p.features, summed = kFeatures ? p.features : p.width;
  const int tiles = max((columns + kSide - 1) / kSide, 1), heads = kKeys ? p.kv_heads : p.heads;
  const int column = static_cast<int>(blockIdx.x) % tiles * kSide, at = static_cast<int>(blockIdx.x) / tiles;
  const int b = at % (p.batch * heads) / heads, head = at % heads, chunk = first_chunk + at / (p.batch * heads);
  const int g = kKeys ? head : head / p.group;
  const int query_at = chunk * kSide - (p.causal ? p.offset : 0), key_at = chunk * kSide;
  const int own_at = kKeys ? key_at : query_at, other_at = kKeys ? query_at : key_at, tokens = kKeys ? p.keys : p.queries;
  const int other_tokens = kKeys ? p.queries : p.keys;
  const bool with_state = !p.causal || (kKeys ? chunk < p.chunks - 1 : chunk > 0);
  const int64_t state_at = int64_t{b * p.kv_heads + g} * (p.causal ? p.chunks : 1) + (p.causal ? max(chunk, 0) : 0);
  const int lane = threadIdx.x % 32, t = lane % 4, row = static_cast<int>(threadIdx.x) / 32 * 16, own_row = row + lane / 4;
  const auto begin_z = [&](int feature) {
    if (threadIdx.x >= kSide) return;
    feature += static_cast<int>(threadIdx.x);
    copy_number(zs[threadIdx.x], p.totals, state_at * p.features + feature, with_state && feature < p.features);
  };
  const auto begin_factors = [&](int buffer, int h) {
    if (threadIdx.x >= kSide) return;
    const int query = query_at + static_cast<int>(threadIdx.x);
    const bool inside = query >= 0 && query < p.queries;
    copy_number(factors[buffer][threadIdx.x], p.factors, p.first_factor(b, h) + query, inside);
    if (!kFeatures) copy_number(deltas[buffer][threadIdx.x], p.deltas, p.first_factor(b, h) + query, inside);
  };
  float sums[kSide / 8][4] = {}, weights[kSide / 8][4] = {}, totals[4] = {}, total[2] = {};

  // Item i: of one head, step s of W's sum (the own tile, the other, and the state's), and, after the last, what W is multiplied
  // with, in the state's place. Two items are in shared memory.
  const int steps = (summed + kSide - 1) / kSide, of_head = steps + (p.causal ? 1 : 0);
  const int items = p.causal ? (kKeys ? p.group : 1) * of_head : of_head;
  const auto head_of = [&](int i) { return kKeys ? g * p.group + i / of_head : head; };
  const auto tile_of = [&](int i, int n) { return shared + (i % 2 * 3 + n) * kTileBytes<T>; };
  const auto other_rows = [&](int h) { return kKeys ? FeatureRows<T>(p, true, b, h) : FeatureRows<T>(p, false, b, g); };
  const FeatureRows<T> own(p, !kKeys, b, head);
  FeatureLoader<T> x{x_shifts, 0.f}, y{y_shifts, 0.f};
  TileLoad<E, T> x_load, y_load;  // x_load also of the last item's
  if (kFeatures) x.begin(own, own_at);
  const auto begin = [&](int i) {
    const int h = head_of(i), step = i % of_head, from = step * kSide;
    if (step == steps) {
      if constexpr (kOf == Result::kOut) x_load.begin(tile_of(i, 2), values_of(p, b, g), key_at, column);
      else if constexpr (kOf == Result::kGradV) x_load.begin(tile_of(i, 2), grads_of(p, b, h), query_at, column);
      else x_load.begin(tile_of(i, 2), other_rows(h).rows, other_at, column);
      if constexpr (kKeys) begin_factors(i / of_head % 2, h);
    } else {
      if constexpr (kFeatures) {
        x_load.begin(tile_of(i, 0), own.rows, own_at, from);
        if (p.causal) y_load.begin(tile_of(i, 1), other_rows(h).rows, other_at, from);
      } else {
        const Rows<T> values = values_of(p, b, g), grads = grads_of(p, b, h);
        x_load.begin(tile_of(i, 0), kKeys ? values : grads, own_at, from);
        if (p.causal) y_load.begin(tile_of(i, 1), kKeys ? grads : values, other_at, from);
      }
      if (with_state && i < of_head) {
        if constexpr (kOf == Result::kOut) begin_z(from);
        const Rows<E> state = {state_of(p, state_at), state_pitch(p.width), p.features, p.width, true};
        TileLoad<E, E>().begin(tile_of(i, 2), state, kFeatures ? from : column, kFeatures ? column : from);
      }
    }
    commit_copies();
    if (step == 0 && p.causal) y.begin(other_rows(h), other_at);
  };
  if constexpr (kOf == Result::kGradQ) begin_factors(0, head);
  if constexpr (!kFeatures) begin_z(column);
  if (items > 0) begin(0);
#pragma unroll 1
  for (int i = 0; i < items; ++i) {
    const int step = i % of_head, from = step * kSide;
    wait_copies<0>();
    if (step == steps) {
      x_load.finish(tile_of(i, 2), kFeatures ? p.width_packs : p.feature_packs);
      if constexpr (!kFeatures) y.map(p, tile_of(i, 2), other_at, other_tokens, column);
    } else {
      x_load.finish(tile_of(i, 0), kFeatures ? p.feature_packs : p.width_packs);
      if (p.causal) y_load.finish(tile_of(i, 1), kFeatures ? p.feature_packs : p.width_packs);
      if (kOf == Result::kOut && with_state && threadIdx.x < kSide) z_vectors[i % 2].put(threadIdx.x, zs[threadIdx.x]);
      if constexpr (kFeatures) {
        x.map(p, tile_of(i, 0), own_at, tokens, from);
        if (p.causal) y.map(p, tile_of(i, 1), other_at, other_tokens, from);
      }
    }
    __syncthreads();
    if (i + 1 < items) begin(i + 1);
    if (step == 0) {
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n) weights[n][0] = weights[n][1] = weights[n][2] = weights[n][3] = 0;
    }
    const uint32_t last_tile = shared_address(tile_of(i, 2));
    if (step < steps) {
      const AlongRows<E> left(shared_address(tile_of(i, 0)), row);
      if (p.causal) add_product<T, false>(weights, left, shared_address(tile_of(i, 1)));
      if (with_state && i < of_head) {
        if constexpr (kOf == Result::kOut) {
          add_product<T, true>(sums, left, last_tile, totals, z_vectors[i % 2]);
        } else {
          add_product<T, kFeatures>(sums, left, last_tile);
        }
      }
      continue;
    }
    const int buffer = kKeys ? i / of_head % 2 : 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int l = own_row + 8 * h;
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int other = 8 * n + 2 * t + k;
          float& w = weights[n][2 * h + k];
          if constexpr (!kFeatures) w += deltas[buffer][kKeys ? other : l];
          if constexpr (kKeys) w *= factors[buffer][other];
          if (kKeys ? other < l : other > l) w = 0;
          if constexpr (kOf == Result::kOut) {
            // As they will be multiplied: what rounding does cancels in the quotient.
            if constexpr (sizeof(E) == 2) w = rounded<E>(w);
            total[h] += w;
          }
        }
      }
    }
    char* const own_tile = tile_of(i, 0);  // this item's is not in use
    put_rows<E>(weights, own_tile, row);
    add_product<T, true>(sums, AlongRows<E>(shared_address(own_tile), row), last_tile);
  }
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  if constexpr (kOf == Result::kOut) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float norm = quad_sum(total[h]) + vector_sum(totals, h), factor = norm != 0 ? 1 / norm : 0.f;
      const int token = own_at + own_row + 8 * h;
      if (column == 0 && t == 0 && own.rows.has(token)) p.norm_out[(int64_t{b} * p.queries + token) * p.heads + head] = norm;
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n) {
        sums[n][2 * h] *= factor;
        sums[n][2 * h + 1] *= factor;
      }
    }
  } else if constexpr (!kFeatures) {
    // What of the state's product is not in the product itself, and the factor of a query's row.
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int l = own_row + 8 * h;
      const float delta = kKeys ? 1.f : deltas[0][l], factor = kKeys ? 1.f : factors[0][l];
#pragma unroll
      for (int n = 0; n < kSide / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& sum = sums[n][2 * h + i];
          sum = factor * (sum + delta * zs[8 * n + 2 * t + i]);
        }
      }
    }
    if (p.map != kNone) {
      char* const xs = tile_of(0, 0);
      TileLoad<T, T>().begin(xs, own.rows, own_at, column);
      commit_copies();
      wait_copies<0>();
      __syncthreads();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float shift = own.shift_of(own_at + own_row + 8 * h);
#pragma unroll
        for (int n = 0; n < kSide / 8; ++n) {
          constexpr int kItems = Pack<T>::n;
          const int k = 8 * n + 2 * t;
          const auto pair = *reinterpret_cast<const Piece<T, 2>*>(xs + chunk_at<kRowChunks<T>>(own_row + 8 * h, k / kItems) + k % kItems * sizeof(T));
#pragma unroll
          for (int i = 0; i < 2; ++i) sums[n][2 * h + i] *= p.derivative(widen(pair.at[i]) - shift);
        }
      }
    }
  }
  T* const result = kOf == Result::kOut ? p.result : kOf == Result::kGradQ ? p.grad_q : kOf == Result::kGradK ? p.grad_k : p.grad_v;
  store_rows<T>(sums, tile_of(0, 1), row, result + (int64_t{b} * tokens * heads + head) * columns + column, int64_t{heads} * columns, own_at,
                        tokens, columns - column, kFeatures ? p.width_packs : p.feature_packs);
#endif
}

template <class T, class... Parameters, class... Arguments>
int32_t launch(const KernelArgs* args, void (*kernel)(Parameters...), int64_t blocks, int tiles, const Arguments&... arguments) {
  if (blocks == 0) return kOk;
  const int bytes = tiles * kTileBytes<T>;
  constexpr int kPadding = 128;  // between the small arrays and the tiles
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes + kPadding)) return report(args, code);
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, stream_of(args).stream>>>(arguments...);
  return launched(args);
}
template <bool kQueries, class T>
int32_t launch_states(const KernelArgs* args, const Features<T>& p) {
  const FeatureSegments segments = feature_segments(int64_t{p.batch} * p.kv_heads, p.features, p.width, p.causal ? p.chunks - 1 : up(kQueries ? p.queries : p.keys, kSide));
  if (segments.count > 1) {  // the causal rule needs no sum of the last one
    const int64_t blocks = int64_t{segments.blocks} * (segments.count - (p.causal ? 1 : 0));
    if (const int32_t code = launch<T>(args, feature_mma_states<T, kQueries, true>, blocks, kStateTiles, p, segments)) return code;
  }
  return launch<T>(args, feature_mma_states<T, kQueries, false>, int64_t{segments.blocks} * (p.causal ? segments.count : 1), kStateTiles, p, segments);
}

}  // namespace

template <class T>
int32_t features_on_tensor_cores(const KernelArgs* args, const Features<T>& p) {
  if (const int32_t code = launch_states<false>(args, p)) return code;
  int64_t chunks = 0;
  const int first = first_chunk(p, &chunks);
  return launch<T>(args, feature_mma_rows<T, Result::kOut>, chunks * p.batch * p.heads * (p.width ? up(p.width, kSide) : 1), kRowTiles, p, first);
}

// The states of keys give dq, then those of queries take their place.
template <class T>
int32_t features_backward_on_tensor_cores(const KernelArgs* args, const Features<T>& p) {
  int64_t chunks = 0;
  const int first = first_chunk(p, &chunks);
  const int64_t keys = up(p.keys, kSide) * p.batch * p.kv_heads;
  if (const int32_t code = launch_states<false>(args, p)) return code;
  if (const int32_t code = launch<T>(args, feature_mma_rows<T, Result::kGradQ>, chunks * p.batch * p.heads * up(p.features, kSide), kRowTiles, p, first)) return code;
  if (const int32_t code = launch_states<true>(args, p)) return code;
  if (const int32_t code = launch<T>(args, feature_mma_rows<T, Result::kGradK>, keys * up(p.features, kSide), kRowTiles, p, 0)) return code;
  return launch<T>(args, feature_mma_rows<T, Result::kGradV>, keys * up(p.width, kSide), kRowTiles, p, 0);
}

#define LF_INSTANTIATE(T)                                                             \
  template int32_t features_on_tensor_cores(const KernelArgs*, const Features<T>&);   \
  template int32_t features_backward_on_tensor_cores(const KernelArgs*, const Features<T>&);
LF_INSTANTIATE(float)
LF_INSTANTIATE(__half)
LF_INSTANTIATE(__nv_bfloat16)
#undef LF_INSTANTIATE

}  // namespace lf::cuda
