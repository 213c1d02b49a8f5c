// Products of tiles on tensor cores, for attention_forward.cu and attention_backward.cu (sm_80 and later).
// A tile is rows of D elements in shared memory, its 16-byte chunks swizzled: chunk c of row r lies at c ^ (r % 8) (rows of
// 64 bytes: c ^ (r / 2 % 4)), so that eight rows' equal chunks, which ldmatrix reads together, lie in different banks.
// A warp owns 16 rows of a product. Its accumulators have the layout of mma's C: lane 4 g + t holds columns 2 t and 2 t + 1
// of every 8, of rows g (elements 0, 1) and g + 8 (elements 2, 3); this is also the layout of the next product's left side.
// f32 is computed with three TF32 products (Ootomo and Yokota, arXiv 2203.03341): x = big + small, each with 11 bits;
// big * big is added up apart from small * big + big * small, and block by block, as tensor cores round sums towards zero.
#pragma once
#include "cuda/attention.cuh"

namespace lf::cuda {

constexpr int kMmaRows = 64;  // rows of the tile that a block owns, 16 a warp
constexpr int kMmaThreads = 128;

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

// Rows [first, first + kRows) of x into a tile, zeros beyond row `end` and column `width`. Asynchronous where rows are made
// of whole, aligned chunks.
template <int kRows, int kChunks, class T>
__device__ __forceinline__ void load_tile(char* tile, const T* x, int64_t stride, int first, int end, int width, bool aligned) {
  constexpr int kItems = Pack<T>::n;
  if (aligned) {
    const uint32_t base = shared_address(tile);
#pragma unroll
    for (int i = 0; i < (kRows * kChunks + kMmaThreads - 1) / kMmaThreads; ++i) {
      const int at = static_cast<int>(threadIdx.x) + i * kMmaThreads, row = at / kChunks, chunk = at % kChunks;
      if (kRows * kChunks % kMmaThreads && at >= kRows * kChunks) break;
      const bool inside = first + row < end && chunk * kItems < width;
      const T* from = inside ? x + (first + row) * stride + chunk * kItems : x;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(base + chunk_at<kChunks>(row, chunk)), "l"(from),
                   "r"(inside ? 16 : 0)
                   : "memory");
    }
  } else {
#pragma unroll 1
    for (int at = threadIdx.x; at < kRows * kChunks; at += kMmaThreads) {
      const int row = at / kChunks, chunk = at % kChunks;
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

// c = x y^T for a warp's 16 rows of x, from `x_row` on, and all kN rows of y.
template <class T, int kChunks, int kN>
__device__ __forceinline__ void product_nt(float (&c)[kN / 8][4], uint32_t x, int x_row, uint32_t y) {
  const int lane = threadIdx.x % 32;
  const int a_row = x_row + lane % 16, a_chunk = lane / 16;
  const int b_row = lane % 8 + lane / 16 * 8, b_chunk = lane / 8 % 2;
#pragma unroll
  for (int n = 0; n < kN / 8; ++n) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int k = 0; k < kChunks; k += 2) {
      uint32_t a[4];
      load_matrices(a, x + chunk_at<kChunks>(a_row, k + a_chunk));
#pragma unroll
      for (int n = 0; n < kN; n += 16) {
        uint32_t b[4];
        load_matrices(b, y + chunk_at<kChunks>(n + b_row, k + b_chunk));
        mma<T>(c[n / 8], a, b[0], b[1]);
        mma<T>(c[n / 8 + 1], a, b[2], b[3]);
      }
    }
  } else {
    float low[kN / 8][4] = {};
#pragma unroll 4
    for (int k = 0; k < kChunks; k += 2) {
      uint32_t a[4], big[4], small[4];
      load_matrices(a, x + chunk_at<kChunks>(a_row, k + a_chunk));
#pragma unroll
      for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(a[i]), big[i], small[i]);
#pragma unroll
      for (int n = 0; n < kN; n += 16) {
        uint32_t b[4], b_big[4], b_small[4];
        load_matrices(b, y + chunk_at<kChunks>(n + b_row, k + b_chunk));
#pragma unroll
        for (int i = 0; i < 4; ++i) split_tf32(__uint_as_float(b[i]), b_big[i], b_small[i]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma<T>(low[n / 8 + i], small, b_big[2 * i], b_big[2 * i + 1]);
          mma<T>(low[n / 8 + i], big, b_small[2 * i], b_small[2 * i + 1]);
          mma<T>(c[n / 8 + i], big, b_big[2 * i], b_big[2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[n][i] += low[n][i];
    }
  }
}

// c += p y for a warp's 16 rows of p, in registers, the kN rows of y and kColumns of its columns, from chunk `first` on.
template <class T, int kChunks, int kN, int kColumns>
__device__ __forceinline__ void product_nn(float (&c)[kColumns / 8][4], const float (&p)[kN / 8][4], const char* tile, int first) {
  const int lane = threadIdx.x % 32;
  if constexpr (sizeof(T) == 2) {
    const uint32_t y = shared_address(tile);
#pragma unroll
    for (int k = 0; k < kN; k += 16) {
      const float(&left)[4] = p[k / 8];
      const float(&right)[4] = p[k / 8 + 1];
      const uint32_t a[4] = {pack_pair<T>(left[0], left[1]), pack_pair<T>(left[2], left[3]), pack_pair<T>(right[0], right[1]),
                             pack_pair<T>(right[2], right[3])};
#pragma unroll
      for (int n = 0; n < kColumns; n += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, y + chunk_at<kChunks>(k + lane % 16, first + n / 8 + lane / 16));
        mma<T>(c[n / 8], a, b[0], b[1]);
        mma<T>(c[n / 8 + 1], a, b[2], b[3]);
      }
    }
  } else {
    // Column 2 t of p stands at the product's index t, column 2 t + 1 at t + 4; the rows of y are read to match.
    uint32_t big[kN / 8][4], small[kN / 8][4];
#pragma unroll
    for (int k = 0; k < kN / 8; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) split_tf32(p[k][i == 1 ? 2 : i == 2 ? 1 : i], big[k][i], small[k][i]);
    }
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      float high[4] = {}, low[4] = {};
#pragma unroll
      for (int k = 0; k < kN / 8; ++k) {
        uint32_t b_big[2], b_small[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = chunk_at<kChunks>(8 * k + 2 * t + i, first + 2 * n + g / 4) + g % 4 * 4;
          split_tf32(*reinterpret_cast<const float*>(tile + at), b_big[i], b_small[i]);
        }
        mma<T>(low, small[k], b_big[0], b_big[1]);
        mma<T>(low, big[k], b_small[0], b_small[1]);
        mma<T>(high, big[k], b_big[0], b_big[1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) c[n][i] += high[i] + low[i];
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

// Exponentials: 16-bit formats keep scores in units of log 2, where one instruction does it; f32 takes the accurate one.
template <class T>
constexpr float kScoreUnit = sizeof(T) == 2 ? 1.4426950408889634f : 1.f;
template <class T>
__device__ __forceinline__ float score_exp(float x) {
  if constexpr (sizeof(T) == 4) return expf(x);
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
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
  const PhiloxKey random_key = p.random_key();
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

// Shared memory of a block: two tiles of 64 rows that stay (forward: one), and kStages times two tiles that pass by.
template <class T, int D>
struct MmaSizes {
  static constexpr int kRowBytes = D * static_cast<int>(sizeof(T)), kChunks = kRowBytes / 16;
  static constexpr int kForwardKeys = kRowBytes == 1024 ? 16 : kRowBytes == 512 || sizeof(T) == 4 ? 32 : 64;
  static constexpr int kForwardStages = kRowBytes <= 512 ? 2 : 1;
  static constexpr int kForwardBytes = kMmaRows * kRowBytes + kForwardStages * 2 * kForwardKeys * kRowBytes;
  static constexpr int kPassing = kRowBytes <= 128 && sizeof(T) == 2 ? 64 : kRowBytes <= 256 ? 32 : 16;
  static constexpr int kBackwardStages = kRowBytes <= 512 ? 2 : 1;
  static constexpr int kStageBytes = 2 * kPassing * kRowBytes + 2 * kPassing * 4;  // and two statistics a query
  static constexpr int kBackwardBytes = 2 * kMmaRows * kRowBytes + kBackwardStages * kStageBytes;
};

// Calls body(integral constant) with the smallest tile width that holds `width`.
template <class F>
int32_t dispatch_width(int width, F&& body) {
  if (width <= 32) return body(std::integral_constant<int, 32>{});
  if (width <= 64) return body(std::integral_constant<int, 64>{});
  if (width <= 128) return body(std::integral_constant<int, 128>{});
  return body(std::integral_constant<int, 256>{});
}

// Raises the limit of a kernel's shared memory and launches it.
template <class... Parameters, class... Arguments>
int32_t launch_mma(const KernelArgs* args, void (*kernel)(Parameters...), int64_t blocks, int bytes, const Arguments&... arguments) {
  if (blocks == 0) return kOk;
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return report(args, code);
  kernel<<<static_cast<unsigned>(blocks), kMmaThreads, bytes, stream_of(args).stream>>>(arguments...);
  return launched(args);
}

}  // namespace lf::cuda
