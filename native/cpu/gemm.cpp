#include "cpu/gemm.h"

#include "cpu/gemm_registry.h"
#include "cpu/isa.h"

namespace lf::cpu {
namespace {

constexpr int kLevels = 3;
GemmFn g_by_level[kLevels][kNumDTypes] = {};
GemmFn g_native_bf16 = nullptr;

GemmFn find(DType dtype) {
  if (dtype == DType::kBF16 && g_native_bf16 && has_avx512_bf16()) return g_native_bf16;
  for (int level = isa_level(); level >= 0; --level) {
    if (GemmFn run = g_by_level[level][static_cast<int>(dtype)]) return run;
  }
  return nullptr;
}

}  // namespace

void register_gemm(int level, DType dtype, bool native_bf16, GemmFn run) {
  if (native_bf16) {
    g_native_bf16 = run;
  } else {
    g_by_level[level][static_cast<int>(dtype)] = run;
  }
}

void gemm(const Gemm& problem) {
  // Without columns there is still a bias gradient to compute.
  if (problem.m == 0 || problem.batch == 0 || (problem.n == 0 && !problem.row_sums_a)) return;
  find(problem.dtype_ab)(problem);
}

}  // namespace lf::cpu
