// A graph is recorded from the stream itself. Before each start its block goes from one of two pinned copies to a waiting room
// on the device, beside the kernels of the step before, and from there to its place; the host may fill in the next step
// while this one runs.
#include "cuda/graph.h"

#include "cuda/copies.h"
#include "cuda/kernel.cuh"

namespace lf::cuda {
namespace {

struct Graph {
  char* block = nullptr;
  int64_t bytes = 0;
  char* pinned[2] = {};
  char* rooms[2] = {};
  cudaEvent_t free[2] = {}, taken[2] = {};  // of the pinned copy; of the room
  int next = 0;
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t ready = nullptr;
};

Graph& self(void* graph) { return *static_cast<Graph*>(graph); }

int32_t fail(char* error, cudaError_t code) {
  std::snprintf(error, kErrorText, "graph: CUDA error %d: %s", static_cast<int>(code), cudaGetErrorString(code));
  return kKernel;
}
#define LF_TRY(call)                                                  \
  do {                                                                \
    if (const cudaError_t code_ = (call)) return fail(error, code_);  \
  } while (0)

}  // namespace

int32_t begin_graph(void* stream, int64_t block_bytes, void** out, char* error) {
  auto* graph = new Graph;
  *out = graph;
  graph->bytes = block_bytes;
  const auto size = static_cast<size_t>(block_bytes ? block_bytes : 1);
  LF_TRY(cudaMalloc(&graph->block, size));
  for (int i = 0; i < 2; ++i) {
    LF_TRY(cudaMallocHost(&graph->pinned[i], size));
    LF_TRY(cudaEventCreateWithFlags(&graph->free[i], cudaEventDisableTiming | cudaEventBlockingSync));
    LF_TRY(cudaMalloc(&graph->rooms[i], size));
    LF_TRY(cudaEventCreateWithFlags(&graph->taken[i], cudaEventDisableTiming));
  }
  // Other threads of the process may go on with what they do.
  LF_TRY(cudaStreamBeginCapture(static_cast<Stream*>(stream)->stream, cudaStreamCaptureModeThreadLocal));
  return kOk;
}

int32_t copy_in_graph(void* stream, void* graph, void* device, int64_t offset, int64_t bytes, char* error) {
  LF_TRY(cudaMemcpyAsync(device, self(graph).block + offset, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                         static_cast<Stream*>(stream)->stream));
  return kOk;
}

void attributes_in_graph(void* stream, void* graph, int64_t offset) {
  static_cast<Stream*>(stream)->attributes = reinterpret_cast<const double*>(self(graph).block + offset);
}

int32_t end_graph(void* stream, void* graph, char* error) {
  Stream& at = *static_cast<Stream*>(stream);
  at.attributes = nullptr;
  at.stream = at.queues[0];  // where a launch that failed left it
  LF_TRY(cudaStreamEndCapture(at.stream, &self(graph).recorded));
  LF_TRY(cudaGraphInstantiate(&self(graph).ready, self(graph).recorded, 0));
  return kOk;
}

int32_t launch_graph(void* stream, void* graph, const void* block, char* error) {
  Graph& of = self(graph);
  Stream& at = *static_cast<Stream*>(stream);
  const int i = of.next;
  of.next = 1 - i;
  LF_TRY(cudaEventSynchronize(of.free[i]));
  if (of.bytes) {
    std::memcpy(of.pinned[i], block, static_cast<size_t>(of.bytes));
    LF_TRY(copy_through(at, of.block, of.rooms[i], of.pinned[i], static_cast<size_t>(of.bytes), of.free[i], of.taken[i]));
  }
  LF_TRY(cudaGraphLaunch(of.ready, at.stream));
  return kOk;
}

void destroy_graph(void* stream, void* graph) {
  Graph& of = self(graph);
  cudaStreamSynchronize(static_cast<Stream*>(stream)->stream);  // which comes after what is on its way to it
  if (of.ready) cudaGraphExecDestroy(of.ready);
  if (of.recorded) cudaGraphDestroy(of.recorded);
  for (int i = 0; i < 2; ++i) {
    for (cudaEvent_t event : {of.free[i], of.taken[i]}) if (event) cudaEventDestroy(event);
    if (of.rooms[i]) cudaFree(of.rooms[i]);
    if (of.pinned[i]) cudaFreeHost(of.pinned[i]);
  }
  if (of.block) cudaFree(of.block);
  cudaGetLastError();
  delete &of;
}

}  // namespace lf::cuda
