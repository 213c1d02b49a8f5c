// Which instruction set this process uses, and the kernels registered for it.
#pragma once
#include "api/kernel.h"

namespace lf::cpu {

// What multiplies bf16 numbers: code for f32 on converted numbers, vdpbf16ps on pairs, or AMX on tiles of pairs.
enum class Bf16Unit { kNone, kPairs, kTiles };
constexpr int kBf16Units = 3;

// The best of the machine, or less when LEANFORMER_ISA (plain, avx2, avx512-nobf16, avx512-bf16) says so.
int isa_level();         // one of LF_ISA_*
Bf16Unit bf16_unit();
const char* isa_name();  // "plain", "avx2", "avx512", "avx512-bf16", "amx"

void register_kernel(const char* op, int isa, KernelFn kernel);
KernelFn find_kernel(const char* op);  // the best registered one that isa_level() allows, or nullptr
// Of a kernel's two variants for bf16, the one for this machine's unit and heads of that width; nullptr where neither serves.
KernelFn find_bf16_kernel(const char* tiles, const char* pairs, int64_t width);

}  // namespace lf::cpu
