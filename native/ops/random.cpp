// random_uniform, random_normal: tensors of independent numbers from one Philox block (native/api/philox.h), the same on
// every device. Element e: uniform = (word e % 4 of block e / 4) / 2^32, to 24 bits. Normal numbers come in pairs from two
// words of a block by Box and Muller: r = sqrt(-2 ln(1 - u)), (r cos 2 pi v, r sin 2 pi v).
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

void shape(OpCall& call) {
  int64_t sizes[kMaxRank];
  const int rank = call.list_size(0);
  if (rank > kMaxRank) call.fail(kShape, "%d axes are more than %d", rank, kMaxRank);
  for (int i = 0; i < rank; ++i) sizes[i] = call.item(0, i);
  if (!is_floating(call.dtype(3))) call.fail(kDType, "dtype is %s, needs f32, f16, bf16 or f64", dtype_name(call.dtype(3)));
  call.output(call.dtype(3), sizes, rank);
}

const std::vector<AttrSpec>& attrs() {
  static const std::vector<AttrSpec> kAttrs = {{"shape", AttrType::kIntegers},
                                               {"seed", AttrType::kInteger},
                                               {"offset", AttrType::kInteger},
                                               {"dtype", AttrType::kDType}};
  return kAttrs;
}

LF_OP({.name = "random_uniform", .inputs = {}, .attrs = attrs(), .shape = shape, .cost = io_cost<1>})
LF_OP({.name = "random_normal", .inputs = {}, .attrs = attrs(), .shape = shape, .cost = io_cost<8>})

}  // namespace
}  // namespace lf
#else
#include "api/philox.h"
#include "cpu/simd.h"

namespace lf {
namespace {

// numbers(words, out): four numbers from the four words of a block.
template <class T, class F>
void fill_blocks(const KernelArgs* args, F&& numbers) {
  using Acc = typename Lanes<T>::Scalar;
  const TensorView& out = args->outputs[0];
  const PhiloxKey key = philox_key(args->integer(1), args->integer(2));
  cpu::parallel_for((out.numel + 3) / 4, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      uint32_t words[4];
      philox(key, static_cast<uint64_t>(block), words);
      double values[4];
      numbers(words, values);
      for (int64_t w = 0; w < 4 && 4 * block + w < out.numel; ++w) {
        put(out.as<T>() + 4 * block + w, static_cast<Acc>(values[w]));
      }
    }
  });
}

template <class F>
int32_t by_dtype(const KernelArgs* args, F&& numbers) {
  switch (args->outputs[0].dtype) {
    case DType::kF32: fill_blocks<float>(args, numbers); break;
    case DType::kF16: fill_blocks<f16>(args, numbers); break;
    case DType::kBF16: fill_blocks<bf16>(args, numbers); break;
    default: fill_blocks<double>(args, numbers);
  }
  return kOk;
}

int32_t random_uniform(const KernelArgs* args) {
  return by_dtype(args, [](const uint32_t* words, double* values) {
    for (int w = 0; w < 4; ++w) values[w] = static_cast<double>(philox_uniform(words[w]));
  });
}

int32_t random_normal(const KernelArgs* args) {
  return by_dtype(args, [](const uint32_t* words, double* values) {
    for (int w = 0; w < 4; w += 2) {
      const double u = static_cast<double>(words[w]) * 0x1p-32, v = static_cast<double>(words[w + 1]) * 0x1p-32;
      const double radius = __builtin_sqrt(-2 * __builtin_log(1 - u)), angle = 6.283185307179586 * v;
      values[w] = radius * __builtin_cos(angle);
      values[w + 1] = radius * __builtin_sin(angle);
    }
  });
}

}  // namespace

LF_CPU_KERNEL(random_uniform, random_uniform)
LF_CPU_KERNEL(random_normal, random_normal)

}  // namespace lf
#endif
