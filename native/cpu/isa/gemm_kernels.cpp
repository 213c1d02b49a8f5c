// The matrix products of one instruction set without bf16 instructions: 16-bit operands become f32 while they are packed.
#include "cpu/isa/gemm.inl"

#include "cpu/gemm_registry.h"

namespace lf {
namespace {

// Rows of the register tile: as many as the registers hold beside one row of B.
#if LF_ISA == LF_ISA_AVX512
constexpr int kRows = 14;
#else
constexpr int kRows = 6;
#endif

template <class T>
struct Single : Numbers<T, float, kRows> {
  static LF_INLINE Vf load_units(const T* p) { return load(p); }
};
struct Double : Numbers<double, double, kRows> {};

struct Register {
  Register() {
    cpu::register_gemm(LF_ISA, DType::kF32, run_gemm<Single<float>>);
    cpu::register_gemm(LF_ISA, DType::kF16, run_gemm<Single<f16>>);
    cpu::register_gemm(LF_ISA, DType::kBF16, run_gemm<Single<bf16>>);
    cpu::register_gemm(LF_ISA, DType::kF64, run_gemm<Double>);
  }
} const registered;

}  // namespace
}  // namespace lf
