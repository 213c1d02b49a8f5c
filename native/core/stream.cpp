#include "core/stream.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace lf {
namespace {
using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(40);
constexpr int kTopTensors = 10;
constexpr int64_t kGuardBytes = 64;
constexpr size_t kMostTimed = 4096;
constexpr size_t kMostSpare = 1024, kMostOperandsKept = 32;  // of works that wait to be used again
constexpr char kGuardPattern = 0x5a;
constexpr char kFreshPattern = '\xff';  // NaN in every floating format

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Whoever holds it gives it back in less time than a thread takes to sleep and wake.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  std::unique_lock lock(mutex, std::defer_lock);
  for (int i = 0; i < 200; ++i) {
    if (lock.try_lock()) return lock;
    pause();
  }
  lock.lock();
  return lock;
}
}  // namespace

std::string bytes_text(int64_t bytes) {
  char text[48];
  if (bytes < int64_t{1} << 20) {
    std::snprintf(text, sizeof text, "%lld bytes", static_cast<long long>(bytes));
  } else {
    std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  }
  return text;
}

struct Stream::Work {
  enum Kind { kOp, kRelease, kWrite, kBranch, kTask, kBeginStep, kEndStep } kind = kTask;
  const OpSchema* op = nullptr;
  KernelFn kernel = nullptr;
  Cost cost;
  int64_t workspace_bytes = 0;
  std::vector<Operand> inputs, outputs;
  std::vector<double> attrs;
  std::vector<int32_t> attr_begin;
  Storage* storage = nullptr;     // release, write
  std::vector<char> bytes;        // write
  int32_t branch = 0;             // branch
  std::function<void()> task;     // everything else

  // Lists keep their memory, except long ones.
  void clear() {
    kind = kTask;
    for (auto* operands : {&inputs, &outputs}) {
      operands->clear();
      if (operands->capacity() > kMostOperandsKept) operands->shrink_to_fit();
    }
    attrs.clear();
    attr_begin.clear();
    bytes = {};
    task = nullptr;
  }
};

Stream::Stream(const Backend* backend, int device_index, std::string device_name)
    : backend_(backend),
      device_index_(device_index),
      name_(std::move(device_name)),
      arena_([this](int64_t bytes) -> void* {
        if (backend_) return backend_->allocate_slab(stream_, bytes);
        static std::atomic<uintptr_t> next{uintptr_t{1} << 40};  // addresses for the meta device; never touched
        return reinterpret_cast<void*>(next.fetch_add(static_cast<uintptr_t>(bytes) + 4096));
      }),
      copies_(backend ? backend->copies : nullptr),
      host_memory_(backend, device_index),
      op_stats_(all_ops().size()),
      step_(backend) {
  if (!backend_) return;
  if (backend_->mark) waiter_ = std::thread([this] { wait_loop(); });
  thread_ = std::thread([this] {
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "lf-stream");
#endif
    loop();
  });
}

void Stream::settle() {
  call([this] {
    while (free_first_leaving()) {}
    host_memory_.settle();
  });
  wait_idle();
}

void Stream::close() {
  if (waiter_.joinable()) {
    {
      std::lock_guard lock(wait_mutex_);
      waiting_.push_back({});
    }
    wait_wake_.notify_one();
    waiter_.join();
  }
  if (thread_.joinable()) {
    call([this] { closing_ = true; });
    thread_.join();
  }
  for (const auto* works : {&queue_, &spare_}) {
    for (Work* work : *works) delete work;
  }
}

// Whatever fails on the way: a device in trouble has lost what was on it.
void Stream::give_everything_back() {
  if (opened_) step_.clear(stream_);
  host_memory_.free_all();
  for (const Arena::Slab& slab : arena_.take_slabs()) backend_->free_slab(stream_, slab.memory, slab.bytes);
  if (opened_ && backend_->destroy_stream) backend_->destroy_stream(stream_);
}

// Works go round: memory that one thread takes and another gives back would make both wait for the allocator.
Stream::Work* Stream::blank_work() {
  const auto lock = lock_soon(mutex_);
  if (spare_.empty()) return new Work;
  Work* work = spare_.back();
  spare_.pop_back();
  return work;
}

