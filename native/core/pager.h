// A place for the contents of tensors that nobody needs for a while: a file of its own, or plain host memory. Contents go
// out through a buffer and are written by a thread of the pager's, so that the device goes on meanwhile; they can be read
// ahead the same way, or be used where they are: map() makes the file's pages in the system's cache memory of the process,
// which takes no copy either way (512 MiB are updated in 0.04 s instead of 0.17 s). The file has no name from the start (it
// is unlinked once it is open), so it cannot be removed under a run and nothing is left of it when the process ends, however
// it ends.
//
// Requests are carried out in the order in which they came. An error of the file sticks and is reported by the next use.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "core/host_memory.h"

namespace lf {

constexpr Code kIo = static_cast<Code>(kBackendLoad + 1);  // ERR_IO; no backend answers with it

struct PagerStats {
  int64_t bytes_written = 0, bytes_read = 0;  // to and from the file
  int64_t file_bytes = 0;                     // its size
  double wait_seconds = 0;                    // how long users waited for it
};

class Pager {
 public:
  class Page;

  // `folder` empty: host memory. Throws OpError kIo.
  explicit Pager(std::string folder);
  ~Pager();  // waits for its thread
  Pager(const Pager&) = delete;

  // Space for `bytes` bytes, with a block of `memory` to fill; nullptr when it has none. Waits while too much is still to be
  // written. Then store() it; the block may still be filled by its copy.
  Page* reserve(int64_t bytes, HostMemory& memory);
  void store(Page* page);
  // Writes to the file at once, with no block in between; nullptr: error().
  Page* write(const void* from, int64_t bytes, HostMemory& memory);
  // The contents again, once they are in memory, perhaps with a copy that still brings them there; nullptr: error(). The
  // page stays.
  std::shared_ptr<HostMemory::Block> contents(Page* page);
  // The same, into `to`.
  bool load(Page* page, void* to, int64_t offset, int64_t bytes);
  // The page's contents as memory of the process, which the file gets when it is changed; nullptr where the system has no such
  // thing, where there is no file, or after an error: load() does it then.
  void* map(Page* page);
  void unmap(Page* page);
  // Begins to read the page, so that load() finds it in memory, or to map it.
  void prefetch(Page* page, bool to_map);
  void drop(Page* page);
  // The system may have this memory, whose contents nobody needs. Less than 8 MiB is kept: to get it again takes longer than
  // it is worth.
  static void give_up(void* memory, int64_t bytes);

  // What went wrong, or ''.
  std::string error();
  PagerStats stats();
  bool to_file() const { return file_ >= 0; }

 private:
  void loop();
  Page* new_page(int64_t bytes, HostMemory& memory);
  bool move(std::unique_lock<std::mutex>& lock, Page* page, char* memory, bool write);
  void transfer(std::unique_lock<std::mutex>& lock, Page* page, bool write, const Ticket& after);
  void map_here(std::unique_lock<std::mutex>& lock, Page* page);
  void fail(const char* what, int64_t bytes, int problem);
  void release_space(Page* page);

  const std::string folder_;
  int file_ = -1;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  enum class Task { kWrite, kRead, kMap };
  struct Request {
    Page* page;
    Task task;
    Ticket after;
  };
  std::deque<Request> queue_;
  std::multimap<int64_t, int64_t> free_;  // size -> offset
  int64_t end_ = 0;                       // of the file
  int64_t pending_ = 0;                   // bytes in buffers that wait to be written
  bool closing_ = false;
  bool maps_ = true;      // as far as is known
  std::string error_;
  PagerStats stats_;
  std::thread thread_;
};

}  // namespace lf
