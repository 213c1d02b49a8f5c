// adamw, sgd, grad_norm_clip; formulas in native/ops/optimizers.cpp. One launch updates all parameters of a group: their
// addresses go along as the kernel's own argument (up to 512 tensors; a larger group takes another launch). A block owns a
// chunk of 4096 numbers of one tensor, a thread four packs of it, with the 16-bit copy written in the same pass: 28 bytes a
// parameter and step with AdamW, 30 with a copy. Bound by bytes; 48 registers: 40 warps an SM.
//
// grad_norm_clip: blocks leave their sums of squares in f64, one block adds them in order and decides. A norm that is not
// finite makes the update's kernel leave everything as it is: the decision never leaves the device.
#include "cuda/rows.cuh"

namespace lf::cuda {
namespace {

constexpr int kThreads = 256, kChunk = 4096;

struct Tensors {
  void *parameter, *state0, *state1, *copy;
  const void* grad;
  int64_t numel;
  int32_t first_chunk;
  int16_t copy_is_bf16, in_packs;
};
template <int kMost>
struct Group {
  int32_t count, chunks;
  Tensors of[kMost];
};
constexpr int kSmallGroup = 64, kLargeGroup = 512;
static_assert(sizeof(Group<kSmallGroup>) < 3800 && sizeof(Group<kLargeGroup>) < 32000);

// b to a whole power, by the same multiplications for any reader of the code: only products, so nothing can be fused.
__device__ __forceinline__ double whole_power(double b, int64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1, b *= b) {
    if (n & 1) power *= b;
  }
  return power;
}

// A rule says what happens to one number; its Numbers follow from attributes that may change with every step, and are found
// by one thread of each block.
struct AdamW {
  Attribute lr, weight_decay, step;
  double beta1, beta2, eps;
  static constexpr int kStates = 2;
  template <class A>
  struct Numbers {
    A decay, beta2, rest1, rest2, eps, step_size, root;
    __device__ __forceinline__ void apply(A& p, A g, A& m, A& v) const {
      m += (g - m) * rest1;
      v = v * beta2 + g * g * rest2;
      p = p * decay - step_size * (m / (sqrt(v) / root + eps));
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
    __device__ __forceinline__ void apply(A& p, A g, A& velocity, A&) const {
      A d = g + p * decay;
      if (kMomentum) {
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

template <class A>
struct Clip {
  const void* data;
  bool f64;
  __device__ __forceinline__ A multiplier() const {
    return !data ? A(1) : f64 ? A(static_cast<const double*>(data)[0]) : A(static_cast<const float*>(data)[0]);
  }
  __device__ __forceinline__ bool skip() const {
    return data && (f64 ? static_cast<const double*>(data)[1] != 0 : static_cast<const float*>(data)[1] != 0);
  }
};

template <class T, int V>
__device__ __forceinline__ void store_copy(const Tensors& t, int64_t at, const Piece<T, V>& p) {
  Piece<uint16_t, V> bits;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const auto x = static_cast<float>(p.at[k]);
    bits.at[k] = t.copy_is_bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x)) : __half_as_ushort(__float2half_rn(x));
  }
  store_piece<V>(static_cast<uint16_t*>(t.copy) + at, bits);
}

template <int V, class Rule, class A>
__device__ __forceinline__ void update(const Tensors& t, int64_t at, A factor, const typename Rule::template Numbers<A>& numbers) {
  auto p = load_piece<V>(static_cast<const A*>(t.parameter) + at);
  const auto g = load_piece<V>(static_cast<const A*>(t.grad) + at);
  Piece<A, V> s0, s1;
  if (Rule::kStates > 0) s0 = load_piece<V>(static_cast<const A*>(t.state0) + at);
  if (Rule::kStates > 1) s1 = load_piece<V>(static_cast<const A*>(t.state1) + at);
#pragma unroll
  for (int k = 0; k < V; ++k) numbers.apply(p.at[k], g.at[k] * factor, s0.at[k], s1.at[k]);
  store_piece<V>(static_cast<A*>(t.parameter) + at, p);
  if (Rule::kStates > 0) store_piece<V>(static_cast<A*>(t.state0) + at, s0);
  if (Rule::kStates > 1) store_piece<V>(static_cast<A*>(t.state1) + at, s1);
  if (t.copy) store_copy<A, V>(t, at, p);
}

// The tensor that owns a chunk.
template <class G>
__device__ __forceinline__ int owner_of(const G& group, int chunk) {
  int low = 0, high = group.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (group.of[middle].first_chunk <= chunk) low = middle; else high = middle;
  }
  return low;
}

template <class A, class Rule, int kMost>
__global__ void __launch_bounds__(kThreads) update_kernel(const __grid_constant__ Group<kMost> group, Clip<A> clip, Rule rule) {
  if (clip.skip()) return;
  __shared__ typename Rule::template Numbers<A> shared;
  if (threadIdx.x == 0) shared = rule.template numbers<A>();
  __syncthreads();
  const auto numbers = shared;
  const A factor = clip.multiplier();
  const Tensors& t = group.of[owner_of(group, blockIdx.x)];
  const int64_t begin = static_cast<int64_t>(blockIdx.x - t.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < t.numel ? begin + kChunk : t.numel;
  if (t.in_packs) {
    constexpr int V = Pack<A>::n;
    const int64_t whole = begin + (end - begin) / V * V;
    for (int64_t at = begin + threadIdx.x * V; at < whole; at += kThreads * V) update<V, Rule>(t, at, factor, numbers);
    if (whole + threadIdx.x < end) update<1, Rule>(t, whole + threadIdx.x, factor, numbers);
  } else {
    for (int64_t at = begin + threadIdx.x; at < end; at += kThreads) update<1, Rule>(t, at, factor, numbers);
  }
}

// Hands out the tensors of inputs [1 ..) in groups: launch(group, chunks).
template <class A, int kMost, class Rule>
int32_t update_some(const KernelArgs* args, int64_t first, int64_t last, const Rule& rule) {
  const int64_t count = args->integer(0);
  const TensorView *parameters = args->inputs + 1, *grads = parameters + count, *states = grads + count;
  const TensorView* copies = args->num_inputs - 1 == count * (3 + Rule::kStates) ? states + Rule::kStates * count : nullptr;
  Group<kMost> group;
  group.count = group.chunks = 0;
  for (int64_t i = first; i < last; ++i) {
    const TensorView& p = parameters[i];
    if (p.numel == 0 || (p.dtype == DType::kF64) != (sizeof(A) == 8)) continue;
    Tensors& t = group.of[group.count++];
    t.parameter = p.data;
    t.grad = grads[i].data;
    t.state0 = Rule::kStates > 0 ? states[i].data : nullptr;
    t.state1 = Rule::kStates > 1 ? states[count + i].data : nullptr;
    const bool copied = copies && copies[i].present() && sizeof(A) == 4 && dtype_size(copies[i].dtype) == 2;
    t.copy = copied ? copies[i].data : nullptr;
    t.copy_is_bf16 = copied && copies[i].dtype == DType::kBF16;
    t.in_packs = aligned16(t.parameter) && aligned16(t.grad) && aligned16(t.state0) && aligned16(t.state1) &&
                 reinterpret_cast<uintptr_t>(t.copy) % 8 == 0;
    t.numel = p.numel;
    t.first_chunk = group.chunks;
    group.chunks += static_cast<int32_t>((p.numel + kChunk - 1) / kChunk);
  }
  if (group.count == 0) return kOk;
  const TensorView& given = args->inputs[0];
  const Clip<A> clip{given.present() ? given.data : nullptr, given.dtype == DType::kF64};
  update_kernel<A, Rule, kMost><<<static_cast<unsigned>(group.chunks), kThreads, 0, stream_of(args).stream>>>(group, clip, rule);
  return launched(args);
}

template <class Rule>
int32_t update_all(const KernelArgs* args, const Rule& rule) {
  const int64_t count = args->integer(0);
  bool has32 = false, has64 = false;
  for (int64_t i = 0; i < count; ++i) (args->inputs[1 + i].dtype == DType::kF64 ? has64 : has32) = true;
  for (int64_t first = 0; first < count; first += kLargeGroup) {
    const int64_t last = first + kLargeGroup < count ? first + kLargeGroup : count;
    const bool small = last - first <= kSmallGroup;
    if (has32) {
      const int32_t code = small ? update_some<float, kSmallGroup>(args, first, last, rule) : update_some<float, kLargeGroup>(args, first, last, rule);
      if (code) return code;
    }
    if (has64) {  // for checks: by the small group alone
      for (int64_t from = first; from < last; from += kSmallGroup) {
        const int64_t to = from + kSmallGroup < last ? from + kSmallGroup : last;
        if (const int32_t code = update_some<double, kSmallGroup>(args, from, to, rule)) return code;
      }
    }
  }
  return kOk;
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
  int32_t first_chunk;
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
  for (int64_t at = begin + threadIdx.x * V; at < end; at += 4 * kThreads * V) {
    T sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (at + j * kThreads * V < end) {
        const auto piece = load_piece<V>(data + at + j * kThreads * V);
#pragma unroll
        for (int k = 0; k < V; ++k) sum += piece.at[k] * piece.at[k];
      }
    }
    total += static_cast<double>(sum);
  }
  return total;
}

template <int kMost>
__global__ void __launch_bounds__(kThreads) squares_kernel(const __grid_constant__ SquaresGroup<kMost> group, double* partial) {
  __shared__ double shared[32];
  const Squares& t = group.of[owner_of(group, blockIdx.x)];
  const int64_t begin = static_cast<int64_t>(blockIdx.x - t.first_chunk) * kNormChunk;
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
  squares_kernel<kMost><<<static_cast<unsigned>(group.chunks), kThreads, 0, stream_of(args).stream>>>(group, partial + chunks);
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
