// attention and attention_backward: which kernels a call takes, and their launches.
#include "cuda/attention_mma.cuh"
#include "cuda/attention_plain.cuh"

namespace lf::cuda {
namespace {

int64_t tiles_of(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

// Asynchronous copies, and the formats bf16 and TF32, came with sm_80. Some chips have too little shared memory for wide f32.
// Narrow f32 heads would be padding for the most part, and three TF32 products are a little less exact than short f32 sums.
template <class T>
AttentionTiling tiling_of(int capability, int64_t shared_bytes, int width, AttentionPass pass, bool sparse) {
  const AttentionTiling plain = {false, kPlainTile, kPlainTile};
  if constexpr (sizeof(T) == 8) return plain;
  if (capability < 80 || width < (sizeof(T) == 4 ? 32 : 1) || width > 256) return plain;
  AttentionTiling tiling = plain;
  dispatch_width(width, [&](auto padded) {
    constexpr int D = decltype(padded)::value;
    auto take = [&](auto shape, int64_t bytes) {
      using Shape = decltype(shape);
      if (bytes <= shared_bytes) tiling = {true, Shape::kOwn, Shape::kPassing};
    };
    // Both kernels of the gradient or neither. Short tiles need less.
    auto take_either = [&](auto usual, auto shorter, int64_t bytes) { return sparse ? take(shorter, bytes) : take(usual, bytes); };
    if (pass == AttentionPass::kForward) take_either(ForwardShape<T, D>{}, ForwardShape<T, D, true>{}, kForwardBytes<T, D>);
    else if (pass == AttentionPass::kGradQ) take_either(QueryShape<T, D>{}, QueryShape<T, D, true>{}, kBackwardBytes<T, D>);
    else take(KeyShape<T, D>{}, kBackwardBytes<T, D>);
    return 0;
  });
  return tiling;
}
template <class T>
AttentionTiling tiling_of(const KernelArgs* args, int width, AttentionPass pass, bool sparse = false) {
  const Stream& stream = stream_of(args);
  return tiling_of<T>(stream.capability, stream.shared_bytes_per_block, width, pass, sparse);
}

int32_t attention(const KernelArgs* args) {
  const TensorView& q = args->inputs[0];
  const AttentionProblem p = attention_problem(args, 0, 1, 3);
  return dispatch_floating(q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    AttentionForward<T> t{};
    t.q = q.as<const T>();
    t.k = p.packed ? t.q + p.k_offset : args->inputs[1].as<const T>();
    t.v = p.packed ? t.q + p.v_offset : args->inputs[2].as<const T>();
    t.out = args->outputs[0].as<T>();
    t.lse = args->outputs[1].as<Acc<T>>();
    return run_attention(args, p, t);
  });
}

// delta and base, two numbers of the accumulation type a query and head.
int64_t backward_workspace(const KernelArgs* args) {
  const TensorView& lse = args->inputs[5];
  return 2 * lse.numel * dtype_size(lse.dtype);
}

int32_t attention_backward(const KernelArgs* args) {
  const TensorView& q = args->inputs[1];
  const AttentionProblem p = attention_problem(args, 1, 2, 6);
  return dispatch_floating(q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    AttentionBackward<T> t{};
    t.grad_out = args->inputs[0].as<const T>();
    t.q = q.as<const T>();
    t.k = p.packed ? t.q + p.k_offset : args->inputs[2].as<const T>();
    t.v = p.packed ? t.q + p.v_offset : args->inputs[3].as<const T>();
    t.out = args->inputs[4].as<const T>();
    t.lse = args->inputs[5].as<const Acc<T>>();
    t.delta = static_cast<Acc<T>*>(args->workspace);
    t.base = t.delta + args->inputs[5].numel;
    t.grad_q = args->outputs[0].as<T>();
    t.grad_k = p.packed ? t.grad_q + p.k_offset : args->outputs[1].as<T>();
    t.grad_v = p.packed ? t.grad_q + p.v_offset : args->outputs[2].as<T>();
    return run_attention_backward(args, p, t);
  });
}

}  // namespace

