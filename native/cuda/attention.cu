// attention and attention_backward: which kernels a call takes, and their launches.
#include "cuda/attention_plain.cuh"

namespace lf::cuda {
namespace {

int64_t tiles_of(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

int32_t attention(const KernelArgs* args) {
  const TensorView& q = args->inputs[0];
  const AttentionProblem p = attention_problem(args, 0, 1, 3);
  if (args->outputs[1].numel == 0) return kOk;
  return dispatch_floating(q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    AttentionForward<T> t{};
    t.q = q.as<const T>();
    t.k = p.packed ? t.q + p.k_offset : args->inputs[1].as<const T>();
    t.v = p.packed ? t.q + p.v_offset : args->inputs[2].as<const T>();
    t.out = args->outputs[0].as<T>();
    t.lse = args->outputs[1].as<Acc<T>>();
    const int64_t slices = p.width ? tiles_of(p.width, kPlainSlice) : 1;
    const int64_t blocks = int64_t{p.batch} * p.heads * tiles_of(p.queries, kPlainTile) * slices;
    attention_plain_forward<<<static_cast<unsigned>(blocks), kPlainThreads, 0, stream_of(args).stream>>>(p, t);
    return launched(args);
  });
}

// delta, one number of the accumulation type a query and head.
int64_t backward_workspace(const KernelArgs* args) {
  const TensorView& lse = args->inputs[5];
  return lse.numel * dtype_size(lse.dtype);
}

int32_t attention_backward(const KernelArgs* args) {
  const TensorView& q = args->inputs[1];
  const AttentionProblem p = attention_problem(args, 1, 2, 6);
  return dispatch_floating(q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto stream = stream_of(args).stream;
    AttentionBackward<T> t{};
    t.grad_out = args->inputs[0].as<const T>();
    t.q = q.as<const T>();
    t.k = p.packed ? t.q + p.k_offset : args->inputs[2].as<const T>();
    t.v = p.packed ? t.q + p.v_offset : args->inputs[3].as<const T>();
    t.out = args->inputs[4].as<const T>();
    t.lse = args->inputs[5].as<const Acc<T>>();
    t.delta = static_cast<Acc<T>*>(args->workspace);
    t.grad_q = args->outputs[0].as<T>();
    t.grad_k = p.packed ? t.grad_q + p.k_offset : args->outputs[1].as<T>();
    t.grad_v = p.packed ? t.grad_q + p.v_offset : args->outputs[2].as<T>();
    const int64_t rows = int64_t{p.batch} * p.heads * p.queries, slices = tiles_of(p.width, kPlainBackwardSlice);
    const int64_t q_blocks = int64_t{p.batch} * p.heads * tiles_of(p.queries, kPlainTile) * slices;
    const int64_t kv_blocks = int64_t{p.batch} * p.kv_heads * tiles_of(p.keys, kPlainTile) * slices;
    if (rows > 0) attention_delta<<<blocks_for(args, rows, 8), 256, 0, stream>>>(p, t);
    if (q_blocks > 0) attention_plain_grad_q<<<static_cast<unsigned>(q_blocks), kPlainThreads, 0, stream>>>(p, t);
    if (kv_blocks > 0) attention_plain_grad_kv<<<static_cast<unsigned>(kv_blocks), kPlainThreads, 0, stream>>>(p, t);
    return launched(args);
  });
}

}  // namespace

LF_CUDA_KERNEL(attention, attention)
LF_CUDA_KERNEL(attention_backward, attention_backward)
LF_CUDA_WORKSPACE(attention_backward, backward_workspace)

}  // namespace lf::cuda
