// Copies beside the kernels. Each is between two events: it waits for one of the kernels' stream, and whoever needs its end
// waits for one of its own, the ticket; no thread waits for the device. An event may be recorded again as soon as the streams
// that must wait for it were told so.
#include "cuda/copies.h"

#include <cstdio>

namespace lf::cuda {
namespace {

struct Ticket {
  Copies* of;
  cudaEvent_t event;
};

Stream& self(void* stream) { return *static_cast<Stream*>(stream); }
cudaEvent_t event_of(void* ticket) { return static_cast<Ticket*>(ticket)->event; }

int32_t describe(char* error, cudaError_t code) {
  std::snprintf(error, kErrorText, "copy beside the kernels: CUDA error %d: %s", static_cast<int>(code), cudaGetErrorString(code));
  return kKernel;
}

// The end of what `stream`, one of the device's, was given so far. Events are made on the stream's own thread.
cudaError_t record(Stream& at, cudaStream_t stream, void** ticket) {
  Copies& copies = *at.copies;
  cudaEvent_t event = nullptr;
  {
    std::lock_guard lock(copies.mutex);
    if (!copies.spare.empty()) {
      event = copies.spare.back();
      copies.spare.pop_back();
    }
  }
  cudaError_t code = cudaSuccess;
  // Blocking: a thread that waits must not burn a processor.
  if (!event) code = cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync);
  if (!code) code = cudaEventRecord(event, stream);
  if (!code) *ticket = new Ticket{&copies, event};
  return code;
}

// Runs `copy`, which enqueues on the stream `on`, after the kernels launched so far.
template <class F>
void* after_kernels(Stream& at, cudaStream_t on, char* error, F copy) {
  Copies& copies = *at.copies;
  void* ticket = nullptr;
  cudaError_t code = cudaEventRecord(copies.begin, at.stream);
  if (!code) code = cudaStreamWaitEvent(on, copies.begin, 0);
  if (!code) code = copy();
  if (!code) code = record(at, on, &ticket);
  if (code) describe(error, code);
  return ticket;
}

void* allocate_host(int device_index, int64_t bytes) {
  void* memory = nullptr;
  if (cudaSetDevice(device_index) == cudaSuccess && cudaMallocHost(&memory, static_cast<size_t>(bytes)) == cudaSuccess) return memory;
  cudaGetLastError();  // the caller says what there was no memory for
  return nullptr;
}

void free_host(int, void* memory) { cudaFreeHost(memory); }

void* to_host(void* stream, void* host, const void* device, int64_t bytes, char* error) {
  const cudaStream_t on = self(stream).copies->leaving;
  return after_kernels(self(stream), on, error, [=] { return cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, on); });
}

void* to_device(void* stream, void* device, const void* host, int64_t bytes, void* after, char* error) {
  const cudaStream_t on = self(stream).copies->arriving;
  return after_kernels(self(stream), on, error, [=] {
    if (after) {
      if (const cudaError_t code = cudaStreamWaitEvent(on, event_of(after), 0)) return code;
    }
    return cudaMemcpyAsync(device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, on);
  });
}

// Once for each device: without it, and where the driver refuses, it copies by way of the host.
void open_peer(Copies& copies, int from, int to) {
  const auto at = static_cast<size_t>(to);
  if (copies.peers.size() <= at) copies.peers.resize(at + 1);
  if (copies.peers[at] || from == to) return;
  copies.peers[at] = true;
  int possible = 0;
  if (!cudaDeviceCanAccessPeer(&possible, from, to) && possible) cudaDeviceEnablePeerAccess(to, 0);
  cudaGetLastError();  // another stream of the process may have done it
}

void* to_peer(void* stream, const void* device, void* peer, void* to, int64_t bytes, void* ready, char* error) {
  Stream& at = self(stream);
  const int there = self(peer).device;
  open_peer(*at.copies, at.device, there);
  const cudaStream_t on = at.copies->leaving;
  return after_kernels(at, on, error, [&] {
    if (const cudaError_t code = cudaStreamWaitEvent(on, event_of(ready), 0)) return code;
    return cudaMemcpyPeerAsync(to, there, device, at.device, static_cast<size_t>(bytes), on);
  });
}

void* point(void* stream, char* error) {
  void* ticket = nullptr;
  if (const cudaError_t code = record(self(stream), self(stream).stream, &ticket)) describe(error, code);
  return ticket;
}

int32_t join(void* stream, void* ticket, char* error) {
  const cudaError_t code = cudaStreamWaitEvent(self(stream).stream, event_of(ticket), 0);
  return code ? describe(error, code) : kOk;
}

bool reached(void* ticket) { return cudaEventQuery(event_of(ticket)) == cudaSuccess; }

int32_t wait(void* ticket, char* error) {
  const cudaError_t code = cudaEventSynchronize(event_of(ticket));
  return code ? describe(error, code) : kOk;
}

void drop(void* ticket) {
  auto* gone = static_cast<Ticket*>(ticket);
  {
    std::lock_guard lock(gone->of->mutex);
    gone->of->spare.push_back(gone->event);
  }
  delete gone;
}

}  // namespace

const CopyServices kCopies = {allocate_host, free_host, to_host, to_device, to_peer, point, join, reached, wait, drop};

cudaError_t open_copies(Stream& at) {
  at.copies = new Copies;
  Copies& made = *at.copies;
  cudaError_t code = cudaSuccess;
  auto step = [&](cudaError_t found) {
    if (!code) code = found;
  };
  for (cudaStream_t* stream : {&made.leaving, &made.arriving, &made.inputs}) step(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
  step(cudaEventCreateWithFlags(&made.begin, cudaEventDisableTiming));
  step(cudaMalloc(&made.arrivals, kStagingBytes));
  for (cudaEvent_t& event : made.arrivals_free) step(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return code;
}

void close_copies(Stream& at) {
  if (!at.copies) return;
  Copies& gone = *at.copies;
  for (cudaStream_t stream : {gone.leaving, gone.arriving, gone.inputs}) {
    if (!stream) continue;
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  for (cudaEvent_t event : {gone.begin, gone.arrivals_free[0], gone.arrivals_free[1]}) {
    if (event) cudaEventDestroy(event);
  }
  for (cudaEvent_t event : gone.spare) cudaEventDestroy(event);
  cudaFree(gone.arrivals);
  delete &gone;
  at.copies = nullptr;
}

cudaError_t copy_through(Stream& at, void* place, char* room, const char* host, size_t bytes, cudaEvent_t sent, cudaEvent_t taken) {
  const cudaStream_t inputs = at.copies->inputs;
  cudaError_t code = cudaStreamWaitEvent(inputs, taken, 0);
  if (!code) code = cudaMemcpyAsync(room, host, bytes, cudaMemcpyHostToDevice, inputs);
  if (!code) code = cudaEventRecord(sent, inputs);
  if (!code) code = cudaStreamWaitEvent(at.stream, sent, 0);
  if (!code) code = cudaMemcpyAsync(place, room, bytes, cudaMemcpyDeviceToDevice, at.stream);
  if (!code) code = cudaEventRecord(taken, at.stream);
  return code;
}

}  // namespace lf::cuda
