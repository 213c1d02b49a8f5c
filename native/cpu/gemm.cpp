#include "cpu/gemm.h"

#include "cpu/gemm_registry.h"
#include "cpu/isa.h"

namespace lf::cpu {
namespace {

constexpr int kLevels = 3;
GemmFn g_by_level[kLevels][kNumDTypes] = {};
GemmFn g_bf16[kBf16Units] = {};

GemmFn find(DType dtype) {
  for (int unit = static_cast<int>(bf16_unit()); dtype == DType::kBF16 && unit > 0; --unit) {
    if (g_bf16[unit]) return g_bf16[unit];
  }
  for (int level = isa_level(); level >= 0; --level) {
    if (GemmFn run = g_by_level[level][static_cast<int>(dtype)]) return run;
  }
  return nullptr;
}

}  // namespace

void register_gemm(int level, DType dtype, GemmFn run) { g_by_level[level][static_cast<int>(dtype)] = run; }
void register_gemm(Bf16Unit unit, GemmFn run) { g_bf16[static_cast<int>(unit)] = run; }

void gemm(const Gemm& problem) {
  // Without columns there is still a bias gradient to compute.
  if (problem.m == 0 || problem.batch == 0 || (problem.n == 0 && !problem.row_sums_a)) return;
  find(problem.dtype_ab)(problem);
}

}  // namespace lf::cpu
