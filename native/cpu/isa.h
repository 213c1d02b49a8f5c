// Which instruction set this process uses, and the kernels registered for it.
#pragma once
#include "api/kernel.h"

namespace lf::cpu {

// One of LF_ISA_*: the best of the machine, or less when LEANFORMER_ISA (plain, avx2, avx512, avx512-nobf16) says so.
int isa_level();
bool has_avx512_bf16();  // and it is not switched off
const char* isa_name();  // "plain", "avx2", "avx512", "avx512-bf16"

void register_kernel(const char* op, int isa, KernelFn kernel);
KernelFn find_kernel(const char* op);  // the best registered one that isa_level() allows, or nullptr

}  // namespace lf::cpu
