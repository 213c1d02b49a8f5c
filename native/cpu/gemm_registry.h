// How the per-instruction-set matrix products make themselves known to cpu/gemm.cpp.
#pragma once
#include "cpu/gemm.h"
#include "cpu/isa.h"

namespace lf::cpu {

using GemmFn = void (*)(const Gemm& problem);
void register_gemm(int level, DType dtype, GemmFn run);  // `level` is an LF_ISA_* number
void register_gemm(Bf16Unit unit, GemmFn run);           // for bf16 on machines with that unit

}  // namespace lf::cpu
