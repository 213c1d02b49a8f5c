#include "core/host_memory.h"

namespace lf {
namespace {
constexpr int64_t kMostLeaving = int64_t{256} << 20;
}

HostMemory::HostMemory(const Backend* backend, int device_index)
    : backend_(backend),
      device_index_(device_index),
      copies_(backend ? backend->copies : nullptr),
      arena_([=](int64_t bytes) {
        return backend->copies ? backend->copies->allocate_host(device_index, bytes) : backend->allocate_slab(nullptr, bytes);
      }) {}

std::shared_ptr<HostMemory::Block> HostMemory::allocate(int64_t bytes) {
  std::lock_guard lock(mutex_);
  while (!leaving_.empty() && copies_->reached(leaving_.front().copy.get())) free_first();
  while (leaving_bytes_ > kMostLeaving && !arena_.fits(bytes) && wait(leaving_.front().copy)) free_first();
  char* data = static_cast<char*>(arena_.allocate(bytes));
  while (!data && !leaving_.empty() && wait(leaving_.front().copy)) {
    free_first();
    data = static_cast<char*>(arena_.allocate(bytes));
  }
  return data ? std::shared_ptr<Block>(new Block{this, data, nullptr}) : nullptr;
}

bool HostMemory::wait(const Ticket& copy) {
  char text[kErrorText] = "";
  return !copy || !copies_->wait(copy.get(), text);
}

void HostMemory::release(Block& block) {
  std::lock_guard lock(mutex_);
  if (!block.copy) return arena_.release(block.data);
  leaving_.push_back({block.data, std::move(block.copy)});
  leaving_bytes_ += arena_.asked(block.data);
}

void HostMemory::free_first() {
  leaving_bytes_ -= arena_.asked(leaving_.front().data);
  arena_.release(leaving_.front().data);
  leaving_.pop_front();
}

void HostMemory::settle() {
  std::lock_guard lock(mutex_);
  while (!leaving_.empty()) {
    wait(leaving_.front().copy);
    free_first();
  }
}

void HostMemory::free_all() {
  std::lock_guard lock(mutex_);
  for (const Arena::Slab& slab : arena_.take_slabs()) {
    if (copies_) copies_->free_host(device_index_, slab.memory);
    else backend_->free_slab(nullptr, slab.memory, slab.bytes);
  }
}

int64_t HostMemory::locked_bytes() {
  std::lock_guard lock(mutex_);
  return arena_.reserved_bytes();
}

}  // namespace lf
