// attention of bf16 tensors with AMX.
#include "cpu/isa/tile_products.inl"
#include "ops/attention_pairs.inl"

namespace lf {
namespace {

struct Register {
  Register() {
    cpu::register_kernel("attention.tiles", LF_ISA, forward<TileProducts>);
    cpu::register_kernel("attention_backward.tiles", LF_ISA, backward<TileProducts>);
  }
} const registered;

}  // namespace
}  // namespace lf
