// Products of tiles on tensor cores, for attention_forward.cu and attention_backward.cu (sm_80 and later).
// A tile is rows of D elements in shared memory, its 16-byte chunks swizzled: chunk c of row r lies at c ^ (r % 8) (rows of
// 64 bytes: c ^ (r / 2 % 4)), so that eight rows' equal chunks, which ldmatrix reads together, lie in different banks.
// A warp owns kM times 16 rows of a product: what is read of the other side once is multiplied with all of them. Accumulators
// have the layout of mma's C: lane 4 g + t holds columns 2 t and 2 t + 1 of every 8, of rows g (elements 0, 1) and g + 8
// (elements 2, 3); this is also the layout of the next product's left side.
// f32 is computed with three TF32 products (Ootomo and Yokota, arXiv 2203.03341): x = big + small, each with 11 bits;
// big * big is added up apart from small * big + big * small, and block by block, as tensor cores round sums towards zero.
#pragma once
#include "cuda/attention.cuh"

namespace lf::cuda {

// How a kernel is cut: warps of a block and, for each, the groups of 16 rows that it owns; rows of the passing tiles, how many
// of them a warp multiplies at once, and how many tiles are in shared memory; whether the left sides of the products with
// them stay in registers; blocks that fit a multiprocessor, for which the compiler limits the registers.
template <int kWarpsGiven, int kGroups, int kPassingRows, int kPartRows, int kStagesGiven, bool kHeld, int kBlocksGiven>
struct MmaShape {
  static constexpr int kWarps = kWarpsGiven, kThreads = 32 * kWarps, kM = kGroups, kWarpRows = 16 * kM, kOwn = kWarps * kWarpRows;
  static constexpr int kPassing = kPassingRows, kPart = kPartRows, kStages = kStagesGiven, kBlocks = kBlocksGiven;
  static constexpr bool kHold = kHeld;
};

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Byte offsets in a tile whose rows have kChunks chunks.
template <int kChunks>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  static_assert(kChunks == 4 || kChunks % 8 == 0);
  return row * kChunks * 16 + ((kChunks == 4 ? chunk ^ (row >> 1 & 3) : chunk ^ (row & 7)) << 4);
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// A number that the compiler takes for another one each time: what is computed from it in a rare branch is computed there, and
// not held in registers through the loops around; and what it is itself is not computed again where it is used.
template <class I>
__device__ __forceinline__ I reread(I x) {
  if constexpr (sizeof(I) == 8) asm volatile("" : "+l"(x));
  else asm volatile("" : "+r"(x));
  return x;
}

// What a thread copies of tiles: the same 16 bytes of every kTurnRows-th row, from `from` elements on, to `to` bytes on.
template <class T, int kThreads, int kChunks>
struct TileCopy {
  static constexpr int kItems = Pack<T>::n, kTurnRows = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0);
  int64_t stride;
  uint32_t from;
  uint32_t to;  // to_of_lane(), once for all copies of a kernel

  __device__ __forceinline__ TileCopy(int64_t stride, uint32_t to) : stride(stride), from(row() * static_cast<uint32_t>(stride) + chunk() * kItems), to(to) {}
  __device__ __forceinline__ static uint32_t to_of_lane() { return chunk_at<kChunks>(row(), chunk()); }
  __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) / kChunks; }
  __device__ __forceinline__ static int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }

  // Bytes from the thread's first chunk to the one `turns` later.
  __device__ __forceinline__ static int below(int turns) {
    if (kTurnRows % 8 == 0) return turns * kTurnRows * kChunks * 16;
    return chunk_at<kChunks>(row() + turns * kTurnRows, chunk()) - chunk_at<kChunks>(row(), chunk());
  }

  // Rows [first, first + kRows) of x into a tile, zeros beyond row `end` and column `width`. Asynchronous where rows are made
  // of whole, aligned chunks.
  template <int kRows>
  __device__ __forceinline__ void load(char* tile, const T* x, int first, int end, int width, bool aligned) const {
    constexpr int kTurns = (kRows + kTurnRows - 1) / kTurnRows;
    if (aligned) {
      const uint32_t base = shared_address(tile) + to;
      const T* at = x + first * stride + from;
      if (first + kRows <= end && width == kChunks * kItems) {
#pragma unroll(kTurnRows < 4 ? 2 : kTurns)
        for (int i = 0; i < kTurns; ++i) {
          if (kRows % kTurnRows && row() + i * kTurnRows >= kRows) break;
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(base + below(i)), "l"(at) : "memory");
          at += kTurnRows * stride;
        }
        return;
      }
      const int rows = chunk() * kItems < width ? end - first - row() : 0;
#pragma unroll 1
      for (int i = 0; i < kTurns; ++i) {
        if (kRows % kTurnRows && row() + i * kTurnRows >= kRows) break;
        const bool inside = i * kTurnRows < rows;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(base + below(i)), "l"(inside ? at : x), "r"(inside ? 16 : 0)
                     : "memory");
        at += kTurnRows * stride;
      }
    } else {
#pragma unroll 1
      for (int item = threadIdx.x; item < kRows * kChunks; item += kThreads) {
        const int row = item / kChunks, chunk = item % kChunks;
        Pack<T> pack;
#pragma unroll
        for (int k = 0; k < kItems; ++k) {
          const bool inside = first + row < end && chunk * kItems + k < width;
          pack.at[k] = inside ? x[(first + row) * stride + chunk * kItems + k] : T(0.f);
        }
        store_pack(reinterpret_cast<T*>(tile + chunk_at<kChunks>(row, chunk)), pack);
      }
    }
  }
};

