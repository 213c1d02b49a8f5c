// The machine's own ceilings, measured with all threads of the pool: what percentages in benchmarks and progress refer to.
#pragma once
#include "api/kernel.h"
#include "cpu/isa.h"

namespace lf::cpu {

double measured_peak_gflops(DType dtype);  // f32 or bf16; multiply-adds in registers, best of a few short runs
double measured_bandwidth_gbs();           // reads of a buffer larger than the caches

// `flops_per_round` of one call body(rounds, sink); see cpu/isa/peak_kernels.inl.
using PeakFn = void (*)(int64_t rounds, float* sink);
void register_peak(int level, int64_t flops_per_round, PeakFn body);  // f32 at an LF_ISA_* level
void register_peak(Bf16Unit unit, int64_t flops_per_round, PeakFn body);

}  // namespace lf::cpu
