// slice: a box of a tensor, with steps. slice_backward: the box's gradient in zeros of the whole shape (the stream zeroes the
// output before). write_slice: writes a box of a tensor in place. Strided copies (permute.cu) of any format; bound by bytes.
#include "cuda/kernel.cuh"
#include "cuda/strided.cuh"

namespace lf::cuda {
namespace {

// Copies between a whole tensor and the box of it that `part` is; `into_whole` says which way.
int32_t copy_box(const KernelArgs* args, const TensorView& whole, const TensorView& part, bool with_steps, bool into_whole) {
  const int64_t bytes = dtype_size(whole.dtype);
  Strided moved;
  int64_t first = 0, dense = 1;
  for (int i = whole.rank - 1; i >= 0; --i) {
    const int64_t stride = whole.span(i + 1, whole.rank);
    first += args->item(0, i) * stride;
    const int64_t step = with_steps ? args->item(2, i) * stride : stride;
    moved.push(part.shape[i], into_whole ? dense : step, into_whole ? step : dense);
    dense *= part.shape[i];
  }
  if (dense == 0) return kOk;
  char* box = whole.as<char>() + first * bytes;
  return into_whole ? move_strided(args, moved, part.data, box, bytes) : move_strided(args, moved, box, part.data, bytes);
}

int32_t slice(const KernelArgs* args) { return copy_box(args, args->inputs[0], args->outputs[0], true, false); }

int32_t slice_backward(const KernelArgs* args) {
  const TensorView& out = args->outputs[0];
  TensorView grad = args->inputs[0];
  grad.rank = out.rank;
  for (int i = 0; i < out.rank; ++i) {
    const int64_t span = args->item(1, i) - args->item(0, i);
    grad.shape[i] = span == 0 ? 0 : (span - 1) / args->item(2, i) + 1;
  }
  return copy_box(args, out, grad, true, true);
}

int32_t write_slice(const KernelArgs* args) { return copy_box(args, args->inputs[0], args->inputs[1], false, true); }

}  // namespace

LF_CUDA_KERNEL(slice, slice)
LF_CUDA_KERNEL(slice_backward, slice_backward)
LF_CUDA_KERNEL(write_slice, write_slice)

}  // namespace lf::cuda