// One number of each of a tile's rows, zeros beyond row `end`.
template <int kRows>
__device__ __forceinline__ void load_statistics(float* to, const float* x, int first, int end) {
  if (threadIdx.x >= kRows) return;
  const int at = first + static_cast<int>(threadIdx.x);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to + threadIdx.x)), "l"(at < end ? x + at : x),
               "r"(at < end ? 4 : 0)
               : "memory");
}

// Where a step begins: its tile is there, and load(step) is asked for a later one, to where the last step's was.
template <int kStages, class Load>
__device__ __forceinline__ void next_tile(int step, Load&& load) {
  if constexpr (kStages == 1) {
    if (step) __syncthreads();
    load(step);
    wait_copies<0>();
  } else {
    wait_copies<kStages - 2>();
  }
  __syncthreads();
  if constexpr (kStages > 1) load(step + kStages - 1);
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

#define LF_MMA(shape_and_types)                                                                              \
  asm volatile("mma.sync.aligned." shape_and_types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, __half>) LF_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) LF_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  else LF_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef LF_MMA

template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// x = big + small, in TF32's 11 bits each.
__device__ __forceinline__ void split_tf32(float x, uint32_t& big, uint32_t& small) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(big) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(small) : "f"(x - __uint_as_float(big)));
}

// Where a lane reads the left sides of products, 16 rows of a tile.
template <int kChunks>
__device__ __forceinline__ uint32_t left_lane(int row) {
  return reread(chunk_at<kChunks>(row + static_cast<int>(threadIdx.x) % 16, static_cast<int>(threadIdx.x) % 32 / 16));
}

// The left side of a product: a warp's kM times 16 rows of a tile, read as they are needed or, with kHold, once.
// In a tile, two chunks further on is an exclusive or, eight rows further down an addition.
template <int kChunks, int kM, bool kHold>
struct LeftSide {
  static constexpr int kGroupBytes = 16 * kChunks * 16;
  uint32_t tile, offset;
  uint32_t held[kHold ? kChunks / 2 : 1][kHold ? kM : 1][4];

  // `offset` is the lane's, left_lane<kChunks>(row) with the warp's first row.
  __device__ __forceinline__ LeftSide(uint32_t tile, uint32_t offset) : tile(tile), offset(offset) {}
  // Once the tile is there.
  __device__ __forceinline__ void hold() {
    if constexpr (kHold) {
#pragma unroll
      for (int k = 0; k < kChunks / 2; ++k) {
#pragma unroll
        for (int m = 0; m < kM; ++m) load_matrices(held[k][m], tile + (offset ^ k << 5) + m * kGroupBytes);
      }
    }
  }
  // The 16 rows m of chunks k and k + 1.
  __device__ __forceinline__ void get(uint32_t (&a)[4], int m, int k) const {
    if constexpr (kHold) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = held[k / 2][m][i];
    } else {
      load_matrices(a, tile + (offset ^ k << 4) + m * kGroupBytes);
    }
  }
};

