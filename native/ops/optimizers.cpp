// adamw, sgd: one call updates all parameters of a group, in one pass over memory. grad_norm_clip: the global gradient norm
// and what to do about it, without a host round trip.
// Inputs as optimizer_group.h says. Bound by bytes. Order of operations as in PyTorch, so that trajectories agree to the last
// bits. Sources: Loshchilov and Hutter, arXiv 1711.05101; Sutskever et al., ICML 2013.
#include "ops/optimizer_group.h"

#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

LF_OP({.name = "adamw",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger},
                 {"lr", AttrType::kNumber},
                 {"beta1", AttrType::kNumber},
                 {"beta2", AttrType::kNumber},
                 {"eps", AttrType::kNumber},
                 {"weight_decay", AttrType::kNumber},
                 {"step", AttrType::kInteger}},
       .shape =
           [](OpCall& call) {
             check_group(call, 2);
             if (call.integer(6) < 1) call.fail(kArgument, "step counts from 1, got %lld", (long long)call.integer(6));
           },
       .cost = [](const OpCall& call) { return group_cost(call, 2, 15); }})

LF_OP({.name = "sgd",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger},
                 {"lr", AttrType::kNumber},
                 {"momentum", AttrType::kNumber},
                 {"dampening", AttrType::kNumber},
                 {"nesterov", AttrType::kFlag},
                 {"weight_decay", AttrType::kNumber},
                 {"first", AttrType::kFlag}},
       .shape =
           [](OpCall& call) {
             check_group(call, call.number(2) != 0 ? 1 : 0);
             if (call.flag(4) && (call.number(2) <= 0 || call.number(3) != 0)) {
               call.fail(kArgument, "Nesterov needs a momentum above 0 and no dampening");
             }
           },
       .cost = [](const OpCall& call) { return group_cost(call, call.number(2) != 0 ? 1 : 0, 6); }})

// -> norm [1] of all gradients together; clip [2] = [unscale * min(1, max_norm / (norm * unscale + 1e-6)), norm not
// finite]. max_norm 0 does not clip. `unscale` undoes a loss scale first.
LF_OP({.name = "grad_norm_clip",
       .inputs = {{.name = "grads", .variadic = true}},
       .attrs = {{"max_norm", AttrType::kNumber}, {"unscale", AttrType::kNumber}},
       .shape =
           [](OpCall& call) {
             bool f64 = call.num_inputs > 0;
             for (int i = 0; i < call.num_inputs; ++i) {
               const DType dtype = call.in(i).dtype;
               if (dtype != DType::kF32 && dtype != DType::kF64) call.fail(kDType, "gradient %d is %s, needs f32 or f64", i, dtype_name(dtype));
               f64 = f64 && dtype == DType::kF64;
             }
             const DType dtype = f64 ? DType::kF64 : DType::kF32;
             call.output(dtype, {1});
             call.output(dtype, {2});
           },
       .cost =
           [](const OpCall& call) {
             double numbers = 0;
             for (int i = 0; i < call.num_inputs; ++i) numbers += static_cast<double>(call.in(i).numel);
             return io_cost_with_flops(call, 2 * numbers);
           },
       .workspace =
           [](const OpCall& call) {
             int64_t chunks = 0;
             for (int i = 0; i < call.num_inputs; ++i) chunks += (call.in(i).numel + kChunk - 1) / kChunk;
             return (chunks + call.num_inputs + 1) * int64_t{8};
           }})

}  // namespace
}  // namespace lf
#else

namespace lf {
namespace {

template <class Acc>
void adamw_chunk(const Group& g, int64_t i, int64_t from, int64_t to, const KernelArgs* args, double multiplier) {
  using V = typename Lanes<Acc>::V;
  const double lr = args->number(1), beta1 = args->number(2), beta2 = args->number(3), step = args->number(6);
  const double correction1 = 1 - __builtin_pow(beta1, step), correction2 = 1 - __builtin_pow(beta2, step);
  const V decay = constant<V>(1 - lr * args->number(5)), rest1 = constant<V>(1 - beta1), b2 = constant<V>(beta2);
  const V rest2 = constant<V>(1 - beta2), eps = constant<V>(args->number(4)), step_size = constant<V>(lr / correction1);
  const V root = constant<V>(__builtin_sqrt(correction2)), factor = constant<V>(multiplier);
  Acc *p = g.parameters[i].as<Acc>(), *m = g.states[i].as<Acc>(), *v = g.states[g.count + i].as<Acc>();
  const Acc* grad = g.grads[i].as<const Acc>();
  const TensorView* copy = g.copies ? g.copies + i : nullptr;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    const V d = load_some(grad + at, n) * factor;
    V mean = load_some(m + at, n);
    mean += (d - mean) * rest1;
    const V square = load_some(v + at, n) * b2 + d * d * rest2;
    V value = load_some(p + at, n) * decay;
    value -= step_size * (mean / (sqrt(square) / root + eps));
    store_some(m + at, mean, n);
    store_some(v + at, square, n);
    store_some(p + at, value, n);
    store_copy<Acc>(copy, at, value, n);
  });
}

