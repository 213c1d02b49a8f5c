// to_fp8, from_fp8: the CPU's codes (native/ops/fp8.cpp), by the same functions of api/fp8.h. Pointwise kernels
// (pointwise.cuh), bound by bytes: packs of 16 bytes in the wider of the two formats, 256 threads a block.
#include "api/fp8.h"
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

}  // namespace

LF_CUDA_KERNEL(to_fp8, to_codes)
LF_CUDA_KERNEL(from_fp8, from_codes)

}  // namespace lf::cuda
