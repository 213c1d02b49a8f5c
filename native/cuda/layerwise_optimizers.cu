// lamb, lars (native/ops/layerwise_optimizers.cpp), three launches for a group: blocks leave the sums of squares of their chunk in
// f64 (lamb also its new moments); a block for each tensor adds them in order and finds the tensor's rate; blocks change their
// chunk (optimizer_group.cuh). Bound by bytes: two passes over memory. 256 threads a block, 3 to 8 of them a
// multiprocessor.
#include "cuda/optimizer_group.cuh"

namespace lf::cuda {
namespace {

__device__ __forceinline__ float root_of(float x) { return ::sqrtf(x); }
__device__ __forceinline__ double root_of(double x) { return ::sqrt(x); }

// In the workspace, for one launch: a rate for every tensor, then two sums for every chunk.
struct Norms {
  double* rates;
  template <class Group>
  __device__ double* sums(const Group& group) const { return rates + group.count; }
};

struct Lamb {
  Attribute lr, weight_decay, step;
  double beta1, beta2, eps, max_trust;
  bool adapt;
  static constexpr int kStates = 2;
  static constexpr Written kFirst = kStatesOnly, kSecond = kParameterOnly;

  template <class A>
  struct Numbers {
    A rest1, beta2, rest2, correction1, root, eps, decay, factor;
    __device__ A direction(A p, A m, A v) const { return m / correction1 / (root_of(v) / root + eps) + decay * p; }
    __device__ void prepare(A p, A g, A* s, double& weight, double& other) const {
      const A d = g * factor;
      s[0] += (d - s[0]) * rest1;
      s[1] = s[1] * beta2 + d * d * rest2;
      const A change = direction(p, s[0], s[1]);
      weight += static_cast<double>(p) * static_cast<double>(p);
      other += static_cast<double>(change) * static_cast<double>(change);
    }
    __device__ void apply(A& p, A, A* s, A rate) const { p -= rate * direction(p, s[0], s[1]); }
  };
  template <class A>
  __device__ Numbers<A> numbers(double factor) const {
    const auto steps = static_cast<int64_t>(step.get());
    return {A(1 - beta1), A(beta2), A(1 - beta2), A(1 - whole_power(beta1, steps)), A(::sqrt(1 - whole_power(beta2, steps))),
            A(eps),       A(weight_decay.get()), A(factor)};
  }
  __device__ double rate(double weight, double direction) const {
    double trust = adapt && weight > 0 && direction > 0 ? weight / direction : 1;
    if (max_trust > 0 && trust > max_trust) trust = max_trust;
    return lr.get() * trust;
  }
};

struct Lars {
  Attribute lr, weight_decay;
  double momentum, trust;
  bool clip_rate, adapt;
  static constexpr int kStates = 1;
  static constexpr Written kFirst = kStatesOnly, kSecond = kEverything;

