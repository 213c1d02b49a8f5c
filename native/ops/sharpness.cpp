// sam_ascend: sharpness-aware minimisation's move of all parameters of a group, p += rho g / (|g| + 1e-12) with the norm over
// all of them; for the parameters that `scaled` numbers (ASAM) p += rho T^2 g / |T g|, T = |p| + eta, and T = 1 elsewhere.
// -> saved: the parameters as they were, one after the other, each from a multiple of kSavedUnit numbers on.
// sam_restore: writes them back, bit for bit.
// Inputs as optimizer_group.h says; those of sam_restore are `saved`, then parameters, then maybe copies.
// Bound by bytes: the gradients are read twice, because the norm must be known before anything moves.
// Sources: Foret et al., arXiv 2010.01412; Kwon et al., arXiv 2102.11600.
#include "ops/optimizer_group.h"

namespace lf {
namespace {

constexpr int64_t kSavedUnit = 16;
[[maybe_unused]] constexpr int64_t saved_size(int64_t numel) { return (numel + kSavedUnit - 1) / kSavedUnit * kSavedUnit; }

}  // namespace
}  // namespace lf

#ifdef LF_SCHEMA_PASS

namespace lf {
namespace {

int64_t saved_numbers(const OpCall& call) {
  int64_t total = 0;
  for (int64_t i = 0; i < call.integer(0); ++i) total += saved_size(call.in(static_cast<int>(1 + i)).numel);
  return total;
}
DType format_of(const OpCall& call) { return call.integer(0) ? call.in(1).dtype : DType::kF32; }

void check_one_format(const OpCall& call) {
  for (int64_t i = 1; i < call.integer(0); ++i) {
    const DType dtype = call.in(static_cast<int>(1 + i)).dtype;
    if (dtype != format_of(call)) call.fail(kDType, "parameter %lld is %s, the first is %s", (long long)i, dtype_name(dtype), dtype_name(format_of(call)));
  }
}

void ascend_shape(OpCall& call) {
  check_group(call, 0);
  check_one_format(call);
  for (int k = 0; k < call.list_size(3); ++k) {
    const int64_t i = call.item(3, k);
    if (i < 0 || i >= call.integer(0)) call.fail(kArgument, "scaled names parameter %lld of %lld", (long long)i, (long long)call.integer(0));
  }
  call.output(format_of(call), {saved_numbers(call)});
}

void restore_shape(OpCall& call) {
  const int64_t count = call.integer(0), given = call.num_inputs - 1;
  if (given != count && given != 2 * count) call.fail(kArgument, "%lld tensors for %lld parameters", (long long)given, (long long)count);
  for (int64_t i = 0; i < given; ++i) {
    const int at = static_cast<int>(1 + i);
    if (!call.has(at) && i < count) call.fail(kArgument, "tensor %d is missing", at);
    if (call.has(at) && i >= count && call.in(at).numel != call.in(at - static_cast<int>(count)).numel) {
      call.fail(kShape, "parameter %lld is %s but its copy is %s", (long long)(i - count), view_text(call.in(at - static_cast<int>(count))).c_str(),
                view_text(call.in(at)).c_str());
    }
  }
  check_one_format(call);
  if (call.in(0).numel != saved_numbers(call) || call.in(0).dtype != format_of(call)) {
    call.fail(kShape, "saved is %s, the parameters take %s [%lld]", view_text(call.in(0)).c_str(), dtype_name(format_of(call)),
              (long long)saved_numbers(call));
  }
}

// Reads gradients twice (where T is not 1, parameters too), parameters once; writes what was there, parameters and copies.
Cost ascend_cost(const OpCall& call) {
  const int64_t count = call.integer(0);
  Cost cost = group_cost(call, 0, 6);
  for (int64_t i = 0; i < count; ++i) {
    const double bytes = bytes_of(call.in(static_cast<int>(1 + i)));
    cost.bytes_read += bytes;
    cost.bytes_written += bytes;
  }
  for (int k = 0; k < call.list_size(3); ++k) cost.bytes_read += bytes_of(call.in(static_cast<int>(1 + call.item(3, k))));
  return cost;
}
Cost restore_cost(const OpCall& call) {
  Cost cost;
  for (int64_t i = 1; i < call.num_inputs; ++i) cost.bytes_written += bytes_of(call.in(static_cast<int>(i)));
  for (int64_t i = 0; i < call.integer(0); ++i) cost.bytes_read += bytes_of(call.in(static_cast<int>(1 + i)));
  return cost;
}

LF_OP({.name = "sam_ascend",
       .inputs = group_inputs(),
       .attrs = {{"count", AttrType::kInteger}, {"rho", AttrType::kNumber}, {"eta", AttrType::kNumber}, {"scaled", AttrType::kIntegers}},
       .shape = ascend_shape,
       .cost = ascend_cost,
       .workspace =
           [](const OpCall& call) {
             int64_t chunks = 0;
             for (int64_t i = 0; i < call.integer(0); ++i) chunks += (call.in(static_cast<int>(1 + i)).numel + kChunk - 1) / kChunk;
             return (chunks + 1) * int64_t{8};
           }})

LF_OP({.name = "sam_restore",
       .inputs = {{"saved"}, {.name = "tensors", .optional = true, .variadic = true, .mutated = true}},
       .attrs = {{"count", AttrType::kInteger}},
       .shape = restore_shape,
       .cost = restore_cost})

}  // namespace
}  // namespace lf
#else

