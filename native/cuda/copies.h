// Three more streams of a device: one for pages and tensors that go to other places, one for pages that come back (copies.cu), and
// one for what the host writes, which lands in a waiting room on the device and goes from there to its place within the order
// of the kernels.
#pragma once
#include <mutex>
#include <vector>

#include "api/backend.h"
#include "cuda/stream.h"

namespace lf::cuda {

struct Copies {
  cudaStream_t leaving = nullptr, arriving = nullptr, inputs = nullptr;
  cudaEvent_t begin = nullptr;  // where the kernels were when the last copy was asked for
  char* arrivals = nullptr;     // as large as Stream::staging, cut in the same halves
  cudaEvent_t arrivals_free[2] = {};
  std::vector<bool> peers;  // devices whose memory was made accessible, as far as the driver allows it
  // Events of tickets that nobody holds any more, to be used again.
  std::mutex mutex;
  std::vector<cudaEvent_t> spare;
};

cudaError_t open_copies(Stream& at);
void close_copies(Stream& at);
// From page-locked memory to `place`, before the next kernel and after those launched so far, but for the way to the device,
// which begins at once. `sent`: the host's memory was read. `taken`: the waiting room is free.
cudaError_t copy_through(Stream& at, void* place, char* room, const char* host, size_t bytes, cudaEvent_t sent, cudaEvent_t taken);

extern const CopyServices kCopies;

}  // namespace lf::cuda
