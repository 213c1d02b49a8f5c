// bf16 products with the vdpbf16ps instruction.
#include "cpu/gemm_registry.h"
#include "cpu/isa/gemm_pairs.inl"

namespace lf {
namespace {

struct Register {
  Register() { cpu::register_gemm(cpu::Bf16Unit::kPairs, run_gemm<Pairs>); }
} const registered;

}  // namespace
}  // namespace lf
