// From handles to work on a stream. One Context per Node environment: its devices and its table of tensor handles. All
// methods run on that environment's JavaScript thread and throw OpError for bad arguments.
//
// A handle is a position in the table plus a generation (position + generation * 2^24), so that a handle kept after its
// tensor was released is recognised instead of naming somebody else's tensor.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"

namespace lf {

using Handle = double;  // an integer below 2^53

struct CreatedTensor {
  Handle handle;
  TensorView view;
};

// What the program has asked of a device so far, whether or not the device has come that far: bytes of its live tensors,
// the most since reset_program_peak() (with workspace), and FLOPs. Equal to the device's own counts once it is idle.
struct ProgramCounts {
  int64_t live_bytes = 0, peak_bytes = 0;
  double flops = 0;
};

class Context {
 public:
  Context();
  ~Context();  // releases all tensors and closes the streams
  Context(const Context&) = delete;

  // Makes streams for devices that joined the process since.
  void update_devices();
  int device_count() const { return static_cast<int>(streams_.size()); }
  Stream& stream(int device);

  // words: operator id, device (-1: that of the inputs), number of inputs, handles (0: absent), then every attribute in
  // schema order, lists preceded by their length. Returns the outputs, in a vector that lives until the next call.
  const std::vector<CreatedTensor>& call(const double* words, size_t num_words);

  // A tensor with the given bytes (already in its dtype).
  CreatedTensor create(int device, DType dtype, const int64_t* shape, int rank, const void* bytes, int64_t num_bytes);
  // Another tensor over the same memory, from `offset` elements on.
  CreatedTensor view(Handle source, int64_t offset, const int64_t* shape, int rank);
  // The same numbers on a device, in memory of their own; see Stream::transfer.
  CreatedTensor copy_to(Handle source, int device);
  void release(Handle handle);
  Operand operand(Handle handle) const;  // throws ERR_DISPOSED for stale handles
  int device_of(Handle handle) const;
  int64_t live_handles() const { return live_handles_; }

  ProgramCounts& program(int device) { return program_.at(static_cast<size_t>(device)); }

  // Pagers by number; see Stream::page_out for what the rest does.
  int open_pager(std::string folder);  // '': host memory
  Pager& pager(int number);
  void close_pager(int number) { pagers_.at(static_cast<size_t>(number)).reset(); }
  void page_out(Handle handle, int pager);
  void page_in(Handle handle);
  void prefetch(Handle handle);

 private:
  struct Slot {
    Storage* storage = nullptr;
    int64_t offset = 0;
    TensorView view{};
    int32_t device = 0;
    int32_t generation = 1;
  };
  const Slot& slot(Handle handle) const;
  CreatedTensor add_slot(Slot slot);
  void count_live(int device, int64_t bytes);
  void comes_back(Storage* storage, int device);  // counts it, where it was away

  std::vector<std::unique_ptr<Stream>> streams_;
  struct Kernel {
    KernelFn run = nullptr;
    WorkspaceFn workspace = nullptr;  // instead of the schema's rule
  };
  std::vector<std::vector<Kernel>> kernels_;  // [device][operator id]
  std::vector<Slot> slots_;
  std::vector<int32_t> free_slots_;
  int64_t live_handles_ = 0;
  std::vector<ProgramCounts> program_;  // [device]
  std::vector<std::shared_ptr<Pager>> pagers_;
  // Kept between calls, so that a call allocates nothing here.
  std::vector<TensorView> input_views_;
  std::vector<Operand> inputs_, outputs_;
  std::vector<int32_t> attr_begin_;
  std::vector<double> attrs_;
  std::vector<CreatedTensor> created_;
};

}  // namespace lf