// Where a lane reads the right sides of products: rows of a tile for x y^T, columns for p y.
template <int kChunks>
struct RightLane {
  uint32_t nt, nn;
  __device__ __forceinline__ explicit RightLane(int chunk = 0)
      : nt(reread(chunk_at<kChunks>(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2))), nn(reread(chunk_at<kChunks>(lane() % 16, chunk + lane() / 16))) {}
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
};

// c = x y^T for a warp's rows of x and kN rows of y from `first` on.
template <class T, int kChunks, int kM, int kN, class Left>
__device__ __forceinline__ void product_nt(float (&c)[kM][kN / 8][4], const Left& x, uint32_t y, RightLane<kChunks> right, int first) {
  const uint32_t offset = right.nt;
  y += first * kChunks * 16;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
  }
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int k = 0; k < kChunks; k += 2) {
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) x.get(a[m], m, k);
#pragma unroll
      for (int n = 0; n < kN; n += 16) {
        uint32_t b[4];
        load_matrices(b, y + (offset ^ k << 4) + n * kChunks * 16);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            mma<T>(c[m][n / 8 + i], a[m], b[2 * i], b[2 * i + 1]);
          }
        }
      }
    }
  } else {
    static_assert(kM == 1);
    float low[kN / 8][4] = {};
#pragma unroll(kChunks == 64 ? 2 : 4)
    for (int k = 0; k < kChunks; k += 2) {
      uint32_t a[4], big[4], small[4];
      x.get(a, 0, k);
#pragma unroll
      for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(a[i]), big[i], small[i]);
#pragma unroll
      for (int n = 0; n < kN; n += 16) {
        uint32_t b[4], b_big[4], b_small[4];
        load_matrices(b, y + (offset ^ k << 4) + n * kChunks * 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(b[i]), b_big[i], b_small[i]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma<T>(low[n / 8 + i], small, b_big[2 * i], b_big[2 * i + 1]);
          mma<T>(low[n / 8 + i], big, b_small[2 * i], b_small[2 * i + 1]);
          mma<T>(c[0][n / 8 + i], big, b_big[2 * i], b_big[2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[0][n][i] += low[n][i];
    }
  }
}

// c += p y for a warp's rows of p, in registers, kN rows of y from `first` on, and kColumns of its columns, from chunk `chunk` on.
template <class T, int kChunks, int kM, int kN, int kColumns>
__device__ __forceinline__ void product_nn(float (&c)[kM][kColumns / 8][4], const float (&p)[kM][kN / 8][4], const char* tile,
                                           RightLane<kChunks> right, int first, int chunk) {
  tile += first * kChunks * 16;
  if constexpr (sizeof(T) == 2) {
    const uint32_t y = shared_address(tile), offset = right.nn;
#pragma unroll
    for (int k = 0; k < kN; k += 16) {
      uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[m][i] = pack_pair<T>(p[m][k / 8 + i / 2][i % 2 * 2], p[m][k / 8 + i / 2][i % 2 * 2 + 1]);
      }
#pragma unroll
      for (int n = 0; n < kColumns; n += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, y + (offset ^ n << 1) + k * kChunks * 16);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          mma<T>(c[m][n / 8], a[m], b[0], b[1]);
          mma<T>(c[m][n / 8 + 1], a[m], b[2], b[3]);
        }
      }
    }
  } else {
    static_assert(kM == 1);
    // Column 2 t of p stands at the product's index t, column 2 t + 1 at t + 4; the rows of y are read to match.
    uint32_t big[kN / 8][4], small[kN / 8][4];
#pragma unroll
    for (int k = 0; k < kN / 8; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) split_tf32(p[0][k][i == 1 ? 2 : i == 2 ? 1 : i], big[k][i], small[k][i]);
    }
    // Of wide rows, a lane's 64 places in a tile are not held.
    const int lane = kChunks == 32 ? right.lane() : reread(right.lane()), g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      float high[4] = {}, low[4] = {};
#pragma unroll
      for (int k = 0; k < kN / 8; ++k) {
        uint32_t b_big[2], b_small[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = chunk_at<kChunks>(8 * k + 2 * t + i, chunk + 2 * n + g / 4) + g % 4 * 4;
          split_tf32(*reinterpret_cast<const float*>(tile + at), b_big[i], b_small[i]);
        }
        mma<T>(low, small[k], b_big[0], b_big[1]);
        mma<T>(low, big[k], b_small[0], b_small[1]);
        mma<T>(high, big[k], b_big[0], b_big[1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) c[0][n][i] += high[i] + low[i];
    }
  }
}

