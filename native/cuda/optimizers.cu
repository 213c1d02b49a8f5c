// adamw, sgd, grad_norm_clip; formulas in native/ops/optimizers.cpp. One launch updates all parameters of a group
// (optimizer_group.cuh): a block owns a chunk of 4096 numbers of one tensor, a thread four packs of it, with the 16-bit copy
// written in the same pass: 28 bytes a parameter and step with AdamW, 30 with a copy. Bound by bytes. Warps an SM:
// update_kernel 40, squares_kernel 64, clip_kernel 64.
//
// grad_norm_clip: blocks leave their sums of squares in f64, one block adds them in order and decides. A norm that is not
// finite makes the update's kernel leave everything as it is: the decision never leaves the device.
#include "cuda/optimizer_group.cuh"

namespace lf::cuda {
namespace {

// A rule says what happens to one number; its Numbers follow from attributes that may change with every step, and are found
// by one thread of each block.
struct AdamW {
  Attribute lr, weight_decay, step;
  double beta1, beta2, eps;
  static constexpr int kStates = 2;
  template <class A>
  struct Numbers {
    A decay, beta2, rest1, rest2, eps, step_size, root;
    __device__ __forceinline__ void apply(A& p, A g, A* s) const {
      s[0] += (g - s[0]) * rest1;
      s[1] = s[1] * beta2 + g * g * rest2;
      p = p * decay - step_size * (s[0] / (sqrt(s[1]) / root + eps));
    }
  };
  template <class A>
  __device__ Numbers<A> numbers() const {
    const auto steps = static_cast<int64_t>(step.get());
    const double rate = lr.get(), correction1 = 1 - whole_power(beta1, steps), correction2 = 1 - whole_power(beta2, steps);
    return {A(1 - rate * weight_decay.get()), A(beta2), A(1 - beta1), A(1 - beta2), A(eps), A(rate / correction1), A(sqrt(correction2))};
  }
};
template <bool kMomentum>
struct Sgd {
  Attribute lr, weight_decay;
  double momentum, kept;
  bool nesterov, first;
  static constexpr int kStates = kMomentum ? 1 : 0;
  template <class A>
  struct Numbers {
    A lr, momentum, kept, decay;
    bool nesterov, first;
    __device__ __forceinline__ void apply(A& p, A g, A* s) const {
      A d = g + p * decay;
      if (kMomentum) {
        A& velocity = s[0];
        velocity = first ? d : velocity * momentum + d * kept;
        d = nesterov ? d + velocity * momentum : velocity;
      }
      p -= lr * d;
    }
  };
  template <class A>
  __device__ Numbers<A> numbers() const {
    return {A(lr.get()), A(momentum), A(kept), A(weight_decay.get()), nesterov, first};
  }
};

template <class A, class Rule, class Group>
__global__ void __launch_bounds__(kGroupThreads) update_kernel(const __grid_constant__ Group group, Clip clip, Rule rule) {
  if (clip.at(1) != 0) return;
  __shared__ typename Rule::template Numbers<A> shared;
  if (threadIdx.x == 0) shared = rule.template numbers<A>();
  __syncthreads();
  const auto numbers = shared;
  const A factor = static_cast<A>(clip.at(0));
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  change_chunk<A, Rule::kStates, kEverything>(t, blockIdx.x - t.first, [&](A& p, A g, A* s) { numbers.apply(p, g * factor, s); });
}

template <class Rule>
int32_t update_all(const KernelArgs* args, const Rule& rule) {
  const auto launch = [&](auto tag) {
    using A = typename decltype(tag)::Type;
    return for_groups<A>(args, Rule::kStates, [&](const auto& group) {
      update_kernel<A><<<group.chunks, kGroupThreads, 0, stream_of(args).stream>>>(group, clip_of(args), rule);
      return launched(args);
    });
  };
  if (const int32_t code = launch(Tag<float>{})) return code;
  return launch(Tag<double>{});
}

int32_t adamw(const KernelArgs* args) {
  return update_all(args, AdamW{attribute(args, 1), attribute(args, 5), attribute(args, 6), args->number(2), args->number(3), args->number(4)});
}

int32_t sgd(const KernelArgs* args) {
  const Attribute lr = attribute(args, 1), decay = attribute(args, 5);
  const double momentum = args->number(2), kept = 1 - args->number(3);
  const bool nesterov = args->flag(4), first = args->flag(6);
  return momentum != 0 ? update_all(args, Sgd<true>{lr, decay, momentum, kept, nesterov, first})
                       : update_all(args, Sgd<false>{lr, decay, momentum, kept, nesterov, first});
}

// --- the global norm -----------------------------------------------------------------------------------------------------

constexpr int kNormChunk = 1 << 14;  // as the operator's workspace rule

struct Squares {
  const void* data;
  int64_t numel;
  int32_t first;
  int16_t f64, in_packs;
};
template <int kMost>
struct SquaresGroup {
  int32_t count, chunks;
  Squares of[kMost];
};
static_assert(sizeof(SquaresGroup<kSmallGroup>) < 3800 && sizeof(SquaresGroup<kLargeGroup>) < 32000);

// A thread adds runs of 16 squares in T and the runs in f64, so that the norm is exact to about 1e-7.
template <class T, int V>
__device__ __forceinline__ double squares_of(const T* data, int64_t begin, int64_t end) {
  double total = 0;
  for (int64_t at = begin + threadIdx.x * V; at < end; at += 4 * kGroupThreads * V) {
    T sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (at + j * kGroupThreads * V < end) {
        const auto piece = load_piece<V>(data + at + j * kGroupThreads * V);
#pragma unroll
        for (int k = 0; k < V; ++k) sum += piece.at[k] * piece.at[k];
      }
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <int kMost>
__global__ void __launch_bounds__(kGroupThreads) squares_kernel(const __grid_constant__ SquaresGroup<kMost> group, double* partial) {
  __shared__ double shared[32];
  const Squares& t = group.of[owner_of(group, blockIdx.x)];
  const int64_t begin = static_cast<int64_t>(blockIdx.x - t.first) * kNormChunk;
  const int64_t end = begin + kNormChunk < t.numel ? begin + kNormChunk : t.numel;
  double sum = 0;
  if (t.f64) {
    sum = squares_of<double, 1>(static_cast<const double*>(t.data), begin, end);
  } else {
    const auto* data = static_cast<const float*>(t.data);
    const int64_t whole = t.in_packs ? begin + (end - begin) / 4 * 4 : begin;
    sum = squares_of<float, 4>(data, begin, whole) + squares_of<float, 1>(data, whole, end);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024) clip_kernel(const double* partial, int64_t count, Attribute most, Attribute undo, void* norm_out,
                                                    void* clip_out, bool f64) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += 1024) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum), max_norm = most.get(), unscale = undo.get();
  double multiplier = unscale;
  if (max_norm > 0) {
    const double share = max_norm / (norm * unscale + 1e-6);
    if (share < 1) multiplier *= share;
  }
  const double skip = norm - norm == 0 ? 0 : 1;  // infinite and NaN norms fail this
  if (f64) {
    static_cast<double*>(norm_out)[0] = norm;
    static_cast<double*>(clip_out)[0] = multiplier;
    static_cast<double*>(clip_out)[1] = skip;
  } else {
    static_cast<float*>(norm_out)[0] = static_cast<float>(norm);
    static_cast<float*>(clip_out)[0] = static_cast<float>(multiplier);
    static_cast<float*>(clip_out)[1] = static_cast<float>(skip);
  }
}

template <int kMost>
int32_t add_squares(const KernelArgs* args, int first, int last, double* partial, int64_t& chunks) {
  SquaresGroup<kMost> group;
  group.count = group.chunks = 0;
  for (int i = first; i < last; ++i) {
    const TensorView& grad = args->inputs[i];
    if (grad.numel == 0) continue;
    group.of[group.count++] = {grad.data, grad.numel, group.chunks, grad.dtype == DType::kF64, aligned16(grad.data)};
    group.chunks += static_cast<int32_t>((grad.numel + kNormChunk - 1) / kNormChunk);
  }
  if (group.count == 0) return kOk;
  squares_kernel<kMost><<<static_cast<unsigned>(group.chunks), kGroupThreads, 0, stream_of(args).stream>>>(group, partial + chunks);
  chunks += group.chunks;
  return launched(args);
}

int32_t grad_norm_clip(const KernelArgs* args) {
  auto* partial = static_cast<double*>(args->workspace);
  int64_t chunks = 0;
  for (int first = 0; first < args->num_inputs; first += kLargeGroup) {
    const int last = first + kLargeGroup < args->num_inputs ? first + kLargeGroup : args->num_inputs;
    const int32_t code = last - first <= kSmallGroup ? add_squares<kSmallGroup>(args, first, last, partial, chunks)
                                                     : add_squares<kLargeGroup>(args, first, last, partial, chunks);
    if (code) return code;
  }
  clip_kernel<<<1, 1024, 0, stream_of(args).stream>>>(partial, chunks, attribute(args, 0), attribute(args, 1), args->outputs[0].data,
                                                      args->outputs[1].data, args->outputs[0].dtype == DType::kF64);
  return launched(args);
}

}  // namespace

LF_CUDA_KERNEL(adamw, adamw)
LF_CUDA_FROM_BLOCK(adamw, 1)
LF_CUDA_FROM_BLOCK(adamw, 5)
LF_CUDA_FROM_BLOCK(adamw, 6)
LF_CUDA_KERNEL(sgd, sgd)
LF_CUDA_FROM_BLOCK(sgd, 1)
LF_CUDA_FROM_BLOCK(sgd, 5)
LF_CUDA_KERNEL(grad_norm_clip, grad_norm_clip)
LF_CUDA_FROM_BLOCK(grad_norm_clip, 0)
LF_CUDA_FROM_BLOCK(grad_norm_clip, 1)

}  // namespace lf::cuda