namespace lf {
namespace {

// Where each parameter lies in `saved`, in the thread's scratch.
const int64_t* saved_places(const TensorView* parameters, int64_t count) {
  auto* places = static_cast<int64_t*>(cpu::scratch(1, static_cast<size_t>(count) * 8 + 8));
  int64_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    places[i] = at;
    at += saved_size(parameters[i].numel);
  }
  return places;
}

// As in grad_norm_clip: lanes add up over short runs, and f64 beyond.
template <class Acc>
double squares(const Acc* p, const Acc* g, int64_t from, int64_t to, bool scale, double eta) {
  using V = typename Lanes<Acc>::V;
  constexpr int64_t kRun = 256 * Lanes<Acc>::n;
  double total = 0;
  for (int64_t run = from; run < to; run += kRun) {
    V sum{};
    for_lanes<Acc>(run + kRun < to ? kRun : to - run, [&](int64_t i, int64_t n) {
      V x = load_some(g + run + i, n);
      if (scale) x *= abs(load_some(p + run + i, n)) + constant<V>(eta);
      sum += x * x;
    });
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

template <class Acc>
int32_t ascend(const KernelArgs* args) {
  using V = typename Lanes<Acc>::V;
  if (args->integer(0) == 0) return kOk;
  const Group g(args, 0);
  const Clip clip(args->inputs[0]);
  const double rho = args->number(1), eta = args->number(2);
  auto* scaled = static_cast<bool*>(cpu::scratch(2, static_cast<size_t>(g.count) + 8));
  for (int64_t i = 0; i < g.count; ++i) scaled[i] = false;
  for (int k = 0; k < args->list_size(3); ++k) scaled[args->item(3, k)] = true;
  const int64_t* places = saved_places(g.parameters, g.count);
  auto* partial = static_cast<double*>(args->workspace);
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t chunk, int64_t from, int64_t to) {
    partial[chunk] = squares(g.parameters[i].as<const Acc>(), g.grads[i].as<const Acc>(), from, to, scaled[i], eta);
  });
  double total = 0;
  for (int64_t chunk = 0; chunk < g.first[g.count]; ++chunk) total += partial[chunk];
  // The multiplier of the gradients counts in their norm as well.
  const Acc norm = static_cast<Acc>(__builtin_sqrt(total) * clip.multiplier);
  const double factor = static_cast<double>(1 / (norm + static_cast<Acc>(1e-12))) * clip.multiplier;
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    Acc *p = g.parameters[i].as<Acc>(), *saved = args->outputs[0].as<Acc>() + places[i];
    const Acc* grad = g.grads[i].as<const Acc>();
    for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
      const int64_t at = from + offset;
      const V before = load_some(p + at, n);
      store_some(saved + at, before, n);
      if (clip.skip) return;
      V move = load_some(grad + at, n);
      if (scaled[i]) {
        const V size = abs(before) + constant<V>(eta);
        move = move * size * size;
      }
      const V after = before + move * constant<V>(factor) * constant<V>(rho);
      store_some(p + at, after, n);
      store_copy<Acc>(g.copies ? g.copies + i : nullptr, at, after, n);
    });
  });
  return kOk;
}

template <class Acc>
int32_t restore(const KernelArgs* args) {
  const int64_t count = args->integer(0);
  const TensorView *parameters = args->inputs + 1, *copies = args->num_inputs - 1 == 2 * count ? parameters + count : nullptr;
  auto* first = static_cast<int64_t*>(cpu::scratch(3, static_cast<size_t>(count + 1) * 8));
  number_chunks(parameters, count, first);
  const int64_t* places = saved_places(parameters, count);
  for_chunks(parameters, count, first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    const Acc* saved = args->inputs[0].as<const Acc>() + places[i];
    for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
      const auto p = load_some(saved + from + offset, n);
      store_some(parameters[i].as<Acc>() + from + offset, p, n);
      store_copy<Acc>(copies ? copies + i : nullptr, from + offset, p, n);
    });
  });
  return kOk;
}

int32_t sam_ascend(const KernelArgs* args) {
  return args->outputs[0].dtype == DType::kF64 ? ascend<double>(args) : ascend<float>(args);
}
int32_t sam_restore(const KernelArgs* args) {
  return args->inputs[0].dtype == DType::kF64 ? restore<double>(args) : restore<float>(args);
}

}  // namespace

LF_CPU_KERNEL(sam_ascend, sam_ascend)
LF_CPU_KERNEL(sam_restore, sam_restore)

}  // namespace lf
#endif