AttentionTiling attention_tiling(const KernelArgs* args, DType dtype, int width, AttentionPass pass) {
  AttentionTiling tiling{};
  dispatch_floating(dtype, [&](auto tag) {
    tiling = tiling_of<typename decltype(tag)::Type>(args, width, pass, true);
    return 0;
  });
  return tiling;
}

AttentionTiling attention_tiling(bool tensor_cores, DType dtype, int width, AttentionPass pass) {
  AttentionTiling tiling{};
  dispatch_floating(dtype, [&](auto tag) {
    tiling = tiling_of<typename decltype(tag)::Type>(tensor_cores ? 80 : 0, INT64_MAX, width, pass, true);
    return 0;
  });
  return tiling;
}

template <class T>
int32_t run_attention(const KernelArgs* args, AttentionProblem p, const AttentionForward<T>& t) {
  if (int64_t{p.batch} * p.heads * p.queries == 0) return kOk;
  p.aligned = attention_aligned<T>(p, t.q, t.k, t.v, t.out);
  if constexpr (sizeof(T) < 8) {
    if (tiling_of<T>(args, p.width, AttentionPass::kForward).tensor_cores) return attention_on_tensor_cores(args, p, t);
  }
  const int64_t slices = p.width ? tiles_of(p.width, kPlainSlice) : 1;
  const int64_t blocks = int64_t{p.batch} * p.heads * tiles_of(p.queries, kPlainTile) * slices;
  attention_plain_forward<<<static_cast<unsigned>(blocks), kPlainThreads, 0, stream_of(args).stream>>>(p, t);
  return launched(args);
}

template <class T>
int32_t run_attention_backward(const KernelArgs* args, AttentionProblem p, const AttentionBackward<T>& t) {
  const auto stream = stream_of(args).stream;
  p.aligned = attention_aligned<T>(p, t.grad_out, t.q, t.k, t.v, t.out, t.grad_q, t.grad_k, t.grad_v);
  if (const int64_t rows = int64_t{p.batch} * p.heads * p.queries; rows > 0) {
    const int64_t items = p.aligned ? p.width / Pack<T>::n : p.width;
    int lanes = 1;
    while (lanes < 32 && lanes < items) lanes *= 2;
    attention_delta<<<blocks_for(args, rows, 256 / lanes), 256, 0, stream>>>(p, t, lanes);
    if (const int32_t code = launched(args)) return code;
  }
  if constexpr (sizeof(T) < 8) {
    if (tiling_of<T>(args, p.width, AttentionPass::kGradQ).tensor_cores) return attention_backward_on_tensor_cores(args, p, t);
  }
  const int64_t slices = tiles_of(p.width, kPlainBackwardSlice);
  const int64_t q_blocks = int64_t{p.batch} * p.heads * tiles_of(p.queries, kPlainTile) * slices;
  const int64_t kv_blocks = int64_t{p.batch} * p.kv_heads * tiles_of(p.keys, kPlainTile) * slices;
  if (q_blocks > 0) attention_plain_grad_q<<<static_cast<unsigned>(q_blocks), kPlainThreads, 0, stream>>>(p, t);
  if (kv_blocks > 0) attention_plain_grad_kv<<<static_cast<unsigned>(kv_blocks), kPlainThreads, 0, stream>>>(p, t);
  return launched(args);
}

#define LF_INSTANTIATE(T)                                                                             \
  template int32_t run_attention(const KernelArgs*, AttentionProblem, const AttentionForward<T>&);    \
  template int32_t run_attention_backward(const KernelArgs*, AttentionProblem, const AttentionBackward<T>&);
LF_INSTANTIATE(float)
LF_INSTANTIATE(__half)
LF_INSTANTIATE(__nv_bfloat16)
LF_INSTANTIATE(double)
#undef LF_INSTANTIATE

LF_CUDA_KERNEL(attention, attention)
LF_CUDA_FROM_BLOCK(attention, 6)
LF_CUDA_FROM_BLOCK(attention, 7)
LF_CUDA_KERNEL(attention_backward, attention_backward)
LF_CUDA_FROM_BLOCK(attention_backward, 6)
LF_CUDA_FROM_BLOCK(attention_backward, 7)
LF_CUDA_WORKSPACE(attention_backward, backward_workspace)

}  // namespace lf::cuda