void Stream::spend(Work* work) {
  if (spare_.size() < kMostSpare) spare_.push_back(work);
  else delete work;
}

void Stream::push(Work* work) {
  if (!backend_) {
    execute(*work);
    work->clear();
    const auto lock = lock_soon(mutex_);
    return spend(work);
  }
  bool wake;
  {
    const auto lock = lock_soon(mutex_);
    queue_.push_back(work);
    pushed_.fetch_add(1, std::memory_order_release);
    wake = sleeping_.load(std::memory_order_relaxed);
  }
  if (wake) wake_.notify_one();
}

void Stream::open() {
  char text[kErrorText] = "";
  const int32_t code = backend_->create_stream(device_index_, &stream_, text);
  opened_ = !code;
  const char* hint = code == kOutOfMemory ? "others use the device's memory: nvidia-smi lists them" : "";
  if (code) fail(static_cast<Code>(code), name_ + ": " + text, hint);
}

void Stream::loop() {
  open();
  std::vector<Work*> batch;
  int64_t taken = 0;
  while (!closing_) {
    const auto idle = Clock::now();
    if (pushed_.load(std::memory_order_acquire) == taken) {
      const auto until = Clock::now() + kSpin;  // a sleep and a wake-up cost more than the usual gap between operators
      while (pushed_.load(std::memory_order_acquire) == taken && Clock::now() < until) pause();
    }
    {
      std::unique_lock lock = lock_soon(mutex_);
      for (Work* work : batch) spend(work);
      batch.clear();
      sleeping_.store(true, std::memory_order_relaxed);
      wake_.wait(lock, [&] { return !queue_.empty(); });
      sleeping_.store(false, std::memory_order_relaxed);
      batch.swap(queue_);
    }
    totals_.waited_seconds += std::chrono::duration<double>(Clock::now() - idle).count();
    taken += static_cast<int64_t>(batch.size());
    for (Work* work : batch) {
      execute(*work);
      work->clear();
    }
  }
  for (Work* work : batch) delete work;
  give_everything_back();
}

void Stream::execute(Work& work) {
  if (has_late_error_.load(std::memory_order_acquire)) adopt_late_error();
  if (work.kind == Work::kTask || work.kind == Work::kBeginStep || work.kind == Work::kEndStep) join_branches();
  switch (work.kind) {
    case Work::kTask:
      if (step_.recording()) run_listed();  // somebody looks before the step is complete
      return work.task();
    case Work::kOp: return execute_op(work);
    case Work::kRelease: return unplace(work.storage);
    case Work::kWrite: break;
    case Work::kBranch:
      branch_ = work.branch;
      if (!branch_) join_branches();
      return;
    case Work::kBeginStep:
      if (!error_.code && !check_guards_ && !check_nonfinite_ && !time_operators_) step_.begin();
      return;
    case Work::kEndStep: {
      if (!step_.recording()) return;
      char text[kErrorText] = "";
      if (const int32_t code = step_.finish(stream_, text)) fail(static_cast<Code>(code), text);
      return;
    }
  }
  if (error_.code) return;
  if (!place(work.storage)) return out_of_memory("write", work.storage->bytes);
  if (!backend_) return;
  Launch launch;
  launch.destination = work.storage->data;
  launch.bytes = std::move(work.bytes);
  if (branching()) {
    assign(launch, {});
    made_here(work.storage);
  }
  if (step_.recording()) return step_.add(std::move(launch));
  char text[kErrorText] = "";
  if (const int32_t code = run_launch(backend_, stream_, launch, text)) fail(static_cast<Code>(code), text);
}

bool Stream::fail_now() { return placements_until_failure_ > 0 && --placements_until_failure_ == 0; }

void* Stream::allocate(int64_t bytes) {
  if (fail_now()) return nullptr;
  const bool spare = !leaving_.empty() || !arriving_.empty();
  while (spare && !arena_.fits(bytes) && (free_first_leaving() || cancel_latest_arrival())) {}
  void* block = take_back(bytes);
  if (!block) block = arena_.allocate(bytes);
  if (block || deferred_.empty()) return block;
  join_branches();
  return arena_.allocate(bytes);
}

void Stream::fail_placement(int64_t n) {
  call([this, n] { placements_until_failure_ = n; });
}