  template <class A>
  struct Numbers {
    A momentum, decay, factor;
    __device__ void prepare(A p, A g, A*, double& weight, double& other) const {
      const A d = g * factor;
      weight += static_cast<double>(p) * static_cast<double>(p);
      other += static_cast<double>(d) * static_cast<double>(d);
    }
    __device__ void apply(A& p, A g, A* s, A rate) const {
      s[0] = s[0] * momentum + rate * (g * factor + p * decay);
      p -= s[0];
    }
  };
  template <class A>
  __device__ Numbers<A> numbers(double factor) const {
    return {A(momentum), A(weight_decay.get()), A(factor)};
  }
  __device__ double rate(double weight, double grad) const {
    if (!adapt || weight == 0 || grad == 0) return lr.get();
    const double local = trust * weight / (grad + weight_decay.get() * weight);
    return clip_rate ? (local < lr.get() ? local : lr.get()) : lr.get() * local;
  }
};

template <class Rule, class A, class Group>
__global__ void __launch_bounds__(kGroupThreads)
    prepare_kernel(const __grid_constant__ Group group, Clip clip, Rule rule, Norms norms) {
  if (clip.at(1) != 0) return;
  __shared__ typename Rule::template Numbers<A> shared;
  __shared__ double meeting[32];
  if (threadIdx.x == 0) shared = rule.template numbers<A>(clip.at(0));
  __syncthreads();
  const auto numbers = shared;
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  double weight = 0, other = 0;
  // The norms of lars change nothing: its states are neither read nor written here.
  constexpr int kStates = Rule::kSecond == kEverything ? 0 : Rule::kStates;
  change_chunk<A, kStates, Rule::kFirst>(t, blockIdx.x - t.first,
                                         [&](A& p, A g, A* s) { numbers.prepare(p, g, s, weight, other); });
  weight = block_sum(weight, meeting);
  other = block_sum(other, meeting);
  if (threadIdx.x != 0) return;
  norms.sums(group)[2 * blockIdx.x] = weight;
  norms.sums(group)[2 * blockIdx.x + 1] = other;
}

template <class Rule, class Group>
__global__ void __launch_bounds__(kGroupThreads)
    rates_kernel(const __grid_constant__ Group group, Clip clip, Rule rule, Norms norms) {
  if (clip.at(1) != 0) return;
  __shared__ double meeting[32];
  const GroupTensors& t = group.of[blockIdx.x];
  const int64_t chunks = (t.numel + kGroupChunk - 1) / kGroupChunk;
  double sums[2] = {0, 0};
  for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += kGroupThreads) {
    sums[0] += norms.sums(group)[2 * (t.first + chunk)];
    sums[1] += norms.sums(group)[2 * (t.first + chunk) + 1];
  }
  sums[0] = block_sum(sums[0], meeting);
  sums[1] = block_sum(sums[1], meeting);
  if (threadIdx.x == 0) norms.rates[blockIdx.x] = rule.rate(::sqrt(sums[0]), ::sqrt(sums[1]));
}

template <class Rule, class A, class Group>
__global__ void __launch_bounds__(kGroupThreads)
    apply_kernel(const __grid_constant__ Group group, Clip clip, Rule rule, Norms norms) {
  if (clip.at(1) != 0) return;
  __shared__ typename Rule::template Numbers<A> shared;
  if (threadIdx.x == 0) shared = rule.template numbers<A>(clip.at(0));
  __syncthreads();
  const auto numbers = shared;
  const int owner = owner_of(group, blockIdx.x);
  const GroupTensors& t = group.of[owner];
  const A rate = static_cast<A>(norms.rates[owner]);
  change_chunk<A, Rule::kStates, Rule::kSecond>(t, blockIdx.x - t.first,
                                                [&](A& p, A g, A* s) { numbers.apply(p, g, s, rate); });
}

template <class Rule>
int32_t update(const KernelArgs* args, const Rule& rule) {
  const Norms norms{static_cast<double*>(args->workspace)};
  const auto stream = stream_of(args).stream;
  const Clip clip = clip_of(args);
  const auto launch = [&](auto tag) {
    using A = typename decltype(tag)::Type;
    return for_groups<A>(args, Rule::kStates, [&](const auto& group) {
      prepare_kernel<Rule, A><<<group.chunks, kGroupThreads, 0, stream>>>(group, clip, rule, norms);
      if (const int32_t code = launched(args)) return code;
      rates_kernel<<<group.count, kGroupThreads, 0, stream>>>(group, clip, rule, norms);
      if (const int32_t code = launched(args)) return code;
      apply_kernel<Rule, A><<<group.chunks, kGroupThreads, 0, stream>>>(group, clip, rule, norms);
      return launched(args);
    });
  };
  if (const int32_t code = launch(Tag<float>{})) return code;
  return launch(Tag<double>{});
}

int32_t lamb(const KernelArgs* args) {
  return update(args, Lamb{attribute(args, 1), attribute(args, 5), attribute(args, 8), args->number(2), args->number(3),
                           args->number(4), args->number(6), args->flag(7)});
}
int32_t lars(const KernelArgs* args) {
  return update(args, Lars{attribute(args, 1), attribute(args, 4), args->number(2), args->number(3), args->flag(5), args->flag(6)});
}

int64_t norms_workspace(const KernelArgs* args) {
  const int64_t count = args->integer(0);
  int64_t numbers = count;
  for (int64_t i = 0; i < count; ++i) numbers += 2 * ((args->inputs[1 + i].numel + kGroupChunk - 1) / kGroupChunk);
  return 8 * numbers;
}

}  // namespace

LF_CUDA_KERNEL(lamb, lamb)
LF_CUDA_KERNEL(lars, lars)
LF_CUDA_WORKSPACE(lamb, norms_workspace)
LF_CUDA_WORKSPACE(lars, norms_workspace)
LF_CUDA_FROM_BLOCK(lamb, 1)
LF_CUDA_FROM_BLOCK(lamb, 5)
LF_CUDA_FROM_BLOCK(lamb, 8)
LF_CUDA_FROM_BLOCK(lars, 1)
LF_CUDA_FROM_BLOCK(lars, 4)

}  // namespace lf::cuda
