#include "core/op.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sstream>

namespace lf {

const char* dtype_name(DType dtype) {
  static constexpr const char* kNames[kNumDTypes] = {"f32", "f16", "bf16", "f64", "i8", "u8", "i32", "i64", "bool"};
  const int i = static_cast<int>(dtype);
  return i >= 0 && i < kNumDTypes ? kNames[i] : "?";
}

std::string shape_text(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.rank; ++i) {
    if (i) text += ", ";
    text += std::to_string(view.shape[i]);
  }
  return text + "]";
}

std::string view_text(const TensorView& view) {
  if (!view.present()) return "absent";
  return std::string(dtype_name(view.dtype)) + " " + shape_text(view);
}

// 2^56 elements of 8 bytes are beyond any address space, and their byte count still fits 64 bits.
constexpr int64_t kMaxElements = int64_t{1} << 56;

TensorView make_view(DType dtype, const int64_t* shape, int rank) {
  TensorView view{};
  view.dtype = dtype;
  view.rank = rank;
  view.numel = 1;
  for (int i = 0; i < rank; ++i) {
    view.shape[i] = shape[i];
    view.numel *= shape[i];
  }
  return view;
}

namespace {
std::string format_list(const char* format, va_list list) {
  va_list copy;
  va_copy(copy, list);
  const int size = std::vsnprintf(nullptr, 0, format, copy);
  va_end(copy);
  std::string text(static_cast<size_t>(size), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, list);
  return text;
}
}  // namespace

void OpCall::fail(Code code, const char* format, ...) const {
  va_list list;
  va_start(list, format);
  std::string text = format_list(format, list);
  va_end(list);
  throw OpError(code, std::string(op->name) + ": " + text);
}

void OpCall::fail_hint(Code code, const char* hint, const char* format, ...) const {
  va_list list;
  va_start(list, format);
  std::string text = format_list(format, list);
  va_end(list);
  throw OpError(code, std::string(op->name) + ": " + text, hint);
}

void OpCall::output(DType dtype, const int64_t* shape, int rank) {
  if (num_outputs == kMaxOutputs) fail(kArgument, "more than %d outputs", kMaxOutputs);
  for (int i = 0; i < rank; ++i) {
    if (shape[i] < 0) fail(kShape, "axis %d of the result would have the negative size %lld", i, (long long)shape[i]);
  }
  // Sizes of 0 do not excuse the others: their product is used as a stride.
  int64_t elements = 1;
  for (int i = 0; i < rank; ++i) {
    const int64_t size = shape[i] ? shape[i] : 1;
    if (size > kMaxElements / elements) {
      TensorView wanted{};
      wanted.rank = rank;
      std::copy(shape, shape + rank, wanted.shape);
      fail(kShape, "the result %s would have too many elements", shape_text(wanted).c_str());
    }
    elements *= size;
  }
  outputs[num_outputs++] = make_view(dtype, shape, rank);
}

void OpCall::output(DType dtype, std::initializer_list<int64_t> shape) {
  output(dtype, shape.begin(), static_cast<int>(shape.size()));
}

const char* OpCall::input_name(int i) const {
  const auto last = static_cast<int>(op->inputs.size()) - 1;
  return op->inputs[static_cast<size_t>(std::min(i, last))].name;
}

void OpCall::check_rank(int i, int min_rank, int max_rank) const {
  const TensorView& view = inputs[i];
  if (view.rank >= min_rank && view.rank <= max_rank) return;
  if (min_rank == max_rank) {
    fail(kShape, "%s has shape %s, needs %d axes", input_name(i), shape_text(view).c_str(), min_rank);
  }
  fail(kShape, "%s has shape %s, needs at least %d axes", input_name(i), shape_text(view).c_str(), min_rank);
}

void OpCall::check_dtype(int i, DType dtype) const {
  if (inputs[i].dtype == dtype) return;
  fail(kDType, "%s is %s, needs %s", input_name(i), dtype_name(inputs[i].dtype), dtype_name(dtype));
}

