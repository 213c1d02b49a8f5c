// Memory of the host for the pages of one device: slabs that are allocated once and used again (fresh memory costs more
// than the copy into it), page-locked where the device copies beside the host. There a block is given out anew when the last
// copy that reads or writes it is over. Used by the stream's thread and by those of pagers.
#pragma once
#include <deque>
#include <memory>
#include <mutex>

#include "api/backend.h"
#include "core/arena.h"

namespace lf {

// The end of something on a device, held by everybody who must come after it.
using Ticket = std::shared_ptr<void>;
inline Ticket hold_ticket(const CopyServices& copies, void* ticket) {
  return ticket ? Ticket(ticket, copies.drop) : nullptr;
}

class HostMemory {
 public:
  struct Block {
    HostMemory* home;
    char* data;
    Ticket copy;  // the last one that reads or writes it; the stream's thread sets it
    ~Block() { home->release(*this); }
  };

  HostMemory(const Backend* backend, int device_index);
  // nullptr: there is none left. Waits for copies that are over soon rather than taking another slab, once those that are not
  // over have many bytes: a stream whose thread waits for its device cannot be ahead of it.
  std::shared_ptr<Block> allocate(int64_t bytes);
  // Until the copy is over. false: the device is in trouble.
  bool wait(const Ticket& copy);
  // Waits for all copies that use it.
  void settle();
  // To the system again, once nobody has a block of it.
  void free_all();
  int64_t locked_bytes();  // taken from the system so far; page-locked where the device has copies of its own

 private:
  void release(Block& block);
  void free_first();  // of leaving_

  const Backend* backend_;
  const int device_index_;
  const CopyServices* copies_;
  std::mutex mutex_;
  Arena arena_;
  struct Leaving {
    char* data;
    Ticket copy;
  };
  std::deque<Leaving> leaving_;  // nobody's, but a copy may still use them
  int64_t leaving_bytes_ = 0;
};

}  // namespace lf
