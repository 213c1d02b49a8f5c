// The optimisers that are one elementwise rule of api/optimizer_rules.h: one launch for a group, which reads and writes every
// number once (optimizer_group.cuh). One thread of each block makes the rule's constants from the attributes, in f64.
// Bound by bytes; 256 threads a block, 3 to 8 of them a multiprocessor.
#include "cuda/optimizer_group.cuh"

namespace lf {
namespace {

// What the rules ask for beyond CUDA's own functions.
template <class V>
__host__ __device__ __forceinline__ V constant(double x) {
  return static_cast<V>(x);
}
template <class V>
__host__ __device__ __forceinline__ V sign(V x) {
  return x > 0 ? V(1) : (x < 0 ? V(-1) : x);
}

}  // namespace
}  // namespace lf

#include "api/optimizer_rules.h"

namespace lf::cuda {
namespace {

constexpr int kMostAttributes = 8;

struct Attributes {
  int count;
  Attribute of[kMostAttributes];
};

template <class Rule, class A, class Group>
__global__ void __launch_bounds__(kGroupThreads)
    rule_kernel(const __grid_constant__ Group group, Clip clip, const __grid_constant__ Attributes attributes) {
  if (clip.at(1) != 0) return;
  __shared__ A shared[Rule::kConstants];
  if (threadIdx.x == 0) {
    double given[kMostAttributes], made[Rule::kConstants];
    for (int i = 0; i < kMostAttributes; ++i) given[i] = i < attributes.count ? attributes.of[i].get() : 0;
    Rule::constants(given, made);
    for (int i = 0; i < Rule::kConstants; ++i) shared[i] = static_cast<A>(made[i]);
  }
  __syncthreads();
  A c[Rule::kConstants];
#pragma unroll
  for (int i = 0; i < Rule::kConstants; ++i) c[i] = shared[i];
  const A factor = static_cast<A>(clip.at(0));
  const GroupTensors& t = group.of[owner_of(group, blockIdx.x)];
  change_chunk<A, Rule::kStates, kEverything>(t, blockIdx.x - t.first, [&](A& p, A g, A* s) { Rule::update(p, g * factor, s, c); });
}

template <class Rule, int count>
int32_t apply_rule(const KernelArgs* args) {
  static_assert(count <= kMostAttributes && Rule::kStates <= kMostStates);
  Attributes attributes{count, {}};
  for (int i = 0; i < count; ++i) attributes.of[i] = attribute(args, 1 + i);
  const auto launch = [&](auto tag) {
    using A = typename decltype(tag)::Type;
    return for_groups<A>(args, Rule::kStates, [&](const auto& group) {
      rule_kernel<Rule, A><<<group.chunks, kGroupThreads, 0, stream_of(args).stream>>>(group, clip_of(args), attributes);
      return launched(args);
    });
  };
  if (const int32_t code = launch(Tag<float>{})) return code;
  return launch(Tag<double>{});
}

struct FromBlock {
  FromBlock(const char* op, int count) {
    for (int i = 1; i <= count; ++i) register_from_block(op, i);
  }
};
template <class... Names>
constexpr int count_of(Names...) {
  return sizeof...(Names);
}

}  // namespace

#define LF_RULE_KERNEL(op, rule, flops, ...)                                \
  LF_CUDA_KERNEL(op, (apply_rule<rules::rule, count_of(__VA_ARGS__)>))      \
  namespace {                                                               \
  const FromBlock from_block_##op(#op, count_of(__VA_ARGS__));              \
  }
LF_OPTIMIZER_RULES(LF_RULE_KERNEL)

}  // namespace lf::cuda
