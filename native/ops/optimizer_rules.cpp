// The optimisers that are one elementwise rule: one operator a line of api/optimizer_rules.h. Inputs as optimizer_group.h
// says. Bound by bytes.
#include "ops/optimizer_group.h"

#ifdef LF_SCHEMA_PASS
#include "api/optimizer_rules.h"

namespace lf {
namespace {

std::vector<AttrSpec> rule_attrs(std::initializer_list<const char*> names) {
  std::vector<AttrSpec> attrs = {{"count", AttrType::kInteger}};
  for (const char* name : names) {
    attrs.push_back({name, std::string(name) == "step" ? AttrType::kInteger : AttrType::kNumber});
  }
  return attrs;
}

#define LF_RULE_SCHEMA(op, rule, flops, ...)                                                                \
  LF_OP({.name = #op,                                                                                       \
         .inputs = group_inputs(),                                                                          \
         .attrs = rule_attrs({__VA_ARGS__}),                                                                \
         .shape = [](OpCall& call) { check_group(call, rules::rule::kStates); },                            \
         .cost = [](const OpCall& call) { return group_cost(call, rules::rule::kStates, flops); }})
LF_OPTIMIZER_RULES(LF_RULE_SCHEMA)

}  // namespace
}  // namespace lf
#else
#include "ops/elementwise_math.h"
#include "api/optimizer_rules.h"

namespace lf {
namespace {

template <class Rule, class Acc>
void rule_chunk(const Group& g, int64_t i, int64_t from, int64_t to, const double* numbers, double multiplier) {
  using V = typename Lanes<Acc>::V;
  V c[Rule::kConstants];
  for (int k = 0; k < Rule::kConstants; ++k) c[k] = constant<V>(numbers[k]);
  const V factor = constant<V>(multiplier);
  Acc* p = g.parameters[i].as<Acc>();
  const Acc* grad = g.grads[i].as<const Acc>();
  const TensorView* copy = g.copies ? g.copies + i : nullptr;
  for_lanes<Acc>(to - from, [&](int64_t offset, int64_t n) {
    const int64_t at = from + offset;
    V value = load_some(p + at, n);
    V states[Rule::kStates + 1];
    for (int k = 0; k < Rule::kStates; ++k) states[k] = load_some(g.states[k * g.count + i].as<const Acc>() + at, n);
    Rule::update(value, load_some(grad + at, n) * factor, states, c);
    for (int k = 0; k < Rule::kStates; ++k) store_some(g.states[k * g.count + i].as<Acc>() + at, states[k], n);
    store_some(p + at, value, n);
    store_copy<Acc>(copy, at, value, n);
  });
}

template <class Rule>
int32_t apply_rule(const KernelArgs* args) {
  const Clip clip(args->inputs[0]);
  if (clip.skip || args->integer(0) == 0) return kOk;
  const Group g(args, Rule::kStates);
  double numbers[Rule::kConstants];
  Rule::constants(args->attrs + args->attr_begin[1], numbers);
  for_chunks(g.parameters, g.count, g.first, [&](int64_t i, int64_t, int64_t from, int64_t to) {
    if (g.parameters[i].dtype == DType::kF64) rule_chunk<Rule, double>(g, i, from, to, numbers, clip.multiplier);
    else rule_chunk<Rule, float>(g, i, from, to, numbers, clip.multiplier);
  });
  return kOk;
}

}  // namespace

#define LF_RULE_KERNEL(op, rule, ...) LF_CPU_KERNEL(op, apply_rule<rules::rule>)
LF_OPTIMIZER_RULES(LF_RULE_KERNEL)

}  // namespace lf
#endif
