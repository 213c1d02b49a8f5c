#include "cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace lf::cpu {
namespace {

struct Entry {
  int64_t flops_per_round = 0;
  PeakFn body = nullptr;
};
constexpr int kLevels = 3;
Entry g_f32[kLevels];
Entry g_bf16[kBf16Units];

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

void register_peak(int level, int64_t flops_per_round, PeakFn body) { g_f32[level] = {flops_per_round, body}; }
void register_peak(Bf16Unit unit, int64_t flops_per_round, PeakFn body) {
  g_bf16[static_cast<int>(unit)] = {flops_per_round, body};
}

double measured_peak_gflops(DType dtype) {
  Entry entry;
  for (int level = isa_level(); level >= 0 && !entry.body; --level) entry = g_f32[level];
  const Entry& of_bf16 = g_bf16[static_cast<int>(bf16_unit())];
  if (dtype == DType::kBF16 && of_bf16.body) entry = of_bf16;
  const int64_t threads = num_threads();
  constexpr int64_t kRounds = 400000;
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    const auto start = Clock::now();
    parallel_for(threads, 1, [&](int64_t, int64_t) {
      float sink[64];
      entry.body(kRounds, sink);
      volatile float keep = sink[0];
      (void)keep;
    });
    best = std::max(best, static_cast<double>(threads * kRounds * entry.flops_per_round) / seconds_since(start) / 1e9);
  }
  return best;
}

double measured_bandwidth_gbs() {
  constexpr int64_t kBytes = int64_t{192} << 20;
  std::vector<uint64_t> data(kBytes / 8, 1);
  double best = 0;
  volatile uint64_t keep = 0;
  for (int run = 0; run < 4; ++run) {
    const auto start = Clock::now();
    parallel_for(kBytes / 8, int64_t{1} << 17, [&](int64_t begin, int64_t end) {
      uint64_t sums[8] = {};
      for (int64_t i = begin; i + 8 <= end; i += 8) {
        for (int j = 0; j < 8; ++j) sums[j] += data[static_cast<size_t>(i + j)];
      }
      uint64_t sum = 0;
      for (uint64_t s : sums) sum += s;
      if (sum == 0) keep = sum;
    });
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start) / 1e9);
  }
  return best;
}

}  // namespace lf::cpu