// A warp's 16 rows of sums, times `factor` of each row, to rows [first + row, ...) of `out`: through the warp's own rows of
// a tile that nobody else reads, so that memory sees whole chunks. Columns [8 * first chunk..) of kColumns.
template <class T, int kChunks, int kColumns>
__device__ __forceinline__ void store_rows(const float (&c)[kColumns / 8][4], float factor0, float factor1, char* tile, int row,
                                           int column, T* out, int64_t stride, int first, int end, int width, bool aligned) {
  constexpr int kItems = Pack<T>::n, kOwn = kColumns / kItems;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, chunk0 = column / kItems;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float factor = h ? factor1 : factor0, x = c[n][2 * h] * factor, y = c[n][2 * h + 1] * factor;
      if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<uint32_t*>(tile + chunk_at<kChunks>(row + g + 8 * h, chunk0 + n) + 4 * t) = pack_pair<T>(x, y);
      } else {
        *reinterpret_cast<float2*>(tile + chunk_at<kChunks>(row + g + 8 * h, chunk0 + 2 * n + t / 2) + t % 2 * 8) = make_float2(x, y);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * kOwn / 32; ++i) {
    const int at = lane + 32 * i, r = row + at / kOwn, chunk = chunk0 + at % kOwn;
    if (first + r >= end || chunk * kItems >= width) continue;
    const char* from = tile + chunk_at<kChunks>(r, chunk);
    T* to = out + (first + r) * stride + chunk * kItems;
    if (aligned) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    } else {
#pragma unroll 1
      for (int k = 0; k < kItems && chunk * kItems + k < width; ++k) to[k] = reinterpret_cast<const T*>(from)[k];
    }
  }
}

// In units of kScoreUnit; f32 takes the accurate one.
template <class T>
__device__ __forceinline__ float score_exp(float x) {
  if constexpr (sizeof(T) == 4) return expf(x);
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Scores are kept as products until they go into an exponential: times score_scale they are in units of kScoreUnit. A slope or a
// negative scale changes them first.
template <class T>
__device__ __forceinline__ float score_scale(const AttentionProblem& p) {
  return fabsf(static_cast<float>(p.scale)) * kScoreUnit<T>;
}
// The columns of a product that a warp's rows see: any of them [begin, end), all of them [all_begin, all_end).
struct WarpSpan {
  int begin, all_begin, all_end, end;
  __device__ bool hidden(int column, int count) const { return column >= end || column + count <= begin; }
  __device__ bool whole(int column, int count) const { return column >= all_begin && column + count <= all_end; }
};
__device__ __forceinline__ WarpSpan span_of_queries(const AttentionProblem& p, int first, int rows) {
  if (first >= p.queries) return {0, 0, 0, 0};
  const int last = min(first + rows, p.queries) - 1;
  return {p.first_key(first), p.first_key(last), p.end_key(first), p.end_key(last)};
}
__device__ __forceinline__ WarpSpan span_of_keys(const AttentionProblem& p, int first, int rows) {
  if (first >= p.kv_length) return {0, 0, 0, 0};
  const int last = min(first + rows, p.kv_length) - 1;
  return {p.first_query(first), first + rows > p.kv_length ? INT_MAX : p.first_query(last), p.end_query(first + 1), p.end_query(last + 1)};
}

// Elements of a 16 x kN product whose columns are not in their row's span become -inf. Rows are queries or keys.
template <int kN, bool kKeysAreRows>
__device__ __forceinline__ void hide_outside(const AttentionProblem& p, int row, int column, float (&c)[kN / 8][4]) {
  const int lane = threadIdx.x % 32, at = column + lane % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const WarpSpan span = kKeysAreRows ? span_of_keys(p, row + lane / 4 + 8 * h, 1) : span_of_queries(p, row + lane / 4 + 8 * h, 1);
    const int shift = at - span.begin;
    const auto count = static_cast<uint32_t>(max(0, span.end - span.begin));
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (static_cast<uint32_t>(n * 8 + i + shift) >= count) c[n][2 * h + i] = -INFINITY;
      }
    }
  }
}

