// The plug-in's entry and its device services: streams, slabs, copies through pinned staging memory, errors. Kernels are
// in the other files of this folder and register themselves.
#include <cstring>
#include <map>
#include <string>

#include "api/backend.h"
#include "build_info.h"
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

struct Entry {
  KernelFn kernel = nullptr;
  WorkspaceFn workspace = nullptr;
};
// Leaked: looked up while the process exits, too.
std::map<std::string, Entry>& table() {
  static auto& kernels = *new std::map<std::string, Entry>;
  return kernels;
}

int32_t fail(char* error, const char* what, cudaError_t code) {
  std::snprintf(error, kErrorText, "%s: CUDA error %d: %s", what, static_cast<int>(code), cudaGetErrorString(code));
  return kKernel;
}
#define LF_TRY(what, call)                                                     \
  do {                                                                         \
    if (const cudaError_t code_ = (call)) return fail(error, what, code_);     \
  } while (0)

Stream& self(void* stream) { return *static_cast<Stream*>(stream); }

int32_t create_stream(int device_index, void** out, char* error) {
  LF_TRY("device", cudaSetDevice(device_index));
  auto* made = new Stream;
  made->device = device_index;
  int major = 0, minor = 0, shared = 0;
  LF_TRY("device", cudaDeviceGetAttribute(&made->multiprocessors, cudaDevAttrMultiProcessorCount, device_index));
  LF_TRY("device", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_index));
  LF_TRY("device", cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_index));
  LF_TRY("device", cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_index));
  made->capability = 10 * major + minor;
  made->shared_bytes_per_block = shared;
  LF_TRY("stream", cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
  LF_TRY("stream", cudaMalloc(&made->faults, sizeof(FaultRecord)));
  LF_TRY("stream", cudaMemsetAsync(made->faults, 0, sizeof(FaultRecord), made->stream));
  LF_TRY("stream", cudaMallocHost(&made->faults_host, sizeof(FaultRecord)));
  LF_TRY("stream", cudaMallocHost(&made->staging, kStagingBytes));
  for (cudaEvent_t& event : made->staging_free) LF_TRY("stream", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  *out = made;
  return kOk;
}

void* allocate_slab(void*, int64_t bytes) {
  void* slab = nullptr;
  if (cudaMalloc(&slab, static_cast<size_t>(bytes)) == cudaSuccess) return slab;
  cudaGetLastError();  // out of memory is reported by the caller, with what is live
  return nullptr;
}

void free_slab(void* stream, void* slab, int64_t) {
  cudaStreamSynchronize(self(stream).stream);
  cudaFree(slab);
}

// Through one half of the staging memory while the other half is still being copied.
int32_t copy_in(void* stream, void* device, const void* host, int64_t bytes, char* error) {
  Stream& at = self(stream);
  constexpr int64_t kHalf = kStagingBytes / 2;
  for (int64_t done = 0; done < bytes; done += kHalf) {
    const auto count = static_cast<size_t>(bytes - done < kHalf ? bytes - done : kHalf);
    const int half = at.staging_next;
    at.staging_next = 1 - half;
    LF_TRY("copy to the device", cudaEventSynchronize(at.staging_free[half]));
    char* stage = at.staging + half * kHalf;
    std::memcpy(stage, static_cast<const char*>(host) + done, count);
    LF_TRY("copy to the device",
           cudaMemcpyAsync(static_cast<char*>(device) + done, stage, count, cudaMemcpyHostToDevice, at.stream));
    LF_TRY("copy to the device", cudaEventRecord(at.staging_free[half], at.stream));
  }
  return kOk;
}

// What kernels reported, after everything is done.
int32_t check_faults(Stream& at, char* error) {
  LF_TRY("synchronize", cudaMemcpyAsync(at.faults_host, at.faults, sizeof(FaultRecord), cudaMemcpyDeviceToHost, at.stream));
  LF_TRY("synchronize", cudaStreamSynchronize(at.stream));
  const FaultRecord& found = *at.faults_host;
  if (!found.taken) return kOk;
  const Stream::Site& site = at.sites[static_cast<size_t>(found.site)];
  const int length = std::snprintf(error, kErrorText, "%s: ", site.op);
  std::snprintf(error + length, kErrorText - static_cast<size_t>(length), site.format, static_cast<long long>(found.value),
                static_cast<long long>(found.position), static_cast<long long>(found.limit));
  return kKernel;
}

int32_t synchronize(void* stream, char* error) { return check_faults(self(stream), error); }

int32_t copy_out(void* stream, void* host, const void* device, int64_t bytes, char* error) {
  Stream& at = self(stream);
  LF_TRY("copy from the device",
         cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, at.stream));
  return check_faults(at, error);
}

int32_t fill_zero(void* stream, void* device, int64_t bytes, char* error) {
  LF_TRY("fill", cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), self(stream).stream));
  return kOk;
}

int32_t recover(void* stream, char* error) {
  Stream& at = self(stream);
  cudaGetLastError();
  LF_TRY("the device cannot be used any more", cudaMemsetAsync(at.faults, 0, sizeof(FaultRecord), at.stream));
  LF_TRY("the device cannot be used any more", cudaStreamSynchronize(at.stream));
  return kOk;
}

