// The plug-in's entry and its device services: streams, slabs, copies through pinned staging memory, errors. Kernels are
// in the other files of this folder and register themselves.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "api/backend.h"
#include "build_info.h"
#include "cuda/copies.h"
#include "cuda/graph.h"
#include "cuda/kernel.cuh"
#include "cuda/library.h"
#include "cuda/nvml.h"
#include "cuda/sparse_library.h"

namespace lf::cuda {
namespace {

struct Entry {
  KernelFn kernel = nullptr;
  WorkspaceFn workspace = nullptr;
  uint32_t from_block = 0;  // bit i: attribute i
};
// Leaked: looked up while the process exits, too.
std::map<std::string, Entry>& table() {
  static auto& kernels = *new std::map<std::string, Entry>;
  return kernels;
}

int32_t fail(char* error, const char* what, cudaError_t code) {
  std::snprintf(error, kErrorText, "%s: CUDA error %d: %s", what, static_cast<int>(code), cudaGetErrorString(code));
  return code == cudaErrorMemoryAllocation ? kOutOfMemory : kKernel;
}
#define LF_TRY(what, call)                                                     \
  do {                                                                         \
    if (const cudaError_t code_ = (call)) return fail(error, what, code_);     \
  } while (0)

Stream& self(void* stream) { return *static_cast<Stream*>(stream); }

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

// Through one half of the staging memory, and of the waiting room on the device, while the other half is still being copied.
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
    LF_TRY("copy to the device", copy_through(at, static_cast<char*>(device) + done, at.copies->arrivals + half * kHalf, stage, count,
                                              at.staging_free[half], at.copies->arrivals_free[half]));
  }
  return kOk;
}

int32_t fault_text(const Stream& at, const FaultRecord& found, char* error) {
  if (!found.taken) return kOk;
  const Stream::Site& site = at.sites[found.site];
  const int length = std::snprintf(error, kErrorText, "%s: ", site.op);
  std::snprintf(error + length, kErrorText - static_cast<size_t>(length), site.format, static_cast<long long>(found.value),
                static_cast<long long>(found.position), static_cast<long long>(found.limit));
  return kKernel;
}

// What kernels reported, after everything is done.
int32_t check_faults(Stream& at, char* error) {
  LF_TRY("synchronize", cudaMemcpyAsync(at.faults_host, at.faults, sizeof(FaultRecord), cudaMemcpyDeviceToHost, at.stream));
  LF_TRY("synchronize", cudaStreamSynchronize(at.stream));
  return fault_text(at, *at.faults_host, error);
}

int32_t synchronize(void* stream, char* error) {
  LF_TRY("synchronize", cudaStreamSynchronize(self(stream).copies->leaving));
  LF_TRY("synchronize", cudaStreamSynchronize(self(stream).copies->arriving));
  return check_faults(self(stream), error);
}

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

// Within a graph that is being recorded the same calls make its edges. A step is carried out before it is recorded, so queues
// and events are there by then.
int32_t enter_branch(void* stream, int32_t branch, uint32_t after, char* error) {
  Stream& at = self(stream);
  cudaStream_t& queue = at.queues[branch];
  if (!queue) LF_TRY("branch", cudaStreamCreateWithFlags(&queue, cudaStreamNonBlocking));
  for (int32_t i = 0; i <= kMostBranches; ++i) {
    if (i == branch || !(after >> i & 1)) continue;
    if (!at.reached[i]) LF_TRY("branch", cudaEventCreateWithFlags(&at.reached[i], cudaEventDisableTiming));
    LF_TRY("branch", cudaEventRecord(at.reached[i], at.queues[i]));
    LF_TRY("branch", cudaStreamWaitEvent(queue, at.reached[i], 0));
  }
  at.stream = queue;
  return kOk;
}

int32_t recover(void* from, char* error) {
  Stream& at = self(from);
  cudaGetLastError();
  at.stream = at.queues[0];
  for (cudaStream_t queue : at.queues) {
    if (queue) LF_TRY("the device cannot be used any more", cudaStreamSynchronize(queue));
  }
  LF_TRY("the device cannot be used any more", cudaMemsetAsync(at.faults, 0, sizeof(FaultRecord), at.stream));
  for (cudaStream_t stream : {at.copies->inputs, at.copies->leaving, at.copies->arriving, at.stream}) {
    LF_TRY("the device cannot be used any more", cudaStreamSynchronize(stream));
  }
  return kOk;
}

// A point in the stream's order, with what was asked for at that point in pinned memory. Used again and again.
struct Mark {
  Stream* at = nullptr;
  cudaEvent_t event = nullptr;
  FaultRecord* faults = nullptr;
  char* bytes = nullptr;
  int64_t num_bytes = 0;
  cudaError_t problem = cudaSuccess;
};
struct Marks {
  std::mutex mutex;
  std::vector<Mark*> free;
};
Marks& marks() {
  static auto& all = *new Marks;
  return all;
}

