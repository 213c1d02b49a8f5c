// What the plug-in keeps per device and Node environment: the CUDA stream, its handles, staging memory, and the record of
// what kernels found wrong. KernelArgs::stream points to one.
#pragma once
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

#include "api/backend.h"

namespace lf::cuda {

// Written by kernels: the first id outside of its table and the like. `site` is a position in Stream::sites.
struct FaultRecord {
  int32_t taken, site;
  int64_t value, position, limit;
};

constexpr int kMostSites = 256;

struct Copies;

struct Stream {
  // Where kernels go: to the device's own queue, queues[0], or to that of the branch that was entered.
  cudaStream_t stream = nullptr;
  cudaStream_t queues[kMostBranches + 1] = {};  // made when a branch is first entered
  cudaEvent_t reached[kMostBranches + 1] = {};  // what a queue was given, for the others to wait for
  int device = 0;
  int multiprocessors = 0;
  int capability = 0;  // 10 * major + minor: 90 for an H100
  int64_t shared_bytes_per_block = 0;
  FaultRecord* faults = nullptr;       // on the device
  FaultRecord* faults_host = nullptr;  // pinned
  char* staging = nullptr;             // pinned, kStagingBytes, cut in two halves used in turn
  cudaEvent_t staging_free[2] = {};
  int staging_next = 0;
  void* library = nullptr;  // cuBLASLt's handle and plans, made by the first product (library.cu)
  void* sparse_library = nullptr;  // cuSPARSE's (sparse_library.cu)
  // While a graph is recorded: where on the device the attributes of the kernel called now will be; nullptr otherwise.
  const double* attributes = nullptr;
  // What faults mean: text with three %lld for the value, its position and the limit. Entries never change once made, so
  // that other threads may read them.
  struct Site {
    const char* op;
    const char* format;
  };
  Site sites[kMostSites] = {};
  int num_sites = 0;
  Copies* copies = nullptr;  // what runs beside the kernels (copies.h)
};

constexpr int64_t kStagingBytes = int64_t{4} << 20;

inline Stream& stream_of(const KernelArgs* args) { return *static_cast<Stream*>(args->stream); }

// What a kernel needs to report a fault: pass it by value, call report() from a device function.
struct Faults {
  FaultRecord* record;
  int32_t site;
#if defined(__CUDACC__)
  __device__ void report(int64_t value, int64_t position, int64_t limit) const {
    if (atomicCAS(&record->taken, 0, 1) == 0) {
      record->site = site;
      record->value = value;
      record->position = position;
      record->limit = limit;
    }
  }
#endif
};

// `format` names what is wrong with three %lld, such as "id %lld at position %lld is outside of the table of %lld rows".
inline Faults faults_of(const KernelArgs* args, const char* format) {
  Stream& stream = stream_of(args);
  for (int i = 0; i < stream.num_sites; ++i) {
    if (stream.sites[i].op == args->op && !std::strcmp(stream.sites[i].format, format)) return {stream.faults, i};
  }
  if (stream.num_sites == kMostSites) std::abort();  // more fault texts than operators could have
  stream.sites[stream.num_sites] = {args->op, format};
  return {stream.faults, stream.num_sites++};
}

// A number that a kernel takes from its attributes. In a graph it is read from the graph's block, so that another value
// needs no other graph; register such attributes with LF_CUDA_FROM_BLOCK.
struct Attribute {
  double value;
  const double* at;
#if defined(__CUDACC__)
  __device__ __forceinline__ double get() const { return at ? *at : value; }
#endif
};
inline Attribute attribute(const KernelArgs* args, int i) {
  const double* block = stream_of(args).attributes;
  return {args->number(i), block ? block + args->attr_begin[i] : nullptr};
}

}  // namespace lf::cuda
