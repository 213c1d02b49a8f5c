#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>

#if defined(LF_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define LF_SCHEMA_PASS  // only the LF_ISA_* numbers
#include "cpu/kernel.h"

namespace lf::cpu {
namespace {

constexpr int kLevels = 3;

struct Isa {
  int level = LF_ISA_PLAIN;
  Bf16Unit bf16 = Bf16Unit::kNone;
};

// Whether there are tiles for bf16 and int8 numbers and this process may use them: Linux hands out their registers on request.
bool has_tiles() {
#if defined(LF_AMX) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // of EDX of leaf 7: bf16, tiles, int8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kNeeded) != kNeeded) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa detect() {
  Isa isa;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isa.level = LF_ISA_AVX2;
  if (isa.level == LF_ISA_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    isa.level = LF_ISA_AVX512;
    if (__builtin_cpu_supports("avx512bf16")) isa.bf16 = Bf16Unit::kPairs;
  }
#endif
  const char* wish = std::getenv("LEANFORMER_ISA");
  if (wish && !std::strcmp(wish, "plain")) isa = {LF_ISA_PLAIN, Bf16Unit::kNone};
  if (wish && !std::strcmp(wish, "avx2") && isa.level > LF_ISA_AVX2) isa = {LF_ISA_AVX2, Bf16Unit::kNone};
  if (wish && !std::strcmp(wish, "avx512-nobf16")) isa.bf16 = Bf16Unit::kNone;
  const bool without_tiles = wish && !std::strcmp(wish, "avx512-bf16");
  if (isa.bf16 == Bf16Unit::kPairs && !without_tiles && has_tiles()) isa.bf16 = Bf16Unit::kTiles;
  return isa;
}

const Isa& chosen() {
  static const Isa kIsa = detect();
  return kIsa;
}

struct Entry {
  KernelFn by_level[kLevels] = {};
};
// Leaked: kernels are looked up while the process exits, too.
std::unordered_map<std::string, Entry>& table() {
  static auto& kernels = *new std::unordered_map<std::string, Entry>;
  return kernels;
}

}  // namespace

int isa_level() { return chosen().level; }
Bf16Unit bf16_unit() { return chosen().bf16; }

const char* isa_name() {
  if (chosen().bf16 == Bf16Unit::kTiles) return "amx";
  if (chosen().bf16 == Bf16Unit::kPairs) return "avx512-bf16";
  constexpr const char* kNames[kLevels] = {"plain", "avx2", "avx512"};
  return kNames[chosen().level];
}

void register_kernel(const char* op, int isa, KernelFn kernel) { table()[op].by_level[isa] = kernel; }

KernelFn find_kernel(const char* op) {
  const auto found = table().find(op);
  if (found == table().end()) return nullptr;
  for (int level = isa_level(); level >= 0; --level) {
    if (found->second.by_level[level]) return found->second.by_level[level];
  }
  return nullptr;
}

KernelFn find_bf16_kernel(const char* tiles, const char* pairs, int64_t width) {
  if (bf16_unit() == Bf16Unit::kTiles && width % 32 == 0) return find_kernel(tiles);
  if (bf16_unit() != Bf16Unit::kNone && width % 2 == 0) return find_kernel(pairs);
  return nullptr;
}

}  // namespace lf::cpu