void OpCall::check_floating(int i) const {
  if (is_floating(inputs[i].dtype)) return;
  fail_hint(kDType, "cast it first", "%s is %s, needs f32, f16, bf16 or f64", input_name(i),
            dtype_name(inputs[i].dtype));
}

void OpCall::check_same_shape(int i, int j) const {
  const TensorView &a = inputs[i], &b = inputs[j];
  if (a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape)) return;
  fail(kShape, "%s has shape %s and %s has shape %s; they must be equal", input_name(i), shape_text(a).c_str(),
       input_name(j), shape_text(b).c_str());
}

void OpCall::check_same_dtype(int i, int j) const {
  if (inputs[i].dtype == inputs[j].dtype) return;
  fail_hint(kDType, "cast one of them", "%s is %s and %s is %s; they must be equal", input_name(i),
            dtype_name(inputs[i].dtype), input_name(j), dtype_name(inputs[j].dtype));
}

int OpCall::check_axis(int attr, const TensorView& view) const {
  const int64_t axis = integer(attr);
  const int64_t positive = axis < 0 ? axis + view.rank : axis;
  if (positive < 0 || positive >= view.rank) {
    fail(kShape, "axis %lld is out of range for shape %s", (long long)axis, shape_text(view).c_str());
  }
  return static_cast<int>(positive);
}

Cost io_cost_with_flops(const OpCall& call, double flops) {
  Cost cost;
  cost.flops = flops;
  for (int i = 0; i < call.num_inputs; ++i) cost.bytes_read += bytes_of(call.inputs[i]);
  for (int i = 0; i < call.num_outputs; ++i) cost.bytes_written += bytes_of(call.outputs[i]);
  return cost;
}

namespace {
// Leaked on purpose: process.exit() runs static destructors while stream threads still work.
std::vector<OpSchema*>& registered() {
  static auto& list = *new std::vector<OpSchema*>;
  return list;
}
}  // namespace

OpRegistration::OpRegistration(OpSchema schema) { registered().push_back(new OpSchema(std::move(schema))); }

const std::vector<const OpSchema*>& all_ops() {
  static auto& sorted = *[] {
    auto list = registered();
    std::sort(list.begin(), list.end(), [](auto* a, auto* b) { return std::strcmp(a->name, b->name) < 0; });
    auto* out = new std::vector<const OpSchema*>;
    for (size_t i = 0; i < list.size(); ++i) {
      list[i]->id = static_cast<int>(i);
      out->push_back(list[i]);
    }
    return out;
  }();
  return sorted;
}

std::string ops_json() {
  static constexpr const char* kTypes[] = {"number", "integer", "flag", "choice", "dtype", "integers", "numbers"};
  std::ostringstream out;
  out << "[";
  for (const OpSchema* op : all_ops()) {
    if (op->id) out << ",";
    out << "{\"name\":\"" << op->name << "\",\"inputs\":[";
    for (size_t i = 0; i < op->inputs.size(); ++i) {
      const InputSpec& in = op->inputs[i];
      out << (i ? "," : "") << "{\"name\":\"" << in.name << "\",\"optional\":" << (in.optional ? "true" : "false")
          << ",\"variadic\":" << (in.variadic ? "true" : "false") << ",\"mutated\":" << (in.mutated ? "true" : "false")
          << "}";
    }
    out << "],\"attrs\":[";
    for (size_t i = 0; i < op->attrs.size(); ++i) {
      const AttrSpec& attr = op->attrs[i];
      out << (i ? "," : "") << "{\"name\":\"" << attr.name << "\",\"type\":\"" << kTypes[static_cast<int>(attr.type)]
          << "\"";
      if (attr.choices) out << ",\"choices\":\"" << attr.choices << "\"";
      out << "}";
    }
    out << "]}";
  }
  out << "]";
  return out.str();
}

uint32_t ops_hash() {
  uint32_t hash = 2166136261u;
  for (const char c : ops_json()) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return hash;
}

}  // namespace lf
