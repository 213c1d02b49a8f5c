// fill: a tensor of one value. copy: the same numbers in memory of their own. Both are bound by the bytes they write.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "fill",
       .inputs = {},
       .attrs = {{"shape", AttrType::kIntegers}, {"value", AttrType::kNumber}, {"dtype", AttrType::kDType}},
       .shape =
           [](OpCall& call) {
             int64_t shape[kMaxRank];
             const int rank = call.list_size(0);
             if (rank > kMaxRank) call.fail(kShape, "%d axes are more than %d", rank, kMaxRank);
             for (int i = 0; i < rank; ++i) shape[i] = call.item(0, i);
             call.output(call.dtype(2), shape, rank);
           },
       .cost = io_cost<0>})

LF_OP({.name = "copy",
       .inputs = {{"x"}},
       .attrs = {},
       .shape = [](OpCall& call) { call.output_like(call.in(0)); },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "api/half.h"
#include "cpu/kernel.h"

namespace lf {
namespace {

constexpr int64_t kGrain = int64_t{1} << 17;  // bytes; below this a second thread costs more than it brings

template <class T>
void fill_with(void* out, int64_t n, T value) {
  T* data = static_cast<T*>(out);
  cpu::parallel_for(n, kGrain / static_cast<int64_t>(sizeof(T)), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) data[i] = value;
  });
}

int32_t fill(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const double value = args->number(1);
  switch (out.dtype) {
    case DType::kF32: fill_with(out.data, out.numel, static_cast<float>(value)); break;
    case DType::kF16: fill_with(out.data, out.numel, to_f16(static_cast<float>(value))); break;
    case DType::kBF16: fill_with(out.data, out.numel, to_bf16(static_cast<float>(value))); break;
    case DType::kF64: fill_with(out.data, out.numel, value); break;
    case DType::kI8: fill_with(out.data, out.numel, static_cast<int8_t>(value)); break;
    case DType::kU8: fill_with(out.data, out.numel, static_cast<uint8_t>(value)); break;
    case DType::kI32: fill_with(out.data, out.numel, static_cast<int32_t>(value)); break;
    case DType::kI64: fill_with(out.data, out.numel, static_cast<int64_t>(value)); break;
    case DType::kBool: fill_with(out.data, out.numel, static_cast<uint8_t>(value != 0)); break;
  }
  return kOk;
}

int32_t copy(const KernelArgs* args) {
  const TensorView& in = args->inputs[0];
  const int64_t bytes = in.numel * dtype_size(in.dtype);
  cpu::parallel_for(bytes, kGrain, [&](int64_t begin, int64_t end) {
    __builtin_memcpy(args->outputs[0].as<char>() + begin, in.as<char>() + begin, static_cast<size_t>(end - begin));
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(fill, fill)
LF_CPU_KERNEL(copy, copy)

}  // namespace lf
#endif