KernelFn find_kernel(const char* op) {
  const auto found = table().find(op);
  return found == table().end() ? nullptr : found->second.kernel;
}
WorkspaceFn find_workspace(const char* op) {
  const auto found = table().find(op);
  return found == table().end() ? nullptr : found->second.workspace;
}

void facts(int device_index, DeviceFacts* out) {
  *out = {"", -1, -1, -1, -1, -1};
  cudaDeviceProp properties;
  int driver = 0;
  if (cudaGetDeviceProperties(&properties, device_index) || cudaDriverGetVersion(&driver)) return;
  std::snprintf(out->description, sizeof out->description,
                "%s, compute capability %d.%d, %d multiprocessors, driver for CUDA %d.%d", properties.name, properties.major,
                properties.minor, properties.multiProcessorCount, driver / 1000, driver % 1000 / 10);
  out->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  int before = 0;
  size_t free_bytes = 0, total = 0;
  if (cudaGetDevice(&before) || cudaSetDevice(device_index)) return;
  if (!cudaMemGetInfo(&free_bytes, &total)) out->free_bytes = static_cast<int64_t>(free_bytes);
  cudaSetDevice(before);
}

int64_t count_nonfinite(void* stream, const TensorView* tensor);  // below

constexpr int kOldest = 75;

}  // namespace

void register_kernel(const char* op, KernelFn kernel) { table()[op].kernel = kernel; }
void register_workspace(const char* op, WorkspaceFn workspace) { table()[op].workspace = workspace; }

namespace {

// Bits of an element with an exponent of ones: NaN or infinity.
template <class Bits>
__global__ void count_ones_kernel(const Bits* bits, int64_t n, Bits exponent, unsigned long long* count) {
  unsigned long long mine = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    mine += (bits[i] & exponent) == exponent;
  }
  if (mine) atomicAdd(count, mine);
}

// A check for debugging: waits, and takes a few bytes of its own.
int64_t count_nonfinite(void* stream, const TensorView* tensor) {
  Stream& at = self(stream);
  unsigned long long* count = nullptr;
  unsigned long long found = 0;
  if (tensor->numel == 0 || cudaMallocAsync(&count, sizeof *count, at.stream)) return 0;
  cudaMemsetAsync(count, 0, sizeof *count, at.stream);
  const auto blocks = static_cast<unsigned>(tensor->numel < 1 << 20 ? (tensor->numel + 255) / 256 : 4096);
  switch (tensor->dtype) {
    case DType::kF32: count_ones_kernel<<<blocks, 256, 0, at.stream>>>(tensor->as<uint32_t>(), tensor->numel, 0x7f800000u, count); break;
    case DType::kF64: count_ones_kernel<<<blocks, 256, 0, at.stream>>>(tensor->as<unsigned long long>(), tensor->numel, 0x7ff0000000000000ull, count); break;
    case DType::kF16: count_ones_kernel<<<blocks, 256, 0, at.stream>>>(tensor->as<uint16_t>(), tensor->numel, uint16_t{0x7c00}, count); break;
    default: count_ones_kernel<<<blocks, 256, 0, at.stream>>>(tensor->as<uint16_t>(), tensor->numel, uint16_t{0x7f80}, count); break;
  }
  cudaMemcpyAsync(&found, count, sizeof found, cudaMemcpyDeviceToHost, at.stream);
  cudaFreeAsync(count, at.stream);
  cudaStreamSynchronize(at.stream);
  return static_cast<int64_t>(found);
}

const Backend* open(uint32_t abi_version, const char* build_stamp, char* error) {
  if (abi_version != kAbiVersion || std::strcmp(build_stamp, LF_BUILD_STAMP)) {
    std::snprintf(error, kErrorText,
                  "the CUDA plug-in is of another build (%s) than the addon (%s): run `npm rebuild leanformer`", LF_BUILD_STAMP,
                  build_stamp);
    return nullptr;
  }
  int driver = 0, count = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver) {
    std::snprintf(error, kErrorText, "the NVIDIA driver is too old: it supports CUDA %d.%d, this build needs %d.%d; update the driver",
                  driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return nullptr;
  }
  if (code || count == 0) {
    std::snprintf(error, kErrorText, "there is no CUDA device: %s; look at nvidia-smi and CUDA_VISIBLE_DEVICES",
                  code ? cudaGetErrorString(code) : "the driver lists none");
    return nullptr;
  }
  // Devices are used in the driver's order up to the first that is too old.
  int usable = 0;
  for (; usable < count; ++usable) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, usable);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, usable);
    if (10 * major + minor < kOldest) {
      std::snprintf(error, kErrorText,
                    "device %d has compute capability %d.%d; 7.5 (Turing) is the oldest that works; hide it with CUDA_VISIBLE_DEVICES",
                    usable, major, minor);
      break;
    }
  }
  if (usable == 0) return nullptr;
  static Backend backend = {kAbiVersion, "cuda",   0,           create_stream, allocate_slab, free_slab,     copy_in,
                            copy_out,    fill_zero, synchronize, recover,       find_kernel,   find_workspace, count_nonfinite, facts};
  backend.device_count = usable;
  return &backend;
}

}  // namespace
}  // namespace lf::cuda

extern "C" __attribute__((visibility("default"))) const lf::Backend* leanformer_backend(uint32_t abi_version,
                                                                                         const char* build_stamp, char* error) {
  return lf::cuda::open(abi_version, build_stamp, error);
}
