// What a backend gives to the core: memory, copies, kernels. The CPU fills this table in native/cpu/device.cpp; a plug-in
// library returns one from its entry point `leanformer_backend`. Plain C types only; every function may be called from
// the device's stream thread alone, except probe-like ones that say otherwise.
#pragma once
#include "api/kernel.h"

namespace lf {

constexpr uint32_t kAbiVersion = 1;

struct Backend {
  uint32_t abi_version;
  const char* name;
  // A new region of device memory, or nullptr when there is none left. Regions are kept until the process ends.
  void* (*allocate_slab)(int device_index, int64_t bytes);
  void (*free_slab)(int device_index, void* slab, int64_t bytes);
  // Ordered after all kernels launched so far; copy_out returns when the bytes are on the host.
  int32_t (*copy_in)(void* stream, void* device, const void* host, int64_t bytes, char* error);
  int32_t (*copy_out)(void* stream, void* host, const void* device, int64_t bytes, char* error);
  void (*fill_zero)(void* stream, void* device, int64_t bytes);
  int32_t (*synchronize)(void* stream, char* error);
  // nullptr: this backend has no kernel for the operator. Callable from any thread.
  KernelFn (*find_kernel)(const char* op);
  // Values that are NaN or infinite in a tensor of a floating dtype.
  int64_t (*count_nonfinite)(void* stream, const TensorView* tensor);
};

}  // namespace lf