// Which of a thread's elements of a 16 x kN product a rule holds for: bit 4 n + i for element [n][i], whose query and key are
// rule(query, key)'s. Rows are queries from `row` and columns keys from `column` on, or the other way round. Not unrolled:
// tiles at edges are few, and code is short this way.
template <int kN, bool kKeysAreRows, class Rule>
__device__ __forceinline__ uint32_t element_bits(int row, int column, Rule&& rule) {
  const int lane = threadIdx.x % 32, r = row + lane / 4, c = column + lane % 4 * 2;
  uint32_t bits = 0;
#pragma unroll 1
  for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = r + i / 2 * 8, second = c + n * 8 + i % 2;
      if (kKeysAreRows ? rule(second, first) : rule(first, second)) bits |= 1u << (4 * n + i);
    }
  }
  return bits;
}

__device__ __forceinline__ uint32_t word_at(const uint32_t (&words)[4], int i) {
  const uint32_t low = i & 1 ? words[1] : words[0], high = i & 1 ? words[3] : words[2];
  return i & 2 ? high : low;
}

// The bits of what dropout keeps. Where rows of scores are made of whole Philox blocks, a lane computes one block of four keys
// for the elements of each 16 x 8 product, and neighbours exchange its words.
template <int kN, bool kKeysAreRows>
__device__ __forceinline__ uint32_t kept_bits(const AttentionProblem& p, int head_index, int row, int column) {
  if (p.keys % 4) {
    return element_bits<kN, kKeysAreRows>(row, column, [&](int query, int key) { return attention_keeps(p, head_index, query, key); });
  }
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  PhiloxKey random_key = p.random_key();
  random_key.key0 = static_cast<uint32_t>(reread(static_cast<int>(random_key.key0)));
  random_key.key1 = static_cast<uint32_t>(reread(static_cast<int>(random_key.key1)));
  uint32_t bits = 0;
#pragma unroll 1
  for (int n = 0; n < kN / 8; ++n) {
    // Rows are queries: lanes t and t ^ 1 have the same four keys; the even one computes row g, the odd one row g + 8.
    // Rows are keys: four lanes have keys of one block; each computes it for one of a thread's four (key + 0 or 8, query).
    const int mine = kKeysAreRows ? g % 4 : t % 2 * 2;
    const int query = kKeysAreRows ? column + n * 8 + 2 * t + mine % 2 : row + g + mine / 2 * 8;
    const int key = kKeysAreRows ? row + g / 4 * 4 + mine / 2 * 8 : column + n * 8 + t / 2 * 4;
    uint32_t words[4];
    philox(random_key, static_cast<uint64_t>(((int64_t{head_index} * p.queries + query) * p.keys + key) / 4), words);
    auto note = [&](uint32_t word, int i) {
      if (philox_uniform(word) >= p.dropout) bits |= 1u << (4 * n + i);
    };
    if (kKeysAreRows) {
      note(word_at(words, mine), mine);
#pragma unroll
      for (int step = 1; step < 4; ++step) note(__shfl_xor_sync(kFullWarp, word_at(words, mine ^ step), 4 * step), mine ^ step);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t other = __shfl_xor_sync(kFullWarp, mine ? words[i] : words[i + 2], 1);
        note(mine ? words[i + 2] : words[i], mine + i);
        note(other, (mine ^ 2) + i);
      }
    }
  }
  return bits;
}

// Whether a layout lists nothing for the warp's rows and these columns.
template <int kM, int kN, class Steps>
__device__ __forceinline__ bool unlisted(const Steps& steps, int step, int own, int part) {
  if (!steps.items) return false;
  bool found = false;
#pragma unroll
  for (int m = 0; m < kM; ++m) found |= steps.template any<kN>(steps.entries(step, own + 16 * m, part));
  return !found;
}

// Before anything is hidden.
template <class T, int kM, int kN, bool kKeysAreRows>
__device__ __forceinline__ void apply_slope(const AttentionProblem& p, int head, int row, int column, float (&c)[kM][kN / 8][4]) {
  const float sign = p.scale < 0 ? -1.f : 1.f, slope = p.slopes ? p.slopes[head] * kScoreUnit<T> / score_scale<T>(p) : 0.f;
  const int lane = threadIdx.x % 32, distance = p.kv_length - p.queries + (kKeysAreRows ? column - row : row - column);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int down = lane / 4 + 16 * m + i / 2 * 8, right = lane % 4 * 2 + n * 8 + i % 2;
        const int from = distance + (kKeysAreRows ? right - down : down - right);
        c[m][n][i] = sign * c[m][n][i] - slope * fabsf(static_cast<float>(from));
      }
    }
  }
}

