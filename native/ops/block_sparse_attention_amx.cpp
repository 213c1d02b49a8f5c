// block_sparse_attention of bf16 tensors with AMX.
#include "cpu/isa/tile_products.inl"
#include "ops/block_sparse_attention_pairs.inl"

namespace lf {
namespace {

struct Register {
  Register() {
    cpu::register_kernel("block_sparse_attention.tiles", LF_ISA, forward<TileProducts>);
    cpu::register_kernel("block_sparse_attention_backward.tiles", LF_ISA, backward<TileProducts>);
  }
} const registered;

}  // namespace
}  // namespace lf
