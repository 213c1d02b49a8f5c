// attention of bf16 tensors with the vdpbf16ps instruction.
#include "ops/attention_pairs.inl"

namespace lf {
namespace {

struct Register {
  Register() {
    cpu::register_kernel("attention.pairs", LF_ISA, forward<PairProducts>);
    cpu::register_kernel("attention_backward.pairs", LF_ISA, backward<PairProducts>);
  }
} const registered;

}  // namespace
}  // namespace lf
