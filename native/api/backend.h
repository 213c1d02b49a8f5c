// What a backend gives to the core: memory, copies, kernels. The CPU fills this table in native/cpu/device.cpp; a plug-in
// library returns one from its entry point `leanformer_backend`. Plain C types only. Functions that take `stream` are
// called from the thread that made it, and from no other; the rest from any thread.
//
// A function that returns int32_t gives kOk, or an error code with `error` (kErrorText bytes) filled in.
#pragma once
#include "api/kernel.h"

namespace lf {

constexpr uint32_t kAbiVersion = 6;
constexpr int64_t kMarkBytes = 4096;
constexpr int32_t kMostBranches = 8;

// What a device says of itself, for `leanformer info` and the step metrics. Numbers that it cannot tell are negative.
struct DeviceFacts {
  char description[384];  // "NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, driver 13.0"
  int64_t memory_bytes, free_bytes;
  double watts, joules;  // power now; energy since the driver was loaded
  double celsius;
};

// Sequences of kernels that are recorded once and then started together. While one is being recorded, kernels that are
// called are noted and do not run. Each has a block of bytes on the device, filled anew at every launch: the contents of
// tensors written within the sequence, and attributes that change from launch to launch.
struct GraphServices {
  int32_t (*begin)(void* stream, int64_t block_bytes, void** graph, char* error);
  // Records the copy of a part of the block to a tensor.
  int32_t (*copy)(void* stream, void* graph, void* device, int64_t offset, int64_t bytes, char* error);
  // Where in the block the attributes of the kernel called next are, as doubles in the order of KernelArgs::attrs.
  void (*attributes_at)(void* stream, void* graph, int64_t offset);
  int32_t (*end)(void* stream, void* graph, char* error);
  int32_t (*launch)(void* stream, void* graph, const void* block, char* error);
  void (*destroy)(void* stream, void* graph);
  // Whether the operator's kernel reads this attribute from the block, so that another value needs no other graph.
  bool (*reads_from_block)(const char* op, int attr);
};

// Copies that run beside the kernels, those to the device also beside the others, in the order in which they are asked for; each
// begins when the kernels launched so far on `stream` are done. Memory of the host is page-locked, from allocate_host. A ticket
// stands for the end of what it was given for; it is nullptr, with `error` filled in, where nothing was begun. Functions
// without `stream` may be called from any thread.
struct CopyServices {
  // nullptr when there is none left.
  void* (*allocate_host)(int device_index, int64_t bytes);
  void (*free_host)(int device_index, void* memory);
  void* (*to_host)(void* stream, void* host, const void* device, int64_t bytes, char* error);
  // Once `after`, a ticket, is reached, where it is not nullptr.
  void* (*to_device)(void* stream, void* device, const void* host, int64_t bytes, void* after, char* error);
  // To memory of the device of another stream, `peer`, once `ready`, a ticket from there, is reached.
  void* (*to_peer)(void* stream, const void* device, void* peer, void* to, int64_t bytes, void* ready, char* error);
  // The end of the kernels launched so far.
  void* (*point)(void* stream, char* error);
  // Kernels launched on `stream` from now on begin after it, whichever stream it comes from.
  int32_t (*join)(void* stream, void* ticket, char* error);
  bool (*reached)(void* ticket);
  int32_t (*wait)(void* ticket, char* error);
  void (*drop)(void* ticket);  // nobody asks for it any more; what it stands for goes on
};

using WorkspaceFn = int64_t (*)(const KernelArgs* args);

struct Backend {
  uint32_t abi_version;
  const char* name;
  int32_t device_count;
  // A device's stream object, made on the thread that will use it. The CPU has none and returns kOk with nullptr.
  int32_t (*create_stream)(int device_index, void** stream, char* error);
  // The last call, from the same thread, once all slabs, graphs, marks and tickets were given back: everything that the stream
  // object has on the device and the host. nullptr where it has nothing.
  void (*destroy_stream)(void* stream);
  // A new region of device memory, or nullptr when there is none left.
  void* (*allocate_slab)(void* stream, int64_t bytes);
  void (*free_slab)(void* stream, void* slab, int64_t bytes);
  // Ordered after all kernels launched so far. copy_in may return before the copy is done, but has read `host`; copy_out
  // returns when the bytes are on the host.
  int32_t (*copy_in)(void* stream, void* device, const void* host, int64_t bytes, char* error);
  int32_t (*copy_out)(void* stream, void* host, const void* device, int64_t bytes, char* error);
  int32_t (*fill_zero)(void* stream, void* device, int64_t bytes, char* error);
  // Waits for everything launched so far, copies too, and reports what kernels found wrong while they ran (an id outside of a table).
  int32_t (*synchronize)(void* stream, char* error);
  // After an error was reported: lets the stream work again. kOk, or why it never will (a device that was lost).
  int32_t (*recover)(void* stream, char* error);
  // nullptr where the device works in step with the host. mark: a point behind everything launched so far, and, where
  // bytes > 0 (at most kMarkBytes), these bytes of the device as they are at that point. wait, from any one thread at a
  // time: returns when the point is reached, with the bytes in `host` and what synchronize reports; the mark is then gone.
  void* (*mark)(void* stream, const void* device, int64_t bytes);
  int32_t (*wait)(void* mark, void* host, char* error);
  // nullptr where the host's clock tells how long a kernel took. note_time: a point in time of the device; its number.
  // seconds: between two such points, both reached; noted times are forgotten with forget_times.
  int32_t (*note_time)(void* stream);
  double (*seconds)(void* stream, int32_t from, int32_t to);
  void (*forget_times)(void* stream);
  // nullptr where the device works in step with the host. Kernels and copies from now on go to `branch` (1 to kMostBranches: a
  // queue that runs beside the others; 0: the device's own), and come after what the branches of the set `after` were given so
  // far (bit b: branch b).
  int32_t (*enter_branch)(void* stream, int32_t branch, uint32_t after, char* error);
  const GraphServices* graphs;  // nullptr: none
  const CopyServices* copies;   // nullptr where the device works in step with the host
  // nullptr: this backend has no kernel for the operator.
  KernelFn (*find_kernel)(const char* op);
  // How many bytes of workspace this backend's kernel wants for a call, whose views have shapes and no data. nullptr: as
  // the operator's schema says.
  WorkspaceFn (*find_workspace)(const char* op);
  // Values that are NaN or infinite in a tensor of a floating dtype.
  int64_t (*count_nonfinite)(void* stream, const TensorView* tensor);
  void (*facts)(int device_index, DeviceFacts* facts);
};

// The entry point of a plug-in library, `extern "C"`: nullptr with `error` filled in when it cannot be used here, because
// the stamps of the builds differ or there is no device.
using BackendEntry = const Backend* (*)(uint32_t abi_version, const char* build_stamp, char* error);

}  // namespace lf
