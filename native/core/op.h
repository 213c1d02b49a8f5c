// The operator table. One OpSchema per operator says everything that is not a kernel: names, shape rule, cost, workspace.
// The TypeScript table lib/native/ops.gen.ts is generated from it; kernels find their operator by name.
#pragma once
#include <cstdarg>
#include <stdexcept>
#include <string>
#include <vector>

#include "api/kernel.h"

namespace lf {

// An argument error, thrown at the call. `hint` says what would be right.
struct OpError : std::runtime_error {
  OpError(Code code, std::string message, std::string hint = "")
      : std::runtime_error(std::move(message)), code(code), hint(std::move(hint)) {}
  Code code;
  std::string hint;
};

const char* dtype_name(DType dtype);
std::string shape_text(const TensorView& view);  // "[2, 8, 64]"
std::string view_text(const TensorView& view);   // "f32 [2, 8, 64]"
TensorView make_view(DType dtype, const int64_t* shape, int rank);

enum class AttrType : int32_t { kNumber, kInteger, kFlag, kChoice, kDType, kIntegers, kNumbers };

struct AttrSpec {
  const char* name;
  AttrType type;
  const char* choices = nullptr;  // kChoice: "none|gelu|..."; the value is the index
};

struct InputSpec {
  const char* name;
  bool optional = false;
  bool variadic = false;  // last input only: any number of tensors
  bool mutated = false;   // written in place
};

struct Cost {
  double flops = 0;
  double bytes_read = 0;
  double bytes_written = 0;
};

constexpr int kMaxOutputs = 8;

// What the rules of a schema see of one call.
struct OpCall {
  const struct OpSchema* op = nullptr;
  const TensorView* inputs = nullptr;
  int num_inputs = 0;
  const double* attrs = nullptr;
  const int32_t* attr_begin = nullptr;
  TensorView outputs[kMaxOutputs];
  int num_outputs = 0;

  const TensorView& in(int i) const { return inputs[i]; }
  bool has(int i) const { return i < num_inputs && inputs[i].present(); }
  double number(int i) const { return attrs[attr_begin[i]]; }
  int64_t integer(int i) const { return static_cast<int64_t>(attrs[attr_begin[i]]); }
  bool flag(int i) const { return attrs[attr_begin[i]] != 0; }
  DType dtype(int i) const { return static_cast<DType>(attrs[attr_begin[i]]); }
  int list_size(int i) const { return attr_begin[i + 1] - attr_begin[i]; }
  int64_t item(int i, int k) const { return static_cast<int64_t>(attrs[attr_begin[i] + k]); }

  void output(DType dtype, const int64_t* shape, int rank);
  void output(DType dtype, std::initializer_list<int64_t> shape);
  void output_like(const TensorView& view) { output(view.dtype, view.shape, view.rank); }
  void output_like(const TensorView& view, DType dtype) { output(dtype, view.shape, view.rank); }

  // Throws OpError with the operator's name in front: fail(kShape, "axis %d is out of range for shape %s", ...).
  [[noreturn]] void fail(Code code, const char* format, ...) const __attribute__((format(printf, 3, 4)));
  [[noreturn]] void fail_hint(Code code, const char* hint, const char* format, ...) const
      __attribute__((format(printf, 4, 5)));

  // The name of the input at a position; those of a variadic group share one.
  const char* input_name(int i) const;

  // Common checks; `i` is an input's position.
  void check_rank(int i, int min_rank, int max_rank = kMaxRank) const;
  void check_dtype(int i, DType dtype) const;
  void check_floating(int i) const;
  void check_same_shape(int i, int j) const;
  void check_same_dtype(int i, int j) const;
  int check_axis(int attr, const TensorView& view) const;  // a normalised axis 0 .. rank - 1
};

using ShapeRule = void (*)(OpCall& call);
using CostRule = Cost (*)(const OpCall& call);
using WorkspaceRule = int64_t (*)(const OpCall& call);

struct OpSchema {
  const char* name;
  std::vector<InputSpec> inputs;
  std::vector<AttrSpec> attrs;
  ShapeRule shape;
  CostRule cost;  // see io_cost below for the common case
  WorkspaceRule workspace = nullptr;
  // Outputs start at zero bytes; for kernels that write only parts of them.
  bool zero_outputs = false;
  int id = -1;  // position in the table sorted by name, set by all_ops()
  std::string signature = {};
};

// Reads every input once, writes every output once, `flops` per output element (of the first output).
template <int flops_per_element>
Cost io_cost(const OpCall& call);
Cost io_cost_with_flops(const OpCall& call, double flops);
template <int flops_per_element>
Cost io_cost(const OpCall& call) {
  return io_cost_with_flops(call, static_cast<double>(flops_per_element) *
                                      (call.num_outputs ? static_cast<double>(call.outputs[0].numel) : 0.0));
}
inline double bytes_of(const TensorView& view) {
  return view.present() ? static_cast<double>(view.numel * dtype_size(view.dtype)) : 0.0;
}

struct OpRegistration {
  explicit OpRegistration(OpSchema schema);
};
#define LF_JOIN_(a, b) a##b
#define LF_JOIN(a, b) LF_JOIN_(a, b)
// LF_OP({.name = "softmax", .inputs = {{"x"}}, ...});
#define LF_OP(...) static const ::lf::OpRegistration LF_JOIN(op_registration_, __COUNTER__){::lf::OpSchema __VA_ARGS__};

// Sorted by name; an operator's id is its position. Fixed after static initialisation.
const std::vector<const OpSchema*>& all_ops();
std::string ops_json();
uint32_t ops_hash();  // FNV-1a of ops_json(): tells whether TypeScript's table belongs to this build

}  // namespace lf