Mark* new_mark(Stream& at) {
  auto* made = new Mark;
  made->at = &at;
  void* pinned = nullptr;
  // Blocking: a thread that waits must not burn a processor.
  made->problem = cudaEventCreateWithFlags(&made->event, cudaEventDisableTiming | cudaEventBlockingSync);
  if (!made->problem) made->problem = cudaMallocHost(&pinned, sizeof(FaultRecord) + kMarkBytes);
  made->faults = static_cast<FaultRecord*>(pinned);
  if (pinned) made->bytes = static_cast<char*>(pinned) + sizeof(FaultRecord);
  return made;
}

void destroy_mark(Mark* gone) {
  if (gone->event) cudaEventDestroy(gone->event);
  if (gone->faults) cudaFreeHost(gone->faults);
  cudaGetLastError();
  delete gone;
}

void* mark(void* stream, const void* device, int64_t bytes) {
  Stream& at = self(stream);
  Mark* made = nullptr;
  {
    std::lock_guard lock(marks().mutex);
    auto& free = marks().free;
    for (size_t i = free.size(); i-- > 0 && !made;) {
      if (free[i]->at != &at) continue;
      made = free[i];
      free.erase(free.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  if (!made) made = new_mark(at);
  made->num_bytes = bytes;
  auto step = [&](cudaError_t code) {
    if (!made->problem) made->problem = code;
  };
  if (made->problem) return made;
  if (bytes) step(cudaMemcpyAsync(made->bytes, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, at.stream));
  step(cudaMemcpyAsync(made->faults, at.faults, sizeof(FaultRecord), cudaMemcpyDeviceToHost, at.stream));
  step(cudaEventRecord(made->event, at.stream));
  return made;
}

int32_t wait(void* waited, void* host, char* error) {
  Mark* at = static_cast<Mark*>(waited);
  if (!at->problem) at->problem = cudaEventSynchronize(at->event);
  if (at->problem) {  // not used again: its device is in trouble
    const int32_t code = fail(error, "synchronize", at->problem);
    destroy_mark(at);
    return code;
  }
  const int32_t code = fault_text(*at->at, *at->faults, error);
  if (!code && at->num_bytes) std::memcpy(host, at->bytes, static_cast<size_t>(at->num_bytes));
  std::lock_guard lock(marks().mutex);
  marks().free.push_back(at);
  return code;
}

// Points in time by number; events are kept and used again.
struct Times {
  std::vector<cudaEvent_t> events;
  size_t used = 0;
};
std::map<Stream*, Times>& times() {
  static thread_local auto& all = *new std::map<Stream*, Times>;
  return all;
}
int32_t note_time(void* stream) {
  Times& of = times()[&self(stream)];
  if (of.used == of.events.size()) {
    of.events.push_back(nullptr);
    if (cudaEventCreate(&of.events.back())) return -1;
  }
  if (cudaEventRecord(of.events[of.used], self(stream).stream)) return -1;
  return static_cast<int32_t>(of.used++);
}
double seconds(void* stream, int32_t from, int32_t to) {
  Times& of = times()[&self(stream)];
  float ms = 0;
  if (from < 0 || to < 0 || cudaEventElapsedTime(&ms, of.events[static_cast<size_t>(from)], of.events[static_cast<size_t>(to)])) return 0;
  return ms / 1e3;
}
void forget_times(void* stream) { times()[&self(stream)].used = 0; }

int32_t open_stream(Stream& made, char* error) {
  int major = 0, minor = 0, shared = 0;
  LF_TRY("device", cudaDeviceGetAttribute(&made.multiprocessors, cudaDevAttrMultiProcessorCount, made.device));
  LF_TRY("device", cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, made.device));
  LF_TRY("device", cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, made.device));
  LF_TRY("device", cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, made.device));
  made.capability = 10 * major + minor;
  made.shared_bytes_per_block = shared;
  LF_TRY("stream", cudaStreamCreateWithFlags(&made.stream, cudaStreamNonBlocking));
  made.queues[0] = made.stream;
  LF_TRY("stream", cudaMalloc(&made.faults, sizeof(FaultRecord)));
  LF_TRY("stream", cudaMemsetAsync(made.faults, 0, sizeof(FaultRecord), made.stream));
  LF_TRY("stream", cudaMallocHost(&made.faults_host, sizeof(FaultRecord)));
  LF_TRY("stream", cudaMallocHost(&made.staging, kStagingBytes));
  for (cudaEvent_t& event : made.staging_free) LF_TRY("stream", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  LF_TRY("stream", open_copies(made));
  return kOk;
}

// Of a stream that is only half made, too.
void destroy_stream(void* stream) {
  Stream& at = self(stream);
  for (cudaStream_t queue : at.queues) {
    if (queue) cudaStreamSynchronize(queue);
  }
  {
    std::lock_guard lock(marks().mutex);
    auto& free = marks().free;
    const auto mine = std::stable_partition(free.begin(), free.end(), [&](const Mark* one) { return one->at != &at; });
    std::for_each(mine, free.end(), destroy_mark);
    free.erase(mine, free.end());
  }
  for (cudaEvent_t event : times()[&at].events) {
    if (event) cudaEventDestroy(event);
  }
  times().erase(&at);
  close_copies(at);
  close_library(at);
  close_sparse_library(at);
  for (cudaEvent_t event : at.reached) {
    if (event) cudaEventDestroy(event);
  }
  for (cudaEvent_t event : at.staging_free) {
    if (event) cudaEventDestroy(event);
  }
  cudaFree(at.faults);
  cudaFreeHost(at.faults_host);
  cudaFreeHost(at.staging);
  for (cudaStream_t queue : at.queues) {
    if (queue) cudaStreamDestroy(queue);
  }
  cudaGetLastError();
  delete &at;
}

int32_t create_stream(int device_index, void** out, char* error) {
  LF_TRY("device", cudaSetDevice(device_index));
  auto* made = new Stream;
  made->device = device_index;
  if (const int32_t code = open_stream(*made, error)) {
    destroy_stream(made);
    return code;
  }
  *out = made;
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

bool reads_from_block(const char* op, int attr) {
  const auto found = table().find(op);
  return found != table().end() && attr < 32 && (found->second.from_block >> attr & 1);
}

const GraphServices kGraphs = {begin_graph, copy_in_graph, attributes_in_graph, end_graph, launch_graph, destroy_graph, reads_from_block};

void facts(int device_index, DeviceFacts* out) {
  *out = {"", -1, -1, -1, -1, -1};
  cudaDeviceProp properties;
  int driver = 0;
  if (cudaGetDeviceProperties(&properties, device_index) || cudaDriverGetVersion(&driver)) return;
  std::snprintf(out->description, sizeof out->description,
                "%s, compute capability %d.%d, %d multiprocessors, driver for CUDA %d.%d%s", properties.name, properties.major,
                properties.minor, properties.multiProcessorCount, driver / 1000, driver % 1000 / 10,
                tf32_products() ? ", f32 products in TF32" : "");
  out->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  int before = 0;
  size_t free_bytes = 0, total = 0;
  if (cudaGetDevice(&before) || cudaSetDevice(device_index)) return;
  if (!cudaMemGetInfo(&free_bytes, &total)) out->free_bytes = static_cast<int64_t>(free_bytes);
  cudaSetDevice(before);
  char bus[32] = "";
  if (!cudaDeviceGetPCIBusId(bus, sizeof bus, device_index)) add_nvml_facts(bus, out);
}

int64_t count_nonfinite(void* stream, const TensorView* tensor);  // below

constexpr int kOldest = 75;

}  // namespace

void register_kernel(const char* op, KernelFn kernel) { table()[op].kernel = kernel; }
void register_workspace(const char* op, WorkspaceFn workspace) { table()[op].workspace = workspace; }
void register_from_block(const char* op, int attr) { table()[op].from_block |= 1u << attr; }

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
  static Backend backend = [] {
    Backend made{};
    made.abi_version = kAbiVersion;
    made.name = "cuda";
    made.create_stream = create_stream;
    made.destroy_stream = destroy_stream;
    made.allocate_slab = allocate_slab;
    made.free_slab = free_slab;
    made.copy_in = copy_in;
    made.copy_out = copy_out;
    made.fill_zero = fill_zero;
    made.synchronize = synchronize;
    made.recover = recover;
    made.mark = mark;
    made.wait = wait;
    made.note_time = note_time;
    made.seconds = seconds;
    made.forget_times = forget_times;
    made.enter_branch = enter_branch;
    made.graphs = &kGraphs;
    made.copies = &kCopies;
    made.find_kernel = find_kernel;
    made.find_workspace = find_workspace;
    made.count_nonfinite = count_nonfinite;
    made.facts = facts;
    return made;
  }();
  backend.device_count = usable;
  return &backend;
}

}  // namespace
}  // namespace lf::cuda

extern "C" __attribute__((visibility("default"))) const lf::Backend* leanformer_backend(uint32_t abi_version,
                                                                                         const char* build_stamp, char* error) {
  return lf::cuda::open(abi_version, build_stamp, error);
}
