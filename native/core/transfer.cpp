// Tensors from device to device. The two streams' threads meet: each step waits only for work that was asked for before it, so
// they cannot wait for each other.
#include <future>

#include "core/stream.h"

namespace lf {
namespace {
const char* start_of(const Operand& source) { return static_cast<const char*>(source.storage->data) + source.offset; }
int64_t bytes_of(const Operand& source) { return source.view.numel * dtype_size(source.view.dtype); }
}  // namespace

bool Stream::prepare_read(const Operand& source) {
  Storage* storage = source.storage;
  if (error_.code || (storage->pager && !bring_back(storage)) || !storage->data) return false;
  if (!storage->copying.reads) join(storage->copying);
  return true;
}

void Stream::transfer(Stream& from, const Operand& source, Stream& to, Storage* target) {
  if (!target->bytes) return;
  if (!to.backend_) return to.call([&to, target] { if (!to.place(target)) to.out_of_memory("to", target->bytes); });
  if (from.backend_ == to.backend_ && from.copies_) return transfer_to_peer(from, source, to, target);
  // Empty: there is nothing to be had.
  auto contents = std::make_shared<std::promise<std::vector<char>>>();
  from.call([&from, source, contents] {
    std::vector<char> bytes;
    if (from.prepare_read(source)) {
      bytes.resize(static_cast<size_t>(bytes_of(source)));
      char text[kErrorText] = "";
      if (from.backend_->copy_out(from.stream_, bytes.data(), start_of(source), bytes_of(source), text)) {
        from.fail(kKernel, text);
        bytes.clear();
      }
    }
    contents->set_value(std::move(bytes));
  });
  to.call([&to, target, contents] {
    const std::vector<char> bytes = contents->get_future().get();
    if (bytes.empty() || to.error_.code) return;
    if (!to.place(target)) return to.out_of_memory("to", target->bytes);
    char text[kErrorText] = "";
    if (to.backend_->copy_in(to.stream_, target->data, bytes.data(), target->bytes, text)) to.fail(kKernel, text);
  });
}

// The target's device makes room and says from when on; the source's device copies on its copy stream; then each goes on, and
// comes after the copy only where it touches what that reads or writes.
void Stream::transfer_to_peer(Stream& from, const Operand& source, Stream& to, Storage* target) {
  struct Meeting {
    std::promise<Ticket> ready;
    std::promise<Copying> copied;
  };
  auto meeting = std::make_shared<Meeting>();
  to.call([&to, target, meeting] {
    Ticket ready;
    char text[kErrorText] = "";
    if (!to.error_.code && !to.place(target)) to.out_of_memory("to", target->bytes);
    if (!to.error_.code) {
      ready = hold_ticket(*to.copies_, to.copies_->point(to.stream_, text));
      if (!ready) to.fail(kKernel, text);
    }
    meeting->ready.set_value(std::move(ready));
  });
  from.call([&from, &to, source, target, meeting] {
    const Ticket ready = meeting->ready.get_future().get();
    if (ready && from.prepare_read(source)) {
      char text[kErrorText] = "";
      source.storage->copying = from.begin(from.copies_->to_peer(from.stream_, start_of(source), to.stream_, target->data, target->bytes, ready.get(), text),
                                           target->bytes, true);
      if (!source.storage->copying.end) from.fail(kKernel, text);
      meeting->copied.set_value(source.storage->copying);
    } else {
      meeting->copied.set_value({});
    }
  });
  to.call([&to, target, meeting] {
    Copying copied = meeting->copied.get_future().get();
    if (!copied.end) return to.forget_place(target);
    target->copying = {std::move(copied.end), false, to.totals_.kernels};
  });
}

}  // namespace lf
