// to_fp8, from_fp8: the CPU's codes (native/ops/fp8.cpp), by the same functions of api/fp8.h. Pointwise kernels
// (pointwise.cuh), bound by bytes: packs of 16 bytes in the wider of the two formats, 256 threads a block.
// fp8_matmul: cuBLASLt's FP8 tensor cores from sm_89 on, where it takes the shape. Elsewhere the codes become bf16, which holds
// them exactly, and a bf16 product of the same sums; a pass over the result multiplies it with the factors.
#include "api/fp8.h"
#include "cuda/library.h"
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <Fp8 format, class T>
struct Encode {
  bool saturate;
  __device__ uint8_t operator()(T x) const { return to_fp8<format>(widen(x), saturate); }
};
template <Fp8 format, class T>
struct EncodeScaled {
  bool saturate;
  __device__ uint8_t operator()(T x, float scale) const { return to_fp8<format>(__fmul_rn(widen(x), scale), saturate); }
};
template <Fp8 format, class T>
struct Decode {
  __device__ T operator()(uint8_t code) const { return narrow<T>(from_fp8<format>(code)); }
};

template <class F>
int32_t dispatch_narrow(DType dtype, F&& body) {
  switch (dtype) {
    case DType::kF16: return body(Tag<__half>{});
    case DType::kBF16: return body(Tag<__nv_bfloat16>{});
    default: return body(Tag<float>{});
  }
}

template <Fp8 format>
int32_t encode(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &scale = args->inputs[1], &codes = args->outputs[0];
  return dispatch_narrow(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (scale.present()) return pointwise<uint8_t, T, float>(args, EncodeScaled<format, T>{args->flag(1)}, codes, x, scale);
    return pointwise<uint8_t, T>(args, Encode<format, T>{args->flag(1)}, codes, x);
  });
}

template <Fp8 format>
int32_t decode(const KernelArgs* args) {
  return dispatch_narrow(args->outputs[0].dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return pointwise<T, uint8_t>(args, Decode<format, T>{}, args->outputs[0], args->inputs[0]);
  });
}

int32_t to_codes(const KernelArgs* args) { return args->integer(0) ? encode<Fp8::kE5M2>(args) : encode<Fp8::kE4M3>(args); }
int32_t from_codes(const KernelArgs* args) { return args->integer(0) ? decode<Fp8::kE5M2>(args) : decode<Fp8::kE4M3>(args); }

struct Factors {
  __device__ float operator()(float sum, float a, float b) const { return __fmul_rn(sum, __fmul_rn(a, b)); }
};

int64_t bytes_of_numbers(const TensorView& codes) { return (codes.numel * 2 + 255) / 256 * 256; }
int64_t product_bytes(const KernelArgs* args) {
  return product_workspace(args->inputs[0].dim(0), args->inputs[1].dim(0), args->inputs[0].dim(1), 1);
}
int64_t matmul_workspace(const KernelArgs* args) {
  return bytes_of_numbers(args->inputs[0]) + bytes_of_numbers(args->inputs[1]) + product_bytes(args) + 256;
}

int32_t multiply_codes(const KernelArgs* args) {
  const TensorView &a = args->inputs[0], &b = args->inputs[1], &y = args->outputs[0];
  if (y.numel == 0) return kOk;
  Product p;
  p.m = a.dim(0), p.n = b.dim(0), p.k = a.dim(1);
  if (p.k == 0) return report(args, cudaMemsetAsync(y.data, 0, static_cast<size_t>(y.numel) * sizeof(float), stream_of(args).stream));
  p.lda = p.ldb = p.k, p.ldc = p.n;
  p.trans_b = true;
  p.a = a.data, p.b = b.data, p.c = y.data;
  p.fp8_a = static_cast<int>(args->integer(0)), p.fp8_b = static_cast<int>(args->integer(1));
  p.factor_a = args->inputs[2].as<const float>(), p.factor_b = args->inputs[3].as<const float>();
  bool done = false;
  char* at = static_cast<char*>(args->workspace);
  at += -reinterpret_cast<intptr_t>(at) & 255;
  const bool both_wide = p.fp8_a == static_cast<int>(Fp8::kE5M2) && p.fp8_b == p.fp8_a;
  if (stream_of(args).capability >= 89 && p.k % 16 == 0 && p.n % 16 == 0 && !both_wide && aligned16(a.data) && aligned16(b.data)) {
    if (const int32_t code = multiply(args, p, at, product_bytes(args), &done)) return code;
    if (done) return kOk;
  }
  TensorView numbers[2] = {a, b};
  for (int i = 0; i < 2; ++i) {
    numbers[i].dtype = DType::kBF16;
    numbers[i].data = at;
    at += bytes_of_numbers(numbers[i]);
    const bool wide = args->integer(i) == static_cast<int64_t>(Fp8::kE5M2);
    const int32_t code = wide ? pointwise<__nv_bfloat16, uint8_t>(args, Decode<Fp8::kE5M2, __nv_bfloat16>{}, numbers[i], args->inputs[i])
                              : pointwise<__nv_bfloat16, uint8_t>(args, Decode<Fp8::kE4M3, __nv_bfloat16>{}, numbers[i], args->inputs[i]);
    if (code) return code;
  }
  p.a = numbers[0].data, p.b = numbers[1].data;
  p.dtype_ab = DType::kBF16;
  p.fp8_a = p.fp8_b = -1;
  if (const int32_t code = multiply(args, p, at, product_bytes(args), &done)) return code;
  return pointwise<float, float, float, float>(args, Factors{}, y, y, args->inputs[2], args->inputs[3]);
}

}  // namespace

LF_CUDA_KERNEL(fp8_matmul, multiply_codes)
LF_CUDA_WORKSPACE(fp8_matmul, matmul_workspace)
LF_CUDA_KERNEL(to_fp8, to_codes)
LF_CUDA_KERNEL(from_fp8, from_codes)

}  // namespace lf::cuda
