// One ordered queue of work per device, carried out by a thread of its own: tensors are placed, kernels run, tensors are
// released and host copies are made strictly in the order in which JavaScript asked for them. The `meta` stream has no
// thread and no kernels: it does the placing and releasing at once, so its arena shows the same bytes as a real run.
//
// An error sticks: the first one is kept with its operator and shapes, everything after it is skipped (and leaves its
// outputs without memory), and every fence and read reports it until clear_error().
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "api/backend.h"
#include "core/arena.h"
#include "core/op.h"
#include "core/pager.h"
#include "core/step_graph.h"

namespace lf {

// A copy beside the kernels that has begun: kernels that want its result, or its source's place, come after `end`.
struct Copying {
  Ticket end;
  bool reads = false;   // from here, to somewhere else: only what changes the memory must come after it
  int64_t kernels = 0;  // launched before it began
};

// Memory of one or more tensors. `references` and `away` belong to the JavaScript thread; everything else to the stream.
struct Storage {
  int64_t bytes = 0;
  int32_t references = 1;
  bool away = false;  // in program order: paged out
  void* data = nullptr;
  size_t placed_at = 0;        // position in the stream's list of live storages
  const char* origin = "";  // the operator that made it
  TensorView view{};        // its shape when made, for error texts
  std::shared_ptr<Pager> pager;  // while it is paged out or `data` is a mapped page, with the page
  Pager::Page* page = nullptr;
  void* block = nullptr;  // its place in the arena, where `data` is a mapped page
  void* ahead = nullptr;  // held memory that the page's contents are on their way to
  Copying copying;        // to `ahead`, to `data` or from it
  int32_t branch = 0;     // that filled it, if `region` is the stream's; see Stream::enter_branch
  int64_t region = 0;
  bool shared = false;    // another branch uses it
};

struct Operand {
  Storage* storage = nullptr;  // nullptr: absent optional input
  int64_t offset = 0;          // bytes
  TensorView view{};
};

struct StreamError {
  Code code = kOk;
  std::string message;
  std::string hint;
};

struct OpStats {
  int64_t calls = 0;
  double seconds = 0, flops = 0, bytes_read = 0, bytes_written = 0;
};

struct DeviceStats {
  int64_t live_bytes = 0, peak_bytes = 0, reserved_bytes = 0, live_blocks = 0, limit_bytes = 0;
  double flops = 0, bytes_read = 0, bytes_written = 0, busy_seconds = 0;
  double waited_seconds = 0;  // with nothing left to do
  int64_t kernels = 0, graph_replays = 0;
  int64_t branches = 0;  // begun on a queue of their own
  // Copies beside the kernels, and how many kernels were launched between the beginning of one and what had to wait for
  // it; page-locked memory of the host.
  int64_t copies = 0, copied_bytes = 0, kernels_beside_copies = 0, locked_bytes = 0;
};

std::string bytes_text(int64_t bytes);  // for people

class Stream {
 public:
  struct Work;

  // `backend` is nullptr for the meta device.
  Stream(const Backend* backend, int device_index, std::string device_name);
  // The end of a stream, whose storages were all released, in two parts, because others may hold tickets of its copies: settle
  // on all streams, then close. Both block. At process.exit() neither is called: nobody waits for a kernel there.
  void settle();
  void close();

  // Takes the two lists.
  void run_op(const OpSchema* op, KernelFn kernel, const Cost& cost, int64_t workspace_bytes, std::vector<Operand>& inputs,
              std::vector<Operand>& outputs, const double* attrs, const int32_t* attr_begin);
  void release(Storage* storage);                                            // deletes the storage object too
  void write(Storage* storage, std::vector<char> bytes);                     // places it and fills it
  // Contents go to the pager and the memory is released; they come back by page_in, or by themselves when an operator has
  // the tensor as an input. prefetch: they are wanted soon. On the meta device only the memory moves. Where the device has
  // a copy stream, both ways run beside the kernels. What was prefetched waits in spare memory that counts as live when it
  // is used, and makes room for whatever needs that before.
  void page_out(Storage* storage, std::shared_ptr<Pager> pager);
  void page_in(Storage* storage);
  void prefetch(Storage* storage);
  // Fills `target`, a storage of `to`, from a tensor of `from`, after what was asked of both so far. Between devices of one
  // backend no thread waits for the device; otherwise the numbers go through the host. A source that was never computed
  // leaves the target uncomputed.
  static void transfer(Stream& from, const Operand& source, Stream& to, Storage* target);
  // Runs on a thread of the stream, with the statistics at its point in stream order.
  using Done = std::function<void(const StreamError&, const DeviceStats&)>;
  void read(const Operand& source, void* host, Done done);
  void fence(Done done);
  // Kernels from now on belong to branch `number` (1, 2, ...), which begins after everything before the first branch and runs
  // beside the other branches; where it uses what another made, it waits for that. 0: no branch; what follows comes after all
  // of them. A device that works in step with the host carries everything out in the program's order. See stream_branches.cpp.
  void enter_branch(int32_t number);
  // Between the two, launches are listed and carried out together at the end, as a graph when the step is a known one.
  void begin_step();
  void end_step();
  void call(std::function<void()> task);                                     // runs on the stream's thread, even after errors
  void wait_idle();                                                          // blocks the caller

