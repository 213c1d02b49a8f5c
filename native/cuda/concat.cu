// concat: tensors one after another along an axis, one strided copy (permute.cu) each. Any format; bound by bytes.
#include "cuda/kernel.cuh"
#include "cuda/strided.cuh"

namespace lf::cuda {
namespace {

int32_t concat(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  const int64_t given = args->integer(0), bytes = dtype_size(out.dtype);
  const int axis = static_cast<int>(given < 0 ? given + out.rank : given);
  char* to = out.as<char>();
  for (int k = 0; k < args->num_inputs; ++k) {
    const TensorView& x = args->inputs[k];
    const int64_t run = x.span(axis, x.rank);
    Strided moved;
    moved.push(run, 1, 1);
    moved.push(out.span(0, axis), run, out.span(axis, out.rank));
    if (const int32_t code = move_strided(args, moved, x.data, to, bytes)) return code;
    to += run * bytes;
  }
  return kOk;
}

}  // namespace

LF_CUDA_KERNEL(concat, concat)

}  // namespace lf::cuda
