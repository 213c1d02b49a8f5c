#include "core/arena.h"

#include <algorithm>

namespace lf {
namespace {
constexpr int64_t kAlignment = 64;
constexpr int64_t kSlabBytes = int64_t{64} << 20;
constexpr int64_t kSlabRounding = int64_t{2} << 20;
constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
}  // namespace

void Arena::insert_free(char* at, Block block) {
  free_by_address_.emplace(at, block);
  free_by_size_.emplace(block.size, at);
}

void Arena::erase_free(std::map<char*, Block>::iterator it) {
  free_by_size_.erase({it->second.size, it->first});
  free_by_address_.erase(it);
}

int64_t Arena::size_of(int64_t bytes) const { return round_up(bytes, kAlignment) + 2 * guard_; }

bool Arena::fits(int64_t bytes) const { return free_by_size_.lower_bound({size_of(bytes), nullptr}) != free_by_size_.end(); }

void* Arena::allocate(int64_t bytes) {
  if (limit_ && live_bytes_ + bytes > limit_) return nullptr;
  const int64_t size = size_of(bytes);
  if (!fits(bytes)) {
    const int64_t slab_bytes = std::max(kSlabBytes, round_up(size, kSlabRounding));
    char* slab = static_cast<char*>(source_(slab_bytes));
    if (!slab) return nullptr;
    reserved_bytes_ += slab_bytes;
    insert_free(slab, {slab_bytes, static_cast<int>(slabs_.size())});
    slabs_.push_back({slab, slab_bytes});
  }
  live_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return take(size, bytes, false);
}

char* Arena::take(int64_t size, int64_t asked, bool held) {
  auto it = free_by_address_.find(free_by_size_.lower_bound({size, nullptr})->second);
  char* at = it->first;
  Block block = it->second;
  erase_free(it);
  if (block.size > size) insert_free(at + size, {block.size - size, block.slab});
  live_.emplace(at + guard_, Live{asked, guard_, {size, block.slab}, held});
  return at + guard_;
}

void* Arena::hold(int64_t bytes) {
  if (!fits(bytes) || (limit_ && live_bytes_ + bytes > limit_)) return nullptr;
  ++held_blocks_;
  return take(size_of(bytes), bytes, true);
}

bool Arena::adopt(void* pointer) {
  Live& block = live_.at(static_cast<char*>(pointer));
  if (limit_ && live_bytes_ + block.asked > limit_) return false;
  block.held = false;
  --held_blocks_;
  live_bytes_ += block.asked;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return true;
}

void Arena::retire(void* pointer) {
  Live& block = live_.at(static_cast<char*>(pointer));
  block.held = true;
  ++held_blocks_;
  live_bytes_ -= block.asked;
}

void Arena::free_held(void* pointer) {
  --held_blocks_;
  put_back(live_.find(static_cast<char*>(pointer)));
}

int64_t Arena::guard_of(void* pointer) const {
  const auto it = live_.find(static_cast<char*>(pointer));
  return it == live_.end() ? 0 : it->second.guard;
}

void Arena::release(void* pointer) {
  auto it = live_.find(static_cast<char*>(pointer));
  if (it == live_.end()) return;
  live_bytes_ -= it->second.asked;
  put_back(it);
}

std::vector<Arena::Slab> Arena::take_slabs() {
  std::vector<Slab> out;
  out.swap(slabs_);
  free_by_address_.clear();
  free_by_size_.clear();
  live_.clear();
  held_blocks_ = live_bytes_ = reserved_bytes_ = 0;
  return out;
}

void Arena::put_back(const std::unordered_map<char*, Live>::iterator& it) {
  char* at = it->first - it->second.guard;
  Block block = it->second.block;
  live_.erase(it);
  auto next = free_by_address_.lower_bound(at);
  if (next != free_by_address_.end() && next->first == at + block.size && next->second.slab == block.slab) {
    block.size += next->second.size;
    auto gone = next++;
    erase_free(gone);
  }
  if (next != free_by_address_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second.size == at && before->second.slab == block.slab) {
      at = before->first;
      block.size += before->second.size;
      erase_free(before);
    }
  }
  insert_free(at, block);
}

}  // namespace lf
