// Arithmetic of sizes for kernel files, where nothing of the standard library may be used (cpu/kernel.h).
#pragma once
#include "cpu/kernel.h"

namespace lf {
namespace {

LF_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LF_INLINE int64_t round_up(int64_t n, int64_t unit) { return ceil_div(n, unit) * unit; }
LF_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
LF_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
}  // namespace lf
