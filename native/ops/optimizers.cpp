// adamw, sgd: one call updates all parameters of a group, in one pass over memory. grad_norm_clip: the global gradient norm
// and what to do about it, without a host round trip.
// Inputs of an update: clip, then `count` parameters, `count` gradients, the state tensors (`count` each), and optionally
// `count` low-precision copies (absent where a parameter has none), written in the same pass. clip is [multiplier, skip]:
// gradients are multiplied by the first, and a second that is not 0 leaves everything untouched. Absent: 1 and 0.
// Parameters, gradients and state share f32 (or f64, for checks). Bound by bytes. Order of operations as in PyTorch, so that
// trajectories agree to the last bits. Sources: Loshchilov and Hutter, arXiv 1711.05101; Sutskever et al., ICML 2013.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements; also in the kernel part

void check_group(OpCall& call, int states) {
  const int64_t count = call.integer(0);
  const int64_t given = call.num_inputs - 1;
  if (given != count * (2 + states) && given != count * (3 + states)) {
    call.fail(kArgument, "%lld tensors for %lld parameters; needs parameters, gradients, %d state tensors each and maybe copies",
              (long long)given, (long long)count, states);
  }
  if (call.has(0) && (call.in(0).numel != 2 || (call.in(0).dtype != DType::kF32 && call.in(0).dtype != DType::kF64))) {
    call.fail(kShape, "clip is %s, needs f32 or f64 [2]", view_text(call.in(0)).c_str());
  }
  for (int64_t i = 0; i < count; ++i) {
    const TensorView& parameter = call.in(static_cast<int>(1 + i));
    if (parameter.dtype != DType::kF32 && parameter.dtype != DType::kF64) {
      call.fail_hint(kDType, "keep f32 masters and compute in 16 bits with setComputeDType()", "parameter %lld is %s, needs f32 or f64",
                     (long long)i, dtype_name(parameter.dtype));
    }
    for (int64_t part = 1; part * count < given; ++part) {
      const int at = static_cast<int>(1 + part * count + i);
      const bool copy = part == 2 + states;
      if (!call.has(at)) {
        if (!copy) call.fail(kArgument, "tensor %d is missing", at);
        continue;
      }
      const TensorView& other = call.in(at);
      if (other.numel != parameter.numel || (!copy && other.dtype != parameter.dtype)) {
        call.fail(kShape, "parameter %lld is %s but what belongs to it is %s", (long long)i, view_text(parameter).c_str(),
                  view_text(other).c_str());
      }
    }
  }
}

// `written` of the parts are written, all but the copies are read.
Cost group_cost(const OpCall& call, int states, double flops) {
  Cost cost;
  const int64_t count = call.integer(0);
  for (int64_t i = 1; i < call.num_inputs; ++i) {
    const double bytes = bytes_of(call.in(static_cast<int>(i)));
    const int64_t part = (i - 1) / (count ? count : 1);
    if (part < 2 + states) cost.bytes_read += bytes;
    if (part != 1) cost.bytes_written += bytes;
    if (part == 0) cost.flops += flops * static_cast<double>(call.in(static_cast<int>(i)).numel);
  }
  return cost;
}

const std::vector<InputSpec>& group_inputs() {
  static const std::vector<InputSpec> kInputs = {
      {.name = "clip", .optional = true}, {.name = "tensors", .optional = true, .variadic = true, .mutated = true}};
  return kInputs;
}

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
#include "cpu/simd.h"

namespace lf {
namespace {

constexpr int64_t kChunk = 1 << 14;

// Chunks of all tensors in one line: first[i] is the number of the first chunk of tensor i; first[count] the total.
void number_chunks(const TensorView* tensors, int64_t count, int64_t* first) {
  first[0] = 0;
  for (int64_t i = 0; i < count; ++i) first[i + 1] = first[i] + (tensors[i].numel + kChunk - 1) / kChunk;
}

// f(tensor, begin, end) for every chunk. `grain`: chunks a thread takes at a time.
template <class F>
void for_chunks(const TensorView* tensors, int64_t count, const int64_t* first, F&& f) {
  cpu::parallel_for(first[count], 2, [&](int64_t begin, int64_t end) {
    int64_t low = 0, high = count;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (first[middle] <= begin) low = middle; else high = middle;
    }
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first[low + 1]) ++low;
      const int64_t from = (chunk - first[low]) * kChunk;
      const int64_t to = from + kChunk < tensors[low].numel ? from + kChunk : tensors[low].numel;
      f(low, chunk, from, to);
    }
  });
}

template <class Acc>
void store_copy(const TensorView* copy, int64_t at, typename Lanes<Acc>::V value, int64_t n) {
  if (!copy || !copy->present()) return;
  if constexpr (sizeof(Acc) == 4) {
    if (copy->dtype == DType::kBF16) store_some(copy->as<bf16>() + at, value, n);
    if (copy->dtype == DType::kF16) store_some(copy->as<f16>() + at, value, n);
  }
}

struct Clip {
  double multiplier = 1;
  bool skip = false;
  explicit Clip(const TensorView& clip) {
    if (!clip.present()) return;
    const bool f64 = clip.dtype == DType::kF64;
    multiplier = f64 ? clip.as<const double>()[0] : static_cast<double>(clip.as<const float>()[0]);
    skip = (f64 ? clip.as<const double>()[1] : static_cast<double>(clip.as<const float>()[1])) != 0;
  }
};

// The tensors of one group; f(i, from, to) is called per chunk.
struct Group {
  int64_t count;
  const TensorView *parameters, *grads, *states, *copies;
  int64_t* first;
  Group(const KernelArgs* args, int num_states) {
    count = args->integer(0);
    parameters = args->inputs + 1;
    grads = parameters + count;
    states = grads + count;
    copies = args->num_inputs - 1 == count * (3 + num_states) ? states + num_states * count : nullptr;
    first = static_cast<int64_t*>(cpu::scratch(3, static_cast<size_t>(count + 1) * 8));
    number_chunks(parameters, count, first);
  }
};

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