// What is computed of a part of a tile before its products, while few registers are in use, as bits like element_bits': what
// masks or a layout let the warp's rows see, and what dropout keeps.
template <int kM>
struct PartBits {
  uint32_t seen[kM], keeps[kM];
};
// The rows from `row` on (row `own` of the block's tile), and kN columns from `column` on, which is column `part` of the step's
// tile. `whole`: no edges of what is seen are in it.
template <bool kRules, int kM, int kN, bool kKeysAreRows, class Steps>
__device__ __forceinline__ PartBits<kM> part_bits(const AttentionProblem& p, int batch, int head, const Steps& steps, int step, int own,
                                                  int part, bool whole, int row, int column) {
  PartBits<kM> bits;
#pragma unroll
  for (int m = 0; m < kM; ++m) bits.seen[m] = bits.keeps[m] = ~0u;
  if constexpr (!kRules) return bits;
  if (steps.items) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const int32_t* entries = steps.entries(step, own + 16 * m, part);
      if (whole && steps.template whole<kN>(entries)) continue;
      bits.seen[m] = element_bits<kN, kKeysAreRows>(reread(row) + 16 * m, column, [&](int query, int key) {
        return steps.sees(p, entries[((kKeysAreRows ? query : key) - column) / 16], query, key);
      });
    }
  } else if (p.key_mask || p.segments) {
    const AttentionView<float> sees(p, reread(batch), reread(head));
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      bits.seen[m] = element_bits<kN, kKeysAreRows>(reread(row) + 16 * m, column, [&](int query, int key) { return sees.sees(p, query, key); });
    }
  }
  if (p.dropout > 0) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      bits.keeps[m] = kept_bits<kN, kKeysAreRows>(p, reread(batch * p.heads + head), reread(row) + 16 * m, column);
    }
  }
  return bits;
}

// Slopes, and what is hidden from the warp's rows. To be skipped where the part is whole and there are no rules.
template <bool kRules, class T, int kM, int kN, bool kKeysAreRows>
__device__ __forceinline__ void apply_rules(const AttentionProblem& p, int head, const PartBits<kM>& bits, bool whole, int row, int column,
                                            float (&c)[kM][kN / 8][4]) {
  row = reread(row);
  if constexpr (!kRules) {
#pragma unroll
    for (int m = 0; m < kM; ++m) hide_outside<kN, kKeysAreRows>(p, row + 16 * m, column, c[m]);
    return;
  }
  if (p.slopes || p.scale < 0) apply_slope<T, kM, kN, kKeysAreRows>(p, reread(head), row, column, c);
  const bool by_bits = (kKeysAreRows ? p.by_key : p.by_query).items || p.key_mask || p.segments;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    if (by_bits) {
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!(bits.seen[m] >> (4 * n + i) & 1)) c[m][n][i] = -INFINITY;
        }
      }
    } else if (!whole) {
      hide_outside<kN, kKeysAreRows>(p, row + 16 * m, column, c[m]);
    }
  }
}

template <class T, int D>
constexpr int kRowBytesOf = D * static_cast<int>(sizeof(T));

