// What the update kernels of this folder share: one call updates all parameters of a group, in one pass over memory.
// Inputs: clip, then `count` parameters, `count` gradients, the state tensors (`count` each), and optionally `count`
// low-precision copies (absent where a parameter has none), written in the same pass. clip is [multiplier, skip]: gradients
// are multiplied by the first, and a second that is not 0 leaves everything untouched. Absent: 1 and 0. Parameters,
// gradients and state share f32 (or f64, for checks); the first attribute is `count`.
#pragma once
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements; also in the kernel part

[[maybe_unused]] void check_group(OpCall& call, int states) {
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
[[maybe_unused]] Cost group_cost(const OpCall& call, int states, double flops) {
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

}  // namespace
}  // namespace lf
#endif
