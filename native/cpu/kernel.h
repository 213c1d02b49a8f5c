// What a kernel file includes. Every file of native/ops/ and native/cpu/isa/ is compiled several times:
//   once with LF_SCHEMA_PASS (native/ops only): schemas, shape rules and costs, for the baseline instruction set;
//   once per instruction set with LF_ISA set to one of the LF_ISA_* values below: the kernels.
// A file therefore has two parts, `#ifdef LF_SCHEMA_PASS ... #else ... #endif`. In the kernel part everything lives in
// an anonymous namespace and no standard container or other external inline function is used: the linker keeps one
// copy of those, and it could be the AVX-512 one (test/native/symbols.test.ts guards this).
#pragma once
#include "api/kernel.h"

#define LF_ISA_PLAIN 0   // whatever the compiler's default is: SSE2 on x86-64, NEON on arm64
#define LF_ISA_AVX2 1    // AVX2, FMA, F16C
#define LF_ISA_AVX512 2  // AVX-512 F, BW, DQ, VL (and BF16 in the files named *_avx512bf16.cpp)

#ifndef LF_SCHEMA_PASS
#include <cmath>

#include "cpu/parallel.h"

namespace lf::cpu {
void register_kernel(const char* op, int isa, KernelFn kernel);
}

#define LF_CPU_KERNEL(op, function)                                                            \
  namespace {                                                                                  \
  struct Register_##op {                                                                       \
    Register_##op() { ::lf::cpu::register_kernel(#op, LF_ISA, function); }                     \
  } const register_##op;                                                                       \
  }
#endif
