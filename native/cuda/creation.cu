// fill: a tensor of one value, by a pointwise kernel (pointwise.cuh) of no inputs. copy: by the device's own copy. Both are
// bound by bytes.
#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

int32_t fill(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const double value = args->number(1);
  const auto with = [&](auto bits) { return pointwise<decltype(bits)>(args, Constant<decltype(bits)>{bits}, out); };
  switch (out.dtype) {
    case DType::kF32: return with(float_bits(static_cast<float>(value)));
    case DType::kF16: return with(to_f16(static_cast<float>(value)).bits);
    case DType::kBF16: return with(to_bf16(static_cast<float>(value)).bits);
    case DType::kF64: {
      uint64_t bits;
      __builtin_memcpy(&bits, &value, sizeof bits);
      return with(bits);
    }
    case DType::kI8: return with(static_cast<uint8_t>(static_cast<int8_t>(value)));
    case DType::kU8: return with(static_cast<uint8_t>(value));
    case DType::kI32: return with(static_cast<uint32_t>(static_cast<int32_t>(value)));
    case DType::kI64: return with(static_cast<uint64_t>(static_cast<int64_t>(value)));
    default: return with(static_cast<uint8_t>(value != 0));
  }
}

int32_t copy(const KernelArgs* args) {
  const TensorView& x = args->inputs[0];
  if (x.numel == 0) return kOk;
  return report(args, cudaMemcpyAsync(args->outputs[0].data, x.data, static_cast<size_t>(x.numel * dtype_size(x.dtype)),
                                      cudaMemcpyDeviceToDevice, stream_of(args).stream));
}

}  // namespace

LF_CUDA_KERNEL(fill, fill)
LF_CUDA_KERNEL(copy, copy)

}  // namespace lf::cuda