bool Stream::place(Storage* storage) {
  if (storage->bytes == 0 || storage->data) return true;
  storage->data = allocate(storage->bytes);
  if (!storage->data) return false;
  if (check_guards_) write_guards(storage->data, storage->bytes);
  storage->placed_at = placed_.size();
  placed_.push_back(storage);
  return true;
}

void Stream::forget_place(Storage* storage) {
  if (!storage->data) return;
  void* block = storage->block ? storage->block : storage->data;
  if (storage->copying.end) {
    arena_.retire(block);
    leave(block, std::move(storage->copying));
    storage->copying = {};
  } else {
    give_back(block, storage->region == region_ && storage->branch == branch_ && !storage->shared);
  }
  storage->data = storage->block = nullptr;
  placed_.back()->placed_at = storage->placed_at;
  placed_[storage->placed_at] = placed_.back();
  placed_.pop_back();
}

void Stream::unplace(Storage* storage) {
  forget_place(storage);
  if (storage->ahead) {
    arriving_.erase(std::find(arriving_.begin(), arriving_.end(), storage));
    leave(storage->ahead, std::move(storage->copying));
  }
  if (storage->page) storage->pager->drop(storage->page);
  delete storage;
}

void Stream::write_guards(void* block, int64_t bytes) {
  if (!backend_) return;
  std::vector<char> pattern(static_cast<size_t>(bytes + 2 * kGuardBytes), kFreshPattern);
  std::fill_n(pattern.begin(), kGuardBytes, kGuardPattern);
  std::fill_n(pattern.end() - kGuardBytes, kGuardBytes, kGuardPattern);
  char text[kErrorText] = "";
  char* start = static_cast<char*>(block) - kGuardBytes;
  if (backend_->copy_in(stream_, start, pattern.data(), static_cast<int64_t>(pattern.size()), text)) {
    fail(kKernel, std::string("guard bytes: ") + text);
  }
}

std::string Stream::damaged_guard(void* block, int64_t bytes) {
  if (!block || arena_.guard_of(block) == 0) return "";
  char* data = static_cast<char*>(block);
  for (const bool after : {false, true}) {
    char found[kGuardBytes];
    char text[kErrorText] = "";
    if (backend_->copy_out(stream_, found, after ? data + bytes : data - kGuardBytes, kGuardBytes, text)) return text;
    const auto intact = std::count(found, found + kGuardBytes, kGuardPattern);
    if (intact != kGuardBytes) return std::to_string(kGuardBytes - intact) + (after ? " bytes after" : " bytes before");
  }
  return "";
}

void Stream::verify_guards(const Work& work, void* workspace) {
  auto verify = [&](const std::string& what, void* block, int64_t bytes) {
    const std::string damage = damaged_guard(block, bytes);
    if (!damage.empty()) fail(kKernel, std::string(work.op->name) + ": wrote " + damage + " " + what);
  };
  auto verify_all = [&](const char* kind, const std::vector<Operand>& operands) {
    for (size_t i = 0; i < operands.size(); ++i) {
      const Storage* storage = operands[i].storage;
      if (!storage || !storage->data || storage->block) continue;
      verify(kind + std::to_string(i) + ", " + view_text(operands[i].view), storage->data, storage->bytes);
    }
  };
  verify_all("output ", work.outputs);
  verify_all("input ", work.inputs);
  if (workspace) verify("its workspace", workspace, work.workspace_bytes);
}

void Stream::check_guards(bool on) {
  call([this, on] {
    check_guards_ = on;
    arena_.set_guard(on ? kGuardBytes : 0);
  });
}

void Stream::fail(Code code, std::string message, std::string hint) {
  if (!error_.code) error_ = {code, std::move(message), std::move(hint)};
}

void Stream::out_of_memory(const char* what, int64_t bytes) {
  std::string text = std::string(what) + ": out of memory on " + name_ + ": " + bytes_text(bytes) + " asked for, " +
                     bytes_text(arena_.live_bytes()) + " in use";
  if (arena_.limit()) text += ", limit " + bytes_text(arena_.limit());
  auto list = placed_;
  std::sort(list.begin(), list.end(), [](auto* a, auto* b) { return a->bytes > b->bytes; });
  if (list.size() > kTopTensors) list.resize(kTopTensors);
  text += "; largest live tensors:";
  for (Storage* storage : list) {
    text += "\n  " + bytes_text(storage->bytes) + "  " + view_text(storage->view) + " from " + storage->origin;
  }
  fail(kOutOfMemory, std::move(text), "use a smaller batch or context, gradient accumulation or checkpointing");
}