  void clear_error();  // in stream order

  DeviceStats stats_here();  // only on the stream's thread, from a task

  // All in stream order and blocking.
  DeviceStats stats();
  std::vector<OpStats> op_stats(bool reset);

  void set_limit(int64_t bytes);
  void reset_peak();
  // While on, the first operator with a NaN or infinity among its floating outputs is remembered.
  void check_nonfinite(bool on);
  std::string first_nonfinite();
  // While on, blocks are surrounded by guard bytes and start as NaN, and an operator that writes outside of its tensors
  // fails by name.
  void check_guards(bool on);
  // While on, seconds of operators are the device's own, where it has a clock; the CPU's always are.
  void time_operators(bool on);
  // The n-th placement from now on fails as if memory had run out; 0: none. For tests.
  void fail_placement(int64_t n);

  const std::string& name() const { return name_; }
  bool is_meta() const { return backend_ == nullptr; }
  const Backend* backend() const { return backend_; }
  int device_index() const { return device_index_; }

 private:
  struct Waiting {
    void* mark;
    void* host;
    Done done;  // none: the thread ends
    DeviceStats stats;
  };
  Work* blank_work();
  void spend(Work* work);
  void push(Work* work);
  void open();
  void loop();
  void wait_loop();
  bool open_here() const { return backend_ && opened_; }
  void give_everything_back();
  void adopt_late_error();
  void finish_when_reached(const void* device, int64_t bytes, void* host, Done done);
  bool fail_now();  // see fail_placement
  void* allocate(int64_t bytes);
  // Copies beside the kernels. begin: counts one. join: kernels launched from now on come after it.
  Copying begin(void* ticket, int64_t bytes, bool reads = false);
  void join(Copying& copying);
  void leave(void* held, Copying copying);  // the memory is nobody's, but in use until the copy's end
  bool free_first_leaving();
  bool cancel_latest_arrival();
  bool maps() const;
  void arrive_ahead(Storage* storage);
  bool prepare_read(const Operand& source);  // brings it here; false: it is not computed, or the stream has failed
  static void transfer_to_peer(Stream& from, const Operand& source, Stream& to, Storage* target);
  // Branches (stream_branches.cpp). assign: the branch of the next launch, and what it comes after.
  bool branching() const;
  void assign(Launch& launch, const std::vector<Operand>& inputs);
  void made_here(Storage* storage);  // by the launch that was assigned last
  void join_branches();
  void give_back(void* block, bool own);  // once no other branch can be using it; own: none does
  void* take_back(int64_t bytes);         // what this branch gave back before, of that size
  void run_kernel(const Work& work, const Launch& launch, OpStats& stats);
  void run_listed();
  void add_times();
  void execute(Work& work);
  void execute_op(Work& work);
  bool place(Storage* storage);
  bool bring_back(Storage* storage);
  void unplace(Storage* storage);
  void forget_place(Storage* storage);
  void write_guards(void* block, int64_t bytes);
  std::string damaged_guard(void* block, int64_t bytes);  // "3 bytes before", "1 byte after", or ""
  void verify_guards(const Work& work, void* workspace);
  void fail(Code code, std::string message, std::string hint = "");
  void out_of_memory(const char* what, int64_t bytes);

  const Backend* backend_;
  int device_index_;
  void* stream_ = nullptr;  // the backend's own, made on the stream's thread
  bool opened_ = false;     // it could be made
  bool closing_ = false;    // the stream's thread ends
  std::thread thread_, waiter_;
  std::string name_;
  Arena arena_;
  const CopyServices* copies_;
  HostMemory host_memory_;
  std::vector<Storage*> placed_;
  struct Leaving {
    void* held;
    int64_t bytes;
    Copying copying;
  };
  std::deque<Leaving> leaving_;
  int64_t leaving_bytes_ = 0;
  std::vector<Storage*> arriving_;  // with memory ahead
  int32_t branch_ = 0;          // the program's
  uint32_t open_branches_ = 0;  // by bit: with launches since the branches last came together
  int64_t region_ = 1;          // counts how often they did
  struct Deferred {
    void* block;
    int64_t bytes;
    int32_t branch;  // that alone used it; 0: several
  };
  std::vector<Deferred> deferred_;  // held until they do again
  StreamError error_;
  DeviceStats totals_;
  std::vector<OpStats> op_stats_;
  bool check_nonfinite_ = false;
  bool check_guards_ = false;
  bool time_operators_ = false;
  int64_t placements_until_failure_ = 0;
  StepGraph step_;
  struct Timed {
    int op;
    int32_t from, to;
  };
  std::vector<Timed> timed_;
  std::string first_nonfinite_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Work*> queue_, spare_;
  std::atomic<int64_t> pushed_{0};
  std::atomic<bool> sleeping_{false};

  // Of devices that do not work in step with the host: marks that a thread of its own waits for, and what it found.
  std::mutex wait_mutex_;
  std::condition_variable wait_wake_;
  std::deque<Waiting> waiting_;
  StreamError late_error_;
  std::atomic<bool> has_late_error_{false};
};

}  // namespace lf