// The shapes of the three kernels for tiles of D columns: 32 rows a warp where the sums leave registers for it, else 16. As many
// blocks as shared memory and registers leave room for; told so, the compiler spills nothing. Where queries have tiles of 128
// rows, Short shapes of 64 are for sparse layouts, whose blocks a long tile can skip less often.
template <int kBytes, int D>
struct MmaShapes {  // of f32
  static constexpr int kPassing = D <= 64 ? 32 : 16, kStages = D <= 128 ? 2 : 1, kForwardKeys = D <= 128 ? 32 : 16;
  using Forward = MmaShape<4, 1, kForwardKeys, D <= 64 ? kForwardKeys : 16, kStages, false, 1>;
  using GradQ = MmaShape<4, 1, kPassing, kPassing, kStages, false, D <= 64 ? 3 : D <= 128 ? 2 : 1>;
  using GradKv = MmaShape<4, 1, kPassing, kPassing, kStages, false, D <= 128 ? 2 : 1>;
  using ShortForward = Forward;
  using ShortGradQ = GradQ;
};
template <int D>
struct MmaShapes<2, D> {  // up to 64 columns of 16 bits
  using Forward = MmaShape<4, 2, 128, 64, 2, true, 2>;
  using GradQ = MmaShape<4, 2, 64, 32, 2, true, 2>;
  using GradKv = MmaShape<4, 1, 64, 64, 2, true, 2>;
  using ShortForward = MmaShape<4, 1, 64, 64, 2, true, 3>;
  using ShortGradQ = MmaShape<4, 1, 64, 64, 2, true, 2>;
};
template <>
struct MmaShapes<2, 128> {
  using Forward = MmaShape<4, 2, 32, 32, 2, false, 2>;
  using GradQ = MmaShape<4, 1, 32, 32, 2, true, 2>;
  using GradKv = MmaShape<4, 1, 32, 32, 2, false, 2>;
  using ShortForward = MmaShape<4, 1, 32, 32, 2, true, 2>;
  using ShortGradQ = GradQ;
};
template <>
struct MmaShapes<2, 256> {
  using Forward = MmaShape<4, 1, 32, 32, 2, false, 2>;
  using GradQ = MmaShape<4, 1, 16, 16, 2, false, 2>;
  using GradKv = MmaShape<4, 1, 16, 16, 2, false, 2>;
  using ShortForward = Forward;
  using ShortGradQ = GradQ;
};
template <class T, int D, bool kShort = false>
using ForwardShape = std::conditional_t<kShort, typename MmaShapes<sizeof(T), D>::ShortForward, typename MmaShapes<sizeof(T), D>::Forward>;
template <class T, int D, bool kShort = false>
using QueryShape = std::conditional_t<kShort, typename MmaShapes<sizeof(T), D>::ShortGradQ, typename MmaShapes<sizeof(T), D>::GradQ>;
template <class T, int D>
using KeyShape = typename MmaShapes<sizeof(T), D>::GradKv;

template <class T, int D, class Shape = ForwardShape<T, D>>
constexpr int kForwardBytes = (Shape::kOwn + Shape::kStages * 2 * Shape::kPassing) * kRowBytesOf<T, D>;
template <class T, int D, class Shape = QueryShape<T, D>>
constexpr int kQueryBytes = (2 * Shape::kOwn + Shape::kStages * 2 * Shape::kPassing) * kRowBytesOf<T, D>;
template <class T, int D, class Shape = KeyShape<T, D>>
constexpr int kKeyBytes = kQueryBytes<T, D, Shape> + Shape::kStages * 2 * Shape::kPassing * 4;
template <class T, int D>
constexpr int kBackwardBytes = kKeyBytes<T, D> > kQueryBytes<T, D> ? kKeyBytes<T, D> : kQueryBytes<T, D>;

// Calls body(integral constant) with the smallest tile width that holds `width`.
template <class F>
int32_t dispatch_width(int width, F&& body) {
  if (width <= 32) return body(std::integral_constant<int, 32>{});
  if (width <= 64) return body(std::integral_constant<int, 64>{});
  if (width <= 128) return body(std::integral_constant<int, 128>{});
  return body(std::integral_constant<int, 256>{});
}

// Calls body(integral constant) with whether a call needs the kernels with kRules: for what hides or changes single scores other
// than ranges of keys, for dropout, and for rows that are not made of whole chunks of the tile's width. Those without are for
// 16-bit formats, where the loop that is left is short enough for that to matter.
// The second constant: whether tiles of queries are short ones, as those of sparse layouts, where there are such.
template <class T, int D, bool kHasShort, class F>
int32_t with_rules(const AttentionProblem& p, F&& body) {
  if constexpr (sizeof(T) == 2) {
    const bool masked = p.by_query.items || p.key_mask || p.segments || p.slopes;
    if (!masked && p.scale > 0 && p.dropout == 0 && p.aligned && p.width == D) return body(std::false_type{}, std::false_type{});
  }
  if constexpr (kHasShort) {
    if (p.by_query.items) return body(std::true_type{}, std::true_type{});
  }
  return body(std::true_type{}, std::false_type{});
}

// Raises the limit of a kernel's shared memory and launches it.
template <class... Parameters, class... Arguments>
int32_t launch_mma(const KernelArgs* args, void (*kernel)(Parameters...), int64_t blocks, int threads, int bytes,
                   const Arguments&... arguments) {
  if (blocks == 0) return kOk;
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return report(args, code);
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream_of(args).stream>>>(arguments...);
  return launched(args);
}

}  // namespace lf::cuda
