// The CPU as a backend: slabs from the operating system (huge pages where it has them), copies, kernel lookup.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "api/backend.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace lf::cpu {
namespace {

int32_t create_stream(int, void**, char*) { return kOk; }

void* allocate_slab(void*, int64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  void* slab = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (slab == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(slab, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  return slab;
#else
  return _aligned_malloc(static_cast<size_t>(bytes), 64);
#endif
}

void free_slab(void*, void* slab, int64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
  munmap(slab, static_cast<size_t>(bytes));
#else
  (void)bytes;
  _aligned_free(slab);
#endif
}

int32_t copy(void*, void* to, const void* from, int64_t bytes, char*) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return kOk;
}

int32_t fill_zero(void*, void* to, int64_t bytes, char*) {
  std::memset(to, 0, static_cast<size_t>(bytes));
  return kOk;
}

int32_t synchronize(void*, char*) { return kOk; }

WorkspaceFn find_workspace(const char*) { return nullptr; }

void facts(int, DeviceFacts* out) { *out = {"", -1, -1, -1, -1, -1}; }

// All exponent bits set means NaN or infinity, in each of the four floating formats.
template <class Bits>
int64_t count_bits(const void* data, int64_t n, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += (bits[i] & exponent) == exponent;
  return count;
}

int64_t count_nonfinite(void*, const TensorView* tensor) {
  switch (tensor->dtype) {
    case DType::kF32: return count_bits<uint32_t>(tensor->data, tensor->numel, 0x7f800000u);
    case DType::kF64: return count_bits<uint64_t>(tensor->data, tensor->numel, 0x7ff0000000000000u);
    case DType::kF16: return count_bits<uint16_t>(tensor->data, tensor->numel, uint16_t{0x7c00});
    case DType::kBF16: return count_bits<uint16_t>(tensor->data, tensor->numel, uint16_t{0x7f80});
    default: return 0;
  }
}

}  // namespace

const Backend* backend() {
  static const Backend kBackend = {.abi_version = kAbiVersion,
                                   .name = "cpu",
                                   .device_count = 1,
                                   .create_stream = create_stream,
                                   .destroy_stream = nullptr,
                                   .allocate_slab = allocate_slab,
                                   .free_slab = free_slab,
                                   .copy_in = copy,
                                   .copy_out = copy,
                                   .fill_zero = fill_zero,
                                   .synchronize = synchronize,
                                   .recover = synchronize,
                                   .mark = nullptr,
                                   .wait = nullptr,
                                   .note_time = nullptr,
                                   .seconds = nullptr,
                                   .forget_times = nullptr,
                                   .enter_branch = nullptr,
                                   .graphs = nullptr,
                                   .copies = nullptr,
                                   .find_kernel = find_kernel,
                                   .find_workspace = find_workspace,
                                   .count_nonfinite = count_nonfinite,
                                   .facts = facts};
  return &kBackend;
}

}  // namespace lf::cpu
