// adamw_8bit, quantize_blocks, dequantize_blocks (native/ops/adamw_8bit.cpp). A warp owns a block of numbers with one scale. It
// goes over them twice: the first time it updates parameters and finds the largest new moments, the second time it makes
// the moments again from what is still in the cache and writes their codes, found in a code book in shared memory. One
// launch for up to 64 parameters, whose addresses go along with the launch. Bound by the searches, 8 steps a code, then by
// bytes; 256 threads a block, 4 to 8 of them a multiprocessor.
#include "api/dynamic_map.h"
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kMost = 64;

struct Books {
  float of[2][kCodes];  // with signs, without
};
const Books& books() {
  static const Books both = [] {
    Books made;
    dynamic_map(true, made.of[0]);
    dynamic_map(false, made.of[1]);
    return made;
  }();
  return both;
}
struct Book {
  float at[kCodes];
};
Book book_of(bool with_sign) {
  Book book;
  for (int i = 0; i < kCodes; ++i) book.at[i] = books().of[with_sign ? 0 : 1][i];
  return book;
}

// As nearest_code of api/dynamic_map.h.
__device__ __forceinline__ uint8_t code_of(const float* book, float x) {
  int low = 0, high = kCodes - 1;
#pragma unroll 1
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (book[middle] <= x) low = middle;
    else high = middle;
  }
  return static_cast<uint8_t>(x - book[low] <= book[high] - x ? low : high);
}

// What the CPU's maximum does: a NaN is never larger.
__device__ __forceinline__ float largest_of(float largest, float x) { return fabsf(x) > largest ? fabsf(x) : largest; }
__device__ __forceinline__ float warp_largest(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

__global__ void __launch_bounds__(kThreads) quantize_kernel(const float* x, uint8_t* codes, float* scales, int64_t n, int64_t block,
                                                            const __grid_constant__ Book book) {
  __shared__ float shared[kCodes];
  for (int i = threadIdx.x; i < kCodes; i += kThreads) shared[i] = book.at[i];
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const int64_t at = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32, begin = at * block;
  if (begin >= n) return;
  const int64_t end = begin + block < n ? begin + block : n;
  float largest = 0;
  for (int64_t i = begin + lane; i < end; i += 32) largest = largest_of(largest, x[i]);
  largest = warp_largest(largest);
  const float inverse = largest > 0 ? 1 / largest : 0;
  for (int64_t i = begin + lane; i < end; i += 32) codes[i] = code_of(shared, x[i] * inverse);
  if (lane == 0) scales[at] = largest;
}

int32_t quantize_blocks(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  if (x.numel == 0) return kOk;
  const int64_t block = args->integer(0), blocks = (x.numel + block - 1) / block;
  quantize_kernel<<<static_cast<unsigned>((blocks + kWarps - 1) / kWarps), kThreads, 0, stream_of(args).stream>>>(
      x.as<const float>(), args->outputs[0].as<uint8_t>(), args->outputs[1].as<float>(), x.numel, block, book_of(args->flag(1)));
  return launched(args);
}

// A thread owns four neighbouring numbers.
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint8_t* codes, const float* scales, float* out, int64_t n, Divisor block, bool aligned,
                      const __grid_constant__ Book book) {
  __shared__ float shared[kCodes];
  for (int i = threadIdx.x; i < kCodes; i += kThreads) shared[i] = book.at[i];
  __syncthreads();
  const auto decoded = [&](int64_t i, uint8_t code) {
    int64_t rest;
    return shared[code] * scales[block.divide(i, rest)];
  };
  for (int64_t i = 4 * (blockIdx.x * int64_t{kThreads} + threadIdx.x); i < n; i += int64_t{gridDim.x} * kThreads * 4) {
    if (aligned && i + 4 <= n) {
      const uchar4 four = *reinterpret_cast<const uchar4*>(codes + i);
      *reinterpret_cast<float4*>(out + i) =
          make_float4(decoded(i, four.x), decoded(i + 1, four.y), decoded(i + 2, four.z), decoded(i + 3, four.w));
    } else {
      for (int64_t k = i; k < n && k < i + 4; ++k) out[k] = decoded(k, codes[k]);
    }
  }
}

int32_t dequantize_blocks(const KernelArgs* args) {
  const TensorView &codes = args->inputs[0], &out = args->outputs[0];
  if (codes.numel == 0) return kOk;
  const bool aligned = aligned16(out.data) && reinterpret_cast<uintptr_t>(codes.data) % 4 == 0;
  dequantize_kernel<<<blocks_for(args, codes.numel, 4 * kThreads), kThreads, 0, stream_of(args).stream>>>(
      codes.as<const uint8_t>(), args->inputs[1].as<const float>(), out.as<float>(), codes.numel, Divisor(args->integer(0)), aligned,
      book_of(args->flag(1)));
  return launched(args);
}

struct Coded {
  float* parameter;
  const float* grad;
  uint8_t *m, *v;
  float *m_scales, *v_scales;
  void* copy;
  int64_t numel;
  int64_t first;  // of its blocks of numbers, in those of the launch
  bool copy_is_bf16;
};
struct Group {
  int32_t count;
  int64_t block, blocks;
  Coded of[kMost];
};
struct Settings {
  Attribute lr, weight_decay, step;
  double beta1, beta2, eps;
  const float* clip;  // multiplier, skip; f64 where wide
  bool wide;
  __device__ double clipped(int i) const { return !clip ? (i ? 0 : 1) : wide ? reinterpret_cast<const double*>(clip)[i] : clip[i]; }
};
struct Numbers {
  float decay, rest1, beta2, rest2, eps, size, root, factor;
};

