#include "core/pager.h"

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/op.h"

namespace lf {
namespace {
using Clock = std::chrono::steady_clock;
constexpr int64_t kMostPending = int64_t{64} << 20;
constexpr int64_t kAlignment = 4096;  // of pages in the file
constexpr int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

#if defined(_WIN32)
int64_t move_bytes(int, char*, int64_t, int64_t, bool) { return -1; }
int open_nameless(const std::string&) {
  errno = ENOSYS;
  return -1;
}
void close_file(int) {}
#else
int64_t move_bytes(int file, char* memory, int64_t bytes, int64_t offset, bool write) {
  const auto count = static_cast<size_t>(bytes);
  return write ? pwrite(file, memory, count, offset) : pread(file, memory, count, offset);
}
int open_nameless(const std::string& folder) {
  std::string name = folder + "/leanformer-pages-XXXXXX";
  const int file = mkstemp(name.data());
  if (file >= 0) unlink(name.c_str());
  return file;
}
void close_file(int file) { close(file); }
#endif
}  // namespace

class Pager::Page {
 public:
  int64_t bytes = 0, offset = 0;
  HostMemory* home = nullptr;
  std::shared_ptr<HostMemory::Block> memory;  // the contents, while they are to be written or were read ahead
  bool stored = false;                 // the file has them
  bool queued = false;                 // a request for it waits or runs
  bool dropped = false;
};

Pager::Pager(std::string folder) : folder_(std::move(folder)) {
  if (folder_.empty()) return;
  file_ = open_nameless(folder_);
  if (file_ < 0) {
    throw OpError(kIo, "offload: no file can be made in the folder " + folder_ + ": " + std::strerror(errno),
                  "give a folder that exists and in which you may write");
  }
  thread_ = std::thread([this] { loop(); });
}

Pager::~Pager() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
  close_file(file_);
}

Pager::Page* Pager::reserve(int64_t bytes, HostMemory& memory) {
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  if (to_file()) done_.wait(lock, [&] { return pending_ == 0 || pending_ + bytes <= kMostPending; });
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  auto block = memory.allocate(bytes);
  if (!block) return nullptr;
  auto* page = new Page;
  page->bytes = bytes;
  page->home = &memory;
  page->memory = std::move(block);
  if (!to_file()) return page;
  pending_ += bytes;
  const auto fit = free_.find(bytes);
  if (fit != free_.end()) {
    page->offset = fit->second;
    free_.erase(fit);
  } else {
    page->offset = end_;
    end_ += aligned(bytes);
    stats_.file_bytes = end_;
  }
  return page;
}

void Pager::store(Page* page) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    page->queued = true;
    queue_.push_back({page, true, page->memory->copy});
  }
  wake_.notify_one();
}

void Pager::prefetch(Page* page) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    if (page->queued || page->memory || !error_.empty()) return;
    page->queued = true;
    queue_.push_back({page, false, nullptr});
  }
  wake_.notify_one();
}

std::shared_ptr<HostMemory::Block> Pager::contents(Page* page) {
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  // A page that waits to be written still has its contents; one that is being read ahead will have them soonest that way.
  done_.wait(lock, [&] { return page->memory || !page->queued || !error_.empty(); });
  if (!page->memory && error_.empty()) transfer(lock, page, false, nullptr);
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  auto block = page->memory;
  if (to_file() && page->stored && !page->queued) page->memory.reset();
  return block;
}

bool Pager::load(Page* page, void* to, int64_t offset, int64_t bytes) {
  const auto block = contents(page);
  if (!block || !page->home->wait(block->copy)) return false;
  std::memcpy(to, block->data + offset, static_cast<size_t>(bytes));
  return true;
}

void Pager::drop(Page* page) {
  std::lock_guard lock(mutex_);
  if (to_file() && !page->stored && !page->queued) pending_ -= page->bytes;  // it could not be filled
  page->dropped = true;
  if (!page->queued) release_space(page);
}

void Pager::release_space(Page* page) {
  if (to_file()) free_.emplace(page->bytes, page->offset);
  delete page;
}

// Called and returns with the lock held, which is open meanwhile.
void Pager::transfer(std::unique_lock<std::mutex>& lock, Page* page, bool write, const Ticket& after) {
  auto block = page->memory;
  lock.unlock();
  errno = ENOMEM;
  if (!write) block = page->home->allocate(page->bytes);
  char* memory = block ? block->data : nullptr;
  int64_t done = 0;
  bool failed = memory == nullptr;
  if (!failed && !page->home->wait(after)) {
    errno = EIO;  // the device did not fill it
    failed = true;
  }
  while (!failed && done < page->bytes) {
    const int64_t moved = move_bytes(file_, memory + done, page->bytes - done, page->offset + done, write);
    if (moved < 0 && errno == EINTR) continue;
    if (moved == 0) errno = EIO;  // the file is shorter than what was written to it
    failed = moved <= 0;
    if (!failed) done += moved;
  }
  const int problem = errno;
  lock.lock();
  (write ? stats_.bytes_written : stats_.bytes_read) += done;
  if (failed) {
    errno = problem;
    fail(write ? "written" : "read", page->bytes);
  } else if (!write) {
    page->memory = std::move(block);
  }
}

void Pager::fail(const char* what, int64_t bytes) {
  if (!error_.empty()) return;
  error_ = "offload: " + std::to_string(bytes) + " bytes could not be " + what + " in the folder " + folder_ + ": " + std::strerror(errno);
}

void Pager::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Request request = queue_.front();
    queue_.pop_front();
    Page* page = request.page;
    if (!page->dropped && error_.empty()) transfer(lock, page, request.write, request.after);
    if (request.write) {
      pending_ -= page->bytes;
      page->stored = true;
      page->memory.reset();
    }
    page->queued = false;
    if (page->dropped) release_space(page);
    done_.notify_all();
  }
}

std::string Pager::error() {
  std::lock_guard lock(mutex_);
  return error_;
}

PagerStats Pager::stats() {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace lf
