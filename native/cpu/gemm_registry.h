// How the per-instruction-set matrix products make themselves known to cpu/gemm.cpp.
#pragma once
#include "cpu/gemm.h"

namespace lf::cpu {

using GemmFn = void (*)(const Gemm& problem);
// `level` is an LF_ISA_* number; `native_bf16` marks the entry that needs the AVX-512 BF16 instructions.
void register_gemm(int level, DType dtype, bool native_bf16, GemmFn run);

}  // namespace lf::cpu
