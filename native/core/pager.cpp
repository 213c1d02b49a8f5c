#include "core/pager.h"

#if !defined(_WIN32)
#include <sys/mman.h>
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
constexpr int64_t kLeastGivenUp = int64_t{8} << 20;
constexpr int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

#if defined(_WIN32)
int64_t move_bytes(int, char*, int64_t, int64_t, bool) { return -1; }
int open_nameless(const std::string&) {
  errno = ENOSYS;
  return -1;
}
void close_file(int) {}
void* map_file(int, int64_t, int64_t) {
  errno = ENOSYS;
  return nullptr;
}
void unmap_file(void*, int64_t) {}
void give_up_pages(void*, size_t) {}
#else
void give_up_pages(void* memory, size_t bytes) { madvise(memory, bytes, MADV_DONTNEED); }
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
void unmap_file(void* memory, int64_t bytes) { munmap(memory, static_cast<size_t>(bytes)); }

// Every page is made present and writable, because a page that cannot be read later, or a disk that is full, would end the
// process. Where the system cannot do that (Linux can since 5.14) nothing is mapped.
void* map_file(int file, int64_t bytes, int64_t offset) {
#if defined(MADV_POPULATE_WRITE)
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
  if (memory == MAP_FAILED) return nullptr;
  if (madvise(memory, static_cast<size_t>(bytes), MADV_POPULATE_WRITE) == 0) return memory;
  const int problem = errno;
  unmap_file(memory, bytes);
  errno = problem;
#else
  (void)file, (void)bytes, (void)offset;
  errno = ENOSYS;
#endif
  return nullptr;
}
#endif
}  // namespace

class Pager::Page {
 public:
  int64_t bytes = 0, offset = 0;
  HostMemory* home = nullptr;
  std::shared_ptr<HostMemory::Block> memory;  // the contents, while they are to be written or were read ahead
  void* mapped = nullptr;              // the file's part that has them
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
  Page* page = new_page(bytes, memory);
  page->memory = std::move(block);
  if (to_file()) pending_ += bytes;
  return page;
}

Pager::Page* Pager::new_page(int64_t bytes, HostMemory& memory) {
  auto* page = new Page;
  page->bytes = bytes;
  page->home = &memory;
  if (!to_file()) return page;
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

Pager::Page* Pager::write(const void* from, int64_t bytes, HostMemory& memory) {
  std::unique_lock lock(mutex_);
  if (!error_.empty()) return nullptr;
  const auto start = Clock::now();
  Page* page = new_page(bytes, memory);
  page->stored = move(lock, page, static_cast<char*>(const_cast<void*>(from)), true);
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  if (page->stored) return page;
  release_space(page);
  return nullptr;
}

void Pager::store(Page* page) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    page->queued = true;
    queue_.push_back({page, Task::kWrite, page->memory->copy});
  }
  wake_.notify_one();
}

void Pager::prefetch(Page* page, bool to_map) {
  if (!to_file()) return;
  {
    std::lock_guard lock(mutex_);
    if (page->queued || page->memory || page->mapped || !error_.empty()) return;
    page->queued = true;
    queue_.push_back({page, to_map && maps_ ? Task::kMap : Task::kRead, nullptr});
  }
  wake_.notify_one();
}

void* Pager::map(Page* page) {
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  done_.wait(lock, [&] { return !page->queued || !error_.empty(); });
  if (to_file() && error_.empty() && !page->mapped && maps_) map_here(lock, page);
  stats_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  return page->mapped;
}

void Pager::unmap(Page* page) {
  std::lock_guard lock(mutex_);
  if (!page->mapped) return;
  unmap_file(page->mapped, page->bytes);
  page->mapped = nullptr;
  stats_.bytes_written += page->bytes;
}

// As transfer().
void Pager::map_here(std::unique_lock<std::mutex>& lock, Page* page) {
  lock.unlock();
  void* mapped = map_file(file_, page->bytes, page->offset);
  lock.lock();
  page->mapped = mapped;
  if (mapped) stats_.bytes_read += page->bytes;
  else maps_ = false;
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

void Pager::give_up(void* memory, int64_t bytes) {
  if (bytes < kLeastGivenUp) return;
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const auto first = static_cast<uintptr_t>(aligned(static_cast<int64_t>(begin)));
  const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / kAlignment * kAlignment;
  give_up_pages(reinterpret_cast<void*>(first), last - first);
}

void Pager::drop(Page* page) {
  std::lock_guard lock(mutex_);
  if (to_file() && !page->stored && !page->queued) pending_ -= page->bytes;  // it could not be filled
  page->dropped = true;
  if (!page->queued) release_space(page);
}

void Pager::release_space(Page* page) {
  if (page->mapped) unmap_file(page->mapped, page->bytes);
  if (to_file()) free_.emplace(page->bytes, page->offset);
  delete page;
}

// Between memory and the file. Called and returns with the lock held, which is open meanwhile; false: error().
bool Pager::move(std::unique_lock<std::mutex>& lock, Page* page, char* memory, bool write) {
  lock.unlock();
  int64_t done = 0;
  while (done < page->bytes) {
    const int64_t moved = move_bytes(file_, memory + done, page->bytes - done, page->offset + done, write);
    if (moved < 0 && errno == EINTR) continue;
    if (moved == 0) errno = EIO;  // the file is shorter than what was written to it
    if (moved <= 0) break;
    done += moved;
  }
  const int problem = errno;
  lock.lock();
  (write ? stats_.bytes_written : stats_.bytes_read) += done;
  if (done == page->bytes) return true;
  fail(write ? "written" : "read", page->bytes, problem);
  return false;
}

// As move(), with the page's block.
void Pager::transfer(std::unique_lock<std::mutex>& lock, Page* page, bool write, const Ticket& after) {
  auto block = page->memory;
  lock.unlock();
  if (!write) block = page->home->allocate(page->bytes);
  const bool filled = page->home->wait(after);
  lock.lock();
  if (!block || !filled) return fail(write ? "written" : "read", page->bytes, block ? EIO : ENOMEM);
  if (move(lock, page, block->data, write) && !write) page->memory = std::move(block);
}

void Pager::fail(const char* what, int64_t bytes, int problem) {
  if (!error_.empty()) return;
  error_ = "offload: " + std::to_string(bytes) + " bytes could not be " + what + " in the folder " + folder_ + ": " + std::strerror(problem);
}

void Pager::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Request request = queue_.front();
    queue_.pop_front();
    Page* page = request.page;
    const bool write = request.task == Task::kWrite;
    if (!page->dropped && error_.empty()) {
      if (request.task == Task::kMap) map_here(lock, page);
      else transfer(lock, page, write, request.after);
    }
    if (write) {
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