namespace {
bool is_mutated(const OpSchema& op, size_t input) { return op.inputs[std::min(input, op.inputs.size() - 1)].mutated; }
}  // namespace

void Stream::execute_op(Work& work) {
  if (error_.code) return;
  for (const Operand& in : work.inputs) {
    if (in.storage && in.storage->pager && !bring_back(in.storage)) return;
    if (in.storage && in.storage->bytes && !in.storage->data) {
      fail(kStreamFailed, std::string(work.op->name) + ": an input was never computed, because an earlier operator failed");
      return;
    }
  }
  for (size_t i = 0; copies_ && i < work.inputs.size(); ++i) {
    Storage* storage = work.inputs[i].storage;
    if (storage && storage->copying.end && (!storage->copying.reads || is_mutated(*work.op, i))) join(storage->copying);
  }
  // Which branches read it before is not noted.
  for (size_t i = 0; open_branches_ && i < work.inputs.size(); ++i) {
    if (work.inputs[i].storage && is_mutated(*work.op, i)) join_branches();
  }
  for (Operand& out : work.outputs) {
    if (!place(out.storage)) return out_of_memory(work.op->name, out.storage->bytes);
  }
  void* workspace = nullptr;
  if (work.workspace_bytes) {
    workspace = allocate(work.workspace_bytes);
    if (!workspace) return out_of_memory(work.op->name, work.workspace_bytes);
    if (check_guards_) write_guards(workspace, work.workspace_bytes);
  }
  totals_.flops += work.cost.flops;
  totals_.bytes_read += work.cost.bytes_read;
  totals_.bytes_written += work.cost.bytes_written;
  totals_.kernels += 1;
  OpStats& stats = op_stats_[static_cast<size_t>(work.op->id)];
  stats.calls += 1;
  stats.flops += work.cost.flops;
  stats.bytes_read += work.cost.bytes_read;
  stats.bytes_written += work.cost.bytes_written;
  if (backend_) {
    thread_local Launch kept;  // its vectors are used again by the next operator
    Launch& launch = kept;
    launch.op = work.op;
    launch.kernel = work.kernel;
    launch.num_inputs = static_cast<int32_t>(work.inputs.size());
    launch.views.clear();
    for (const auto* operands : {&work.inputs, &work.outputs}) {
      for (const Operand& operand : *operands) {
        launch.views.push_back(operand.view);
        launch.views.back().data = operand.storage ? static_cast<char*>(operand.storage->data) + operand.offset : nullptr;
      }
    }
    launch.branch = 0;
    launch.after = 0;
    if (branching()) {
      assign(launch, work.inputs);
      for (const Operand& out : work.outputs) made_here(out.storage);
      for (size_t i = 0; i < work.inputs.size(); ++i) {
        if (work.inputs[i].storage && is_mutated(*work.op, i)) made_here(work.inputs[i].storage);
      }
    }
    launch.attrs.swap(work.attrs);
    launch.attr_begin.swap(work.attr_begin);
    launch.workspace = workspace;
    launch.workspace_bytes = work.workspace_bytes;
    if (step_.recording()) step_.add(launch);
    else run_kernel(work, launch, stats);
  }
  if (workspace) give_back(workspace, true);
}

