// The stream's tensors that are away: out to a pager and back, beside the kernels where the device has copies of its own.
#include <algorithm>

#include "core/stream.h"

namespace lf {
namespace {
constexpr int64_t kLeavingShare = 4;  // at most a quarter of the slabs waits for copies
constexpr char kDiskHint[] = "free some space on that disk, then go on with --resume";
}

void Stream::page_out(Storage* storage, std::shared_ptr<Pager> pager) {
  call([this, storage, pager = std::move(pager)] {
    if (error_.code || !storage->data) return;
    if (!backend_) {
      storage->pager = pager;
      return forget_place(storage);
    }
    if (storage->block) {  // the file has it already
      storage->pager->unmap(storage->page);
      return forget_place(storage);
    }
    if (!copies_ && pager->to_file()) {
      storage->page = pager->write(storage->data, storage->bytes, host_memory_);
      if (!storage->page) return fail(kIo, pager->error(), kDiskHint);
      Pager::give_up(storage->data, storage->bytes);
      storage->pager = pager;
      return forget_place(storage);
    }
    Pager::Page* page = fail_now() ? nullptr : pager->reserve(storage->bytes, host_memory_);
    if (!page) {
      return fail(kOutOfMemory,
                  std::string("offload: the host has no ") + (copies_ ? "page-locked " : "") + "memory left for " + bytes_text(storage->bytes) +
                      " of " + name_ + ", beside " + bytes_text(host_memory_.locked_bytes()) + " that are in use",
                  "offload to disk, offload less, or let the process have more memory (locked memory: ulimit -l)");
    }
    const auto block = pager->contents(page);
    char text[kErrorText] = "";
    if (copies_) {
      join(storage->copying);  // may be that of another device
      storage->copying = begin(copies_->to_host(stream_, block->data, storage->data, storage->bytes, text), storage->bytes, true);
      block->copy = storage->copying.end;
    }
    if (copies_ ? !block->copy : backend_->copy_out(stream_, block->data, storage->data, storage->bytes, text) != kOk) {
      pager->drop(page);
      return fail(kKernel, std::string("offload: ") + text);
    }
    pager->store(page);
    storage->page = page;
    storage->pager = pager;
    forget_place(storage);
  });
}

void Stream::page_in(Storage* storage) {
  call([this, storage] {
    if (!error_.code && storage->pager) bring_back(storage);
  });
}

void Stream::prefetch(Storage* storage) {
  call([this, storage] {
    if (error_.code || !storage->page || storage->data) return;
    storage->pager->prefetch(storage->page, maps());
    if (copies_ && !storage->pager->to_file()) arrive_ahead(storage);
  });
}

// Whether a file's pages can be used in their place.
bool Stream::maps() const { return !copies_ && !check_guards_; }

// From the host's memory to memory that nothing else needs now.
void Stream::arrive_ahead(Storage* storage) {
  if (storage->ahead || check_guards_) return;
  while (!arena_.fits(storage->bytes) && free_first_leaving()) {}
  void* held = arena_.hold(storage->bytes);
  if (!held) return;
  const auto block = storage->pager->contents(storage->page);
  char text[kErrorText] = "";
  storage->copying = begin(copies_->to_device(stream_, held, block->data, storage->bytes, block->copy.get(), text), storage->bytes);
  if (!storage->copying.end) {
    arena_.free_held(held);
    return fail(kKernel, text);
  }
  block->copy = storage->copying.end;
  storage->ahead = held;
  arriving_.push_back(storage);
}

// false: the stream has failed.
bool Stream::bring_back(Storage* storage) {
  if (storage->data) return true;
  if (step_.recording()) run_listed();  // what is listed may still use the memory that it gets
  if (storage->ahead) {
    if (fail_now() || !arena_.adopt(storage->ahead)) {
      out_of_memory("offload", storage->bytes);
      return false;
    }
    arriving_.erase(std::find(arriving_.begin(), arriving_.end(), storage));
    storage->data = storage->ahead;
    storage->ahead = nullptr;
    storage->placed_at = placed_.size();
    placed_.push_back(storage);
    storage->pager->drop(storage->page);
    storage->page = nullptr;
    storage->pager.reset();
    return true;
  }
  if (!place(storage)) {
    out_of_memory("offload", storage->bytes);
    return false;
  }
  if (backend_ && maps() && storage->pager->to_file()) {
    // Its place is kept, so that the bytes in use are those of a device that reads the file, but nothing is in it.
    Pager::give_up(storage->data, storage->bytes);
    if (void* mapped = storage->pager->map(storage->page)) {
      storage->block = storage->data;
      storage->data = mapped;
      return true;
    }
  }
  const std::shared_ptr<Pager> pager = std::move(storage->pager);
  storage->pager.reset();
  if (!backend_) return true;
  Pager::Page* page = storage->page;
  storage->page = nullptr;
  char text[kErrorText] = "";
  int32_t code = kOk;
  if (!copies_) {  // in step with the host, whose memory it uses
    if (!pager->load(page, storage->data, 0, storage->bytes)) code = kIo;
  } else if (const auto block = pager->contents(page)) {
    storage->copying = begin(copies_->to_device(stream_, storage->data, block->data, storage->bytes, block->copy.get(), text), storage->bytes);
    if (storage->copying.end) block->copy = storage->copying.end;
    else code = kKernel;
  } else {
    code = kIo;
  }
  pager->drop(page);
  if (code == kIo) fail(kIo, pager->error(), kDiskHint);
  else if (code) fail(kKernel, text);
  return !code;
}

Copying Stream::begin(void* ticket, int64_t bytes, bool reads) {
  if (!ticket) return {};
  totals_.copies += 1;
  totals_.copied_bytes += bytes;
  return {hold_ticket(*copies_, ticket), reads, totals_.kernels};
}

void Stream::join(Copying& copying) {
  if (!copying.end) return;
  join_branches();  // whichever uses it next comes after the copy
  char text[kErrorText] = "";
  if (const int32_t code = copies_->join(stream_, copying.end.get(), text)) fail(static_cast<Code>(code), text);
  totals_.kernels_beside_copies += totals_.kernels - copying.kernels;
  copying = {};
}

void Stream::leave(void* held, Copying copying) {
  const int64_t bytes = arena_.asked(held);
  leaving_bytes_ += bytes;
  leaving_.push_back({held, bytes, std::move(copying)});
  while (leaving_.size() > 1 && leaving_bytes_ > arena_.reserved_bytes() / kLeavingShare) free_first_leaving();
}

bool Stream::free_first_leaving() {
  if (leaving_.empty()) return false;
  Leaving& first = leaving_.front();
  join(first.copying);
  arena_.free_held(first.held);
  leaving_bytes_ -= first.bytes;
  leaving_.pop_front();
  return true;
}

// The page still has the contents, which come again when they are used.
bool Stream::cancel_latest_arrival() {
  if (arriving_.empty()) return false;
  Storage* storage = arriving_.back();
  arriving_.pop_back();
  join(storage->copying);
  arena_.free_held(storage->ahead);
  storage->ahead = nullptr;
  return true;
}

}  // namespace lf
