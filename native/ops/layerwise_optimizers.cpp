// lamb, lars: updates whose length is set by the norm of the tensor they change. Inputs as optimizer_group.h says; every
// tensor of the group is one layer, so fused matrices come in as their parts.
// lamb: m and v as Adam; r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd p; p -= lr |p| / |r| r.
// lars: v = momentum v + lr trust |p| / (|g| + wd |p|) (g + wd p); p -= v. In both the ratio is 1 where a norm is 0, and when
// `adapt` is false. Norms are summed in f64, in the order of chunks. Bound by bytes: two passes over memory.
// Sources: You et al., arXiv 1904.00962 and 1708.03888.
#include "ops/optimizer_group.h"

#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

int64_t norms_workspace(const OpCall& call) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < call.integer(0); ++i) chunks += (call.in(static_cast<int>(1 + i)).numel + kChunk - 1) / kChunk;
  return (2 * chunks + call.integer(0)) * int64_t{8};
}

LF_OP({.name = "lamb",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger},
                 {"lr", AttrType::kNumber},
                 {"beta1", AttrType::kNumber},
                 {"beta2", AttrType::kNumber},
                 {"eps", AttrType::kNumber},
                 {"weight_decay", AttrType::kNumber},
                 {"max_trust", AttrType::kNumber},
                 {"adapt", AttrType::kFlag},
                 {"step", AttrType::kInteger}},
       .shape = [](OpCall& call) { check_group(call, 2); },
       .cost = [](const OpCall& call) { return group_cost(call, 2, 30); },
       .workspace = norms_workspace})

LF_OP({.name = "lars",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger},
                 {"lr", AttrType::kNumber},
                 {"momentum", AttrType::kNumber},
                 {"trust", AttrType::kNumber},
                 {"weight_decay", AttrType::kNumber},
                 {"clip_rate", AttrType::kFlag},
                 {"adapt", AttrType::kFlag}},
       .shape = [](OpCall& call) { check_group(call, 1); },
       .cost = [](const OpCall& call) { return group_cost(call, 1, 12); },
       .workspace = norms_workspace})

}  // namespace
}  // namespace lf
#else

namespace lf {
namespace {

// Sums of squares of two streams of vectors, exact to about 1e-7: short runs in lanes, the rest in f64.
template <class V>
struct Squares {
  V lanes{};
  double total = 0;
  int64_t pending = 0;
  LF_INLINE void add(V x) {
    lanes += x * x;
    if (++pending == 256) flush();
  }
  LF_INLINE void flush() {
    total += static_cast<double>(reduce_add(lanes));
    lanes = V{};
    pending = 0;
  }
};

// first pass: f(tensor, from, to, partial) leaves two sums of squares a chunk in `partial`; then ratio(|p|, other norm)
// makes the factor of each tensor.
template <class F, class R>
double* layer_factors(const KernelArgs* args, const Group& g, F&& f, R&& ratio) {
  double* factors = static_cast<double*>(args->workspace);
  double* partial = factors + g.count;
  for_chunks(g.parameters, g.count, g.first,
             [&](int64_t i, int64_t chunk, int64_t from, int64_t to) { f(i, from, to, partial + 2 * chunk); });
  for (int64_t i = 0; i < g.count; ++i) {
    double sums[2] = {0, 0};
    for (int64_t chunk = g.first[i]; chunk < g.first[i + 1]; ++chunk) {
      sums[0] += partial[2 * chunk];
      sums[1] += partial[2 * chunk + 1];
    }
    factors[i] = ratio(__builtin_sqrt(sums[0]), __builtin_sqrt(sums[1]));
  }
  return factors;
}

template <class Acc>
struct LambNumbers {
  using V = typename Lanes<Acc>::V;
  V b1, rest1, b2, rest2, correction1, root, eps, decay, factor;
  LambNumbers(const KernelArgs* args, double multiplier) {
    const double beta1 = args->number(2), beta2 = args->number(3), step = args->number(8);
    b1 = constant<V>(beta1);
    rest1 = constant<V>(1 - beta1);
    b2 = constant<V>(beta2);
    rest2 = constant<V>(1 - beta2);
    correction1 = constant<V>(1 - __builtin_pow(beta1, step));
    root = constant<V>(__builtin_sqrt(1 - __builtin_pow(beta2, step)));
    eps = constant<V>(args->number(4));
    decay = constant<V>(args->number(5));
    factor = constant<V>(multiplier);
  }
  LF_INLINE V direction(V p, V m, V v) const { return m / correction1 / (sqrt(v) / root + eps) + decay * p; }
};

template <class Acc>
void lamb_moments(const Group& g, int64_t i, int64_t from, int64_t to, const LambNumbers<Acc>& c, double* norms) {
  using V = typename Lanes<Acc>::V;
  Acc *p = g.parameters[i].as<Acc>(), *m = g.states[i].as<Acc>(), *v = g.states[g.count + i].as<Acc>();
  const Acc* grad = g.grads[i].as<const Acc>();
  Squares<V> weights, directions;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    const V d = load_some(grad + at, n) * c.factor, value = load_some(p + at, n);
    V mean = load_some(m + at, n);
    mean += (d - mean) * c.rest1;
    const V square = load_some(v + at, n) * c.b2 + d * d * c.rest2;
    store_some(m + at, mean, n);
    store_some(v + at, square, n);
    weights.add(value);
    // Lanes past the end are zeros, and so is their direction.
    directions.add(c.direction(value, mean, square));
  });
  weights.flush();
  directions.flush();
  norms[0] = weights.total;
  norms[1] = directions.total;
}