void Stream::run_kernel(const Work& work, const Launch& launch, OpStats& stats) {
  char text[kErrorText] = "";
  const bool device_clock = time_operators_ && backend_->note_time;
  const int32_t from = device_clock ? backend_->note_time(stream_) : 0;
  const auto start = Clock::now();
  const int32_t code = run_launch(backend_, stream_, launch, text);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (device_clock) {
    timed_.push_back({work.op->id, from, backend_->note_time(stream_)});
    if (timed_.size() == kMostTimed) add_times();
  } else if (!backend_->note_time) {
    stats.seconds += seconds;
    totals_.busy_seconds += seconds;
  }
  if (code) fail(static_cast<Code>(code), text);
  if (check_guards_) verify_guards(work, launch.workspace);
  if (!check_nonfinite_ || !first_nonfinite_.empty()) return;
  for (size_t i = 0; i < work.outputs.size(); ++i) {
    const TensorView& view = launch.views[work.inputs.size() + i];
    const int64_t count = is_floating(view.dtype) ? backend_->count_nonfinite(stream_, &view) : 0;
    if (!count) continue;
    first_nonfinite_ = std::string(work.op->name);
    first_nonfinite_ += " (output " + std::to_string(i) + ", " + view_text(view) + ", " + std::to_string(count) + " values; inputs";
    for (const Operand& in : work.inputs) first_nonfinite_.append(" ").append(view_text(in.view));
    first_nonfinite_ += ")";
    break;
  }
}

// Device times noted so far become seconds of their operators.
void Stream::add_times() {
  char text[kErrorText] = "";
  if (backend_->synchronize(stream_, text)) fail(kKernel, text);
  for (const Timed& timed : timed_) {
    const double seconds = backend_->seconds(stream_, timed.from, timed.to);
    op_stats_[static_cast<size_t>(timed.op)].seconds += seconds;
    totals_.busy_seconds += seconds;
  }
  timed_.clear();
  backend_->forget_times(stream_);
}

void Stream::time_operators(bool on) {
  call([this, on] { time_operators_ = on; });
}

void Stream::enter_branch(int32_t number) {
  if (!backend_ || !backend_->enter_branch) return;
  Work* work = blank_work();
  work->kind = Work::kBranch;
  work->branch = number ? 1 + (number - 1) % kMostBranches : 0;
  push(work);
}

void Stream::begin_step() {
  if (!backend_ || !backend_->graphs) return;
  Work* work = blank_work();
  work->kind = Work::kBeginStep;
  push(work);
}

void Stream::end_step() {
  if (!backend_ || !backend_->graphs) return;
  Work* work = blank_work();
  work->kind = Work::kEndStep;
  push(work);
}

void Stream::run_listed() {
  char text[kErrorText] = "";
  if (const int32_t code = step_.flush(stream_, text)) fail(static_cast<Code>(code), text);
}

void Stream::run_op(const OpSchema* op, KernelFn kernel, const Cost& cost, int64_t workspace_bytes,
                    std::vector<Operand>& inputs, std::vector<Operand>& outputs, const double* attrs, const int32_t* attr_begin) {
  Work* work = blank_work();
  work->kind = Work::kOp;
  work->op = op;
  work->kernel = kernel;
  work->cost = cost;
  work->workspace_bytes = workspace_bytes;
  work->inputs.swap(inputs);
  work->outputs.swap(outputs);
  const size_t num_attrs = op->attrs.size();
  work->attr_begin.assign(attr_begin, attr_begin + num_attrs + 1);
  work->attrs.assign(attrs, attrs + attr_begin[num_attrs]);
  push(work);
}

void Stream::release(Storage* storage) {
  Work* work = blank_work();
  work->kind = Work::kRelease;
  work->storage = storage;
  push(work);
}

void Stream::write(Storage* storage, std::vector<char> bytes) {
  if (bytes.empty()) return;
  Work* work = blank_work();
  work->kind = Work::kWrite;
  work->storage = storage;
  work->bytes = std::move(bytes);
  push(work);
}

void Stream::call(std::function<void()> task) {
  Work* work = blank_work();
  work->task = std::move(task);
  push(work);
}

void Stream::read(const Operand& source, void* host, Done done) {
  call([this, source, host, done = std::move(done)]() mutable {
    const int64_t bytes = source.view.numel * dtype_size(source.view.dtype);
    StreamError error = error_;
    if (!error.code && bytes && source.storage->page && !source.storage->data) {
      const auto& pager = source.storage->pager;
      if (!pager->load(source.storage->page, host, source.offset, bytes)) fail(kIo, pager->error(), "free some space on that disk");
      return done(error_, stats_here());
    }
    if (!error.code && bytes && !source.storage->data) {
      error = {kStreamFailed, "read: this tensor was never computed, because an earlier operator failed", ""};
    }
    if (error.code || !bytes) return done(error, stats_here());
    if (!source.storage->copying.reads) join(source.storage->copying);
    const char* from = static_cast<const char*>(source.storage->data) + source.offset;
    if (backend_->mark && bytes <= kMarkBytes) return finish_when_reached(from, bytes, host, std::move(done));
    char text[kErrorText] = "";
    if (backend_->copy_out(stream_, host, from, bytes, text)) fail(kKernel, text);
    done(error_, stats_here());
  });
}

