#include "core/pager.h"

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <cerrno>
#include <chrono>
#include <cstdlib>
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

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};
}  // namespace

class Pager::Page {
 public:
  int64_t bytes = 0, offset = 0;
  std::unique_ptr<char, Free> memory;  // the contents, while they are to be written or were read ahead
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

Pager::Page* Pager::reserve(int64_t bytes) {
  auto* page = new Page;
  page->bytes = bytes;
  page->memory.reset(static_cast<char*>(std::malloc(static_cast<size_t>(bytes))));
  if (!to_file()) return page;
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  done_.wait(lock, [&] { return pending_ == 0 || pending_ + bytes <= kMostPending; });
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
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

char* Pager::buffer(Page* page) { return page->memory.get(); }

void Pager::store(Page* page) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    page->queued = true;
    queue_.push_back({page, true});
  }
  wake_.notify_one();
}

void Pager::prefetch(Page* page) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    if (page->queued || page->memory || !error_.empty()) return;
    page->queued = true;
    queue_.push_back({page, false});
  }
  wake_.notify_one();
}

bool Pager::load(Page* page, void* to, int64_t offset, int64_t bytes) {
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  // A page that waits to be written still has its contents; one that is being read ahead will have them soonest that way.
  done_.wait(lock, [&] { return page->memory || !page->queued || !error_.empty(); });
  if (!page->memory && error_.empty()) transfer(lock, page, false);
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  if (!page->memory) return false;
  std::memcpy(to, page->memory.get() + offset, static_cast<size_t>(bytes));
  if (to_file() && page->stored && !page->queued) page->memory.reset();
  return true;
}

void Pager::drop(Page* page) {
  std::lock_guard lock(mutex_);
  page->dropped = true;
  if (!page->queued) release_space(page);
}

void Pager::release_space(Page* page) {
  if (to_file()) free_.emplace(page->bytes, page->offset);
  delete page;
}

// Called and returns with the lock held, which is open meanwhile.
void Pager::transfer(std::unique_lock<std::mutex>& lock, Page* page, bool write) {
  std::unique_ptr<char, Free> fresh;
  if (!write) fresh.reset(static_cast<char*>(std::malloc(static_cast<size_t>(page->bytes))));
  char* memory = write ? page->memory.get() : fresh.get();
  lock.unlock();
  int64_t done = 0;
  bool failed = memory == nullptr;
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
    page->memory = std::move(fresh);
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
    const Request request = queue_.front();
    queue_.pop_front();
    Page* page = request.page;
    if (!page->dropped && error_.empty()) transfer(lock, page, request.write);
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