template <class Acc>
void lamb_apply(const Group& g, int64_t i, int64_t from, int64_t to, const LambNumbers<Acc>& c, double rate) {
  using V = typename Lanes<Acc>::V;
  Acc *p = g.parameters[i].as<Acc>(), *m = g.states[i].as<Acc>(), *v = g.states[g.count + i].as<Acc>();
  const TensorView* copy = g.copies ? g.copies + i : nullptr;
  const V step = constant<V>(rate);
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    V value = load_some(p + at, n);
    value -= step * c.direction(value, load_some(m + at, n), load_some(v + at, n));
    store_some(p + at, value, n);
    store_copy<Acc>(copy, at, value, n);
  });
}

int32_t lamb(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  if (clip.skip || args->integer(0) == 0) return kOk;
  const Group g(args, 2);
  const LambNumbers<float> narrow(args, clip.multiplier);
  const LambNumbers<double> wide(args, clip.multiplier);
  const double lr = args->number(1), max_trust = args->number(6);
  const bool adapt = args->flag(7);
  const double* rates = layer_factors(
      args, g,
      [&](int64_t i, int64_t from, int64_t to, double* norms) {
        if (g.parameters[i].dtype == DType::kF64) lamb_moments<double>(g, i, from, to, wide, norms);
        else lamb_moments<float>(g, i, from, to, narrow, norms);
      },
      [&](double weight, double direction) {
        double trust = adapt && weight > 0 && direction > 0 ? weight / direction : 1;
        if (max_trust > 0 && trust > max_trust) trust = max_trust;
        return lr * trust;
      });
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    if (g.parameters[i].dtype == DType::kF64) lamb_apply<double>(g, i, from, to, wide, rates[i]);
    else lamb_apply<float>(g, i, from, to, narrow, rates[i]);
  });
  return kOk;
}

template <class Acc>
void lars_norms(const Group& g, int64_t i, int64_t from, int64_t to, double multiplier, double* norms) {
  using V = typename Lanes<Acc>::V;
  const V factor = constant<V>(multiplier);
  Squares<V> weights, grads;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    weights.add(load_some(g.parameters[i].as<const Acc>() + from + offset, n));
    grads.add(load_some(g.grads[i].as<const Acc>() + from + offset, n) * factor);
  });
  weights.flush();
  grads.flush();
  norms[0] = weights.total;
  norms[1] = grads.total;
}

template <class Acc>
void lars_apply(const Group& g, int64_t i, int64_t from, int64_t to, const KernelArgs* args, double multiplier, double rate) {
  using V = typename Lanes<Acc>::V;
  const V momentum = constant<V>(args->number(2)), decay = constant<V>(args->number(4)), step = constant<V>(rate);
  const V factor = constant<V>(multiplier);
  Acc *p = g.parameters[i].as<Acc>(), *buffer = g.states[i].as<Acc>();
  const Acc* grad = g.grads[i].as<const Acc>();
  const TensorView* copy = g.copies ? g.copies + i : nullptr;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    V value = load_some(p + at, n);
    const V d = load_some(grad + at, n) * factor + value * decay;
    const V velocity = load_some(buffer + at, n) * momentum + step * d;
    value -= velocity;
    store_some(buffer + at, velocity, n);
    store_some(p + at, value, n);
    store_copy<Acc>(copy, at, value, n);
  });
}

int32_t lars(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  if (clip.skip || args->integer(0) == 0) return kOk;
  const Group g(args, 1);
  const double lr = args->number(1), trust = args->number(3), decay = args->number(4);
  const bool clip_rate = args->flag(5), adapt = args->flag(6);
  const double* rates = layer_factors(
      args, g,
      [&](int64_t i, int64_t from, int64_t to, double* norms) {
        if (g.parameters[i].dtype == DType::kF64) lars_norms<double>(g, i, from, to, clip.multiplier, norms);
        else lars_norms<float>(g, i, from, to, clip.multiplier, norms);
      },
      [&](double weight, double grad) {
        if (!adapt || weight == 0 || grad == 0) return lr;
        const double local = trust * weight / (grad + decay * weight);
        // The clipped form never exceeds the plain rate.
        return clip_rate ? (local < lr ? local : lr) : lr * local;
      });
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    if (g.parameters[i].dtype == DType::kF64) lars_apply<double>(g, i, from, to, args, clip.multiplier, rates[i]);
    else lars_apply<float>(g, i, from, to, args, clip.multiplier, rates[i]);
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(lamb, lamb)
LF_CPU_KERNEL(lars, lars)

}  // namespace lf
#endif