template <class Acc>
void sgd_chunk(const Group& g, int64_t i, int64_t from, int64_t to, const KernelArgs* args, double multiplier) {
  using V = typename Lanes<Acc>::V;
  const V lr = constant<V>(args->number(1)), momentum = constant<V>(args->number(2));
  const V kept = constant<V>(1 - args->number(3)), decay = constant<V>(args->number(5)), factor = constant<V>(multiplier);
  const bool nesterov = args->flag(4), first = args->flag(6), with_momentum = args->number(2) != 0;
  Acc* p = g.parameters[i].as<Acc>();
  Acc* buffer = with_momentum ? g.states[i].as<Acc>() : nullptr;
  const Acc* grad = g.grads[i].as<const Acc>();
  const TensorView* copy = g.copies ? g.copies + i : nullptr;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    V value = load_some(p + at, n);
    V d = load_some(grad + at, n) * factor + value * decay;
    if (with_momentum) {
      // The first step takes the gradient itself, without dampening.
      const V velocity = first ? d : load_some(buffer + at, n) * momentum + d * kept;
      store_some(buffer + at, velocity, n);
      d = nesterov ? d + velocity * momentum : velocity;
    }
    value -= lr * d;
    store_some(p + at, value, n);
    store_copy<Acc>(copy, at, value, n);
  });
}

int32_t adamw(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  if (clip.skip || args->integer(0) == 0) return kOk;
  const Group g(args, 2);
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    if (g.parameters[i].dtype == DType::kF64) adamw_chunk<double>(g, i, from, to, args, clip.multiplier);
    else adamw_chunk<float>(g, i, from, to, args, clip.multiplier);
  });
  return kOk;
}

int32_t sgd(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  if (clip.skip || args->integer(0) == 0) return kOk;
  const Group g(args, args->number(2) != 0 ? 1 : 0);
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    if (g.parameters[i].dtype == DType::kF64) sgd_chunk<double>(g, i, from, to, args, clip.multiplier);
    else sgd_chunk<float>(g, i, from, to, args, clip.multiplier);
  });
  return kOk;
}

// Squares are added in f32 lanes over short runs and in f64 beyond, so the norm is exact to about 1e-7.
template <class T>
double sum_of_squares(const T* data, int64_t from, int64_t to) {
  using V = typename Lanes<T>::V;
  constexpr int64_t kRun = 256 * Lanes<T>::n;
  double total = 0;
  for (int64_t run = from; run < to; run += kRun) {
    const int64_t count = run + kRun < to ? kRun : to - run;
    V sum{};
    for_lanes<T>(count, [&](int64_t i, int64_t n) {
      const V x = load_some(data + run + i, n);
      sum += x * x;
    });
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

int32_t grad_norm_clip(const KernelArgs* args) {
  const int64_t count = args->num_inputs;
  int64_t* first = static_cast<int64_t*>(args->workspace);
  double* partial = reinterpret_cast<double*>(first + count + 1);
  number_chunks(args->inputs, count, first);
  for_chunks(args->inputs, count, first, [&](int64_t i, int64_t chunk, int64_t from, int64_t to) {
    const TensorView& grad = args->inputs[i];
    partial[chunk] = grad.dtype == DType::kF64 ? sum_of_squares(grad.as<const double>(), from, to)
                                               : sum_of_squares(grad.as<const float>(), from, to);
  });
  double total = 0;
  for (int64_t chunk = 0; chunk < first[count]; ++chunk) total += partial[chunk];
  const double norm = __builtin_sqrt(total), max_norm = args->number(0), unscale = args->number(1);
  double multiplier = unscale;
  if (max_norm > 0) {
    const double share = max_norm / (norm * unscale + 1e-6);
    if (share < 1) multiplier *= share;
  }
  const double skip = norm - norm == 0 ? 0 : 1;  // infinite and NaN norms fail this
  const TensorView &norm_out = args->outputs[0], &clip_out = args->outputs[1];
  if (norm_out.dtype == DType::kF64) {
    norm_out.as<double>()[0] = norm;
    clip_out.as<double>()[0] = multiplier;
    clip_out.as<double>()[1] = skip;
  } else {
    norm_out.as<float>()[0] = static_cast<float>(norm);
    clip_out.as<float>()[0] = static_cast<float>(multiplier);
    clip_out.as<float>()[1] = static_cast<float>(skip);
  }
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(adamw, adamw)
LF_CPU_KERNEL(sgd, sgd)
LF_CPU_KERNEL(grad_norm_clip, grad_norm_clip)

}  // namespace lf
#endif