void Stream::fence(Done done) {
  call([this, done = std::move(done)]() mutable {
    if (backend_ && backend_->mark && !error_.code) return finish_when_reached(nullptr, 0, nullptr, std::move(done));
    char text[kErrorText] = "";
    if (open_here() && backend_->synchronize(stream_, text)) fail(kKernel, text);
    done(error_, stats_here());
  });
}

void Stream::finish_when_reached(const void* device, int64_t bytes, void* host, Done done) {
  void* mark = backend_->mark(stream_, device, bytes);
  {
    std::lock_guard lock(wait_mutex_);
    waiting_.push_back({mark, host, std::move(done), stats_here()});
  }
  wait_wake_.notify_one();
}

void Stream::wait_loop() {
  for (;;) {
    Waiting next;
    {
      std::unique_lock lock(wait_mutex_);
      wait_wake_.wait(lock, [&] { return !waiting_.empty(); });
      next = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (!next.done) return;
    char text[kErrorText] = "";
    StreamError error;
    if (const int32_t code = backend_->wait(next.mark, next.host, text)) {
      error = {static_cast<Code>(code), text, ""};
      std::lock_guard lock(wait_mutex_);
      if (!late_error_.code) late_error_ = error;
      has_late_error_.store(true, std::memory_order_release);
    }
    next.done(error, next.stats);
  }
}

// What the waiting thread found becomes the stream's error.
void Stream::adopt_late_error() {
  std::lock_guard lock(wait_mutex_);
  if (!error_.code) error_ = late_error_;
  late_error_ = {};
  has_late_error_.store(false, std::memory_order_relaxed);
}

void Stream::wait_idle() {
  std::promise<void> done;
  call([&] {
    char text[kErrorText] = "";
    if (open_here() && backend_->synchronize(stream_, text)) fail(kKernel, text);
    done.set_value();
  });
  done.get_future().wait();
}

void Stream::clear_error() {
  call([this] {
    if (has_late_error_.load(std::memory_order_acquire)) adopt_late_error();
    error_ = {};
    char text[kErrorText] = "";
    if (backend_ && !opened_) return open();
    if (backend_ && backend_->recover(stream_, text)) fail(kStreamFailed, text);
  });
}

DeviceStats Stream::stats_here() {
  DeviceStats out = totals_;
  out.live_bytes = arena_.live_bytes();
  out.peak_bytes = arena_.peak_bytes();
  out.reserved_bytes = arena_.reserved_bytes();
  out.live_blocks = arena_.live_blocks();
  out.limit_bytes = arena_.limit();
  out.graph_replays = step_.replays();
  out.locked_bytes = copies_ ? host_memory_.locked_bytes() : 0;
  return out;
}

DeviceStats Stream::stats() {
  DeviceStats out;
  call([&] { out = stats_here(); });
  wait_idle();
  return out;
}

std::vector<OpStats> Stream::op_stats(bool reset) {
  std::vector<OpStats> out;
  call([&] {
    if (!timed_.empty()) add_times();
    out = op_stats_;
    if (reset) op_stats_.assign(op_stats_.size(), {});
  });
  wait_idle();
  return out;
}

void Stream::set_limit(int64_t bytes) {
  call([this, bytes] { arena_.set_limit(bytes); });
}

void Stream::reset_peak() {
  call([this] { arena_.reset_peak(); });
}

void Stream::check_nonfinite(bool on) {
  call([this, on] {
    check_nonfinite_ = on;
    first_nonfinite_.clear();
  });
}

std::string Stream::first_nonfinite() {
  std::string out;
  call([&] { out = first_nonfinite_; });
  wait_idle();
  return out;
}

}  // namespace lf