__device__ __forceinline__ double whole_power(double b, int64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1, b *= b) {
    if (n & 1) power *= b;
  }
  return power;
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const __grid_constant__ Group group, Settings settings, const __grid_constant__ Books books) {
  if (settings.clipped(1) != 0) return;
  __shared__ float shared[2][kCodes];
  __shared__ Numbers numbers;
  for (int i = threadIdx.x; i < kCodes; i += kThreads) {
    shared[0][i] = books.of[0][i];
    shared[1][i] = books.of[1][i];
  }
  if (threadIdx.x == 0) {
    const auto step = static_cast<int64_t>(settings.step.get());
    const double lr = settings.lr.get(), beta1 = settings.beta1, beta2 = settings.beta2;
    numbers = {static_cast<float>(1 - lr * settings.weight_decay.get()),
               static_cast<float>(1 - beta1),
               static_cast<float>(beta2),
               static_cast<float>(1 - beta2),
               static_cast<float>(settings.eps),
               static_cast<float>(lr / (1 - whole_power(beta1, step))),
               static_cast<float>(::sqrt(1 - whole_power(beta2, step))),
               static_cast<float>(settings.clipped(0))};
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const int64_t block = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  if (block >= group.blocks) return;
  int low = 0, high = group.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (group.of[middle].first <= block) low = middle;
    else high = middle;
  }
  const Coded& t = group.of[low];
  const Numbers c = numbers;
  const int64_t at = block - t.first, begin = at * group.block;
  const int64_t end = begin + group.block < t.numel ? begin + group.block : t.numel;
  const float m_scale = t.m_scales[at], v_scale = t.v_scales[at];
  // The new moments of number i; false where its gradient is not finite and they stay.
  const auto moments = [&](int64_t i, float& m, float& v) {
    m = shared[0][t.m[i]] * m_scale;
    v = shared[1][t.v[i]] * v_scale;
    const float d = t.grad[i] * c.factor;
    if (!(d - d == 0)) return false;
    m += (d - m) * c.rest1;
    v = v * c.beta2 + d * d * c.rest2;
    return true;
  };
  float m_largest = 0, v_largest = 0;
  for (int64_t i = begin + lane; i < end; i += 32) {
    float m, v, p = t.parameter[i];
    if (moments(i, m, v)) {
      p = p * c.decay - c.size * (m / (sqrtf(v) / c.root + c.eps));
      t.parameter[i] = p;
    }
    if (t.copy) {
      if (t.copy_is_bf16) static_cast<__nv_bfloat16*>(t.copy)[i] = __nv_bfloat16(p);
      else static_cast<__half*>(t.copy)[i] = __half(p);
    }
    m_largest = largest_of(m_largest, m);
    v_largest = largest_of(v_largest, v);
  }
  m_largest = warp_largest(m_largest);
  v_largest = warp_largest(v_largest);
  const float m_inverse = m_largest > 0 ? 1 / m_largest : 0, v_inverse = v_largest > 0 ? 1 / v_largest : 0;
  for (int64_t i = begin + lane; i < end; i += 32) {
    float m, v;
    moments(i, m, v);
    t.m[i] = code_of(shared[0], m * m_inverse);
    t.v[i] = code_of(shared[1], v * v_inverse);
  }
  if (lane == 0) {
    t.m_scales[at] = m_largest;
    t.v_scales[at] = v_largest;
  }
}

int32_t adamw_8bit(const KernelArgs* args) {
  const int64_t count = args->integer(0), block = args->integer(6);
  const TensorView* tensors = args->inputs + 1;
  const bool with_copies = args->num_inputs - 1 == 7 * count;
  const TensorView& clip = args->inputs[0];
  const Settings settings{attribute(args, 1), attribute(args, 5), attribute(args, 7), args->number(2), args->number(3), args->number(4),
                          clip.present() ? clip.as<const float>() : nullptr, clip.dtype == DType::kF64};
  Group group;
  group.block = block;
  const auto launch = [&] {
    adamw_kernel<<<static_cast<unsigned>((group.blocks + kWarps - 1) / kWarps), kThreads, 0, stream_of(args).stream>>>(group, settings,
                                                                                                                       books());
    return launched(args);
  };
  group.count = 0;
  group.blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto part = [&](int64_t k) -> const TensorView& { return tensors[k * count + i]; };
    if (part(0).numel == 0) continue;
    const bool copied = with_copies && part(6).present() && dtype_size(part(6).dtype) == 2;
    group.of[group.count++] = {part(0).as<float>(),   part(1).as<const float>(), part(2).as<uint8_t>(), part(4).as<uint8_t>(),
                               part(3).as<float>(),   part(5).as<float>(),       copied ? part(6).data : nullptr,
                               part(0).numel,         group.blocks,              copied && part(6).dtype == DType::kBF16};
    group.blocks += (part(0).numel + block - 1) / block;
    if (group.count < kMost) continue;
    if (const int32_t code = launch()) return code;
    group.count = 0;
    group.blocks = 0;
  }
  return group.count ? launch() : kOk;
}

int64_t no_workspace(const KernelArgs*) { return 0; }

}  // namespace

LF_CUDA_KERNEL(quantize_blocks, quantize_blocks)
LF_CUDA_KERNEL(dequantize_blocks, dequantize_blocks)
LF_CUDA_KERNEL(adamw_8bit, adamw_8bit)
LF_CUDA_FROM_BLOCK(adamw_8bit, 1)
LF_CUDA_FROM_BLOCK(adamw_8bit, 5)
LF_CUDA_FROM_BLOCK(adamw_8bit, 7)
LF_CUDA_WORKSPACE(quantize_blocks, no_workspace)
LF_CUDA_WORKSPACE(dequantize_blocks, no_workspace)
LF_CUDA_WORKSPACE(adamw_8bit, no_workspace)

}  // namespace lf::cuda
