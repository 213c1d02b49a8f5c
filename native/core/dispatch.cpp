#include "core/dispatch.h"

#include <algorithm>
#include <cmath>

#include "core/backends.h"

namespace lf {
namespace {
constexpr int64_t kSlotRange = int64_t{1} << 24;
}

Context::Context() {
  slots_.emplace_back();  // position 0 is never used: handle 0 means absent
  update_devices();
}

void Context::update_devices() {
  const auto devices = available_devices();
  for (size_t i = streams_.size(); i < devices.size(); ++i) {
    const DeviceDescription& device = devices[i];
    streams_.emplace_back(new Stream(device.backend, device.index, device.name));
    std::vector<Kernel> table(all_ops().size());
    for (const OpSchema* op : all_ops()) {
      if (!device.backend) break;
      table[static_cast<size_t>(op->id)] = {device.backend->find_kernel(op->name), device.backend->find_workspace(op->name)};
    }
    kernels_.push_back(std::move(table));
    program_.emplace_back();
  }
}

Context::~Context() {
  for (Slot& slot : slots_) {
    if (slot.storage && --slot.storage->references == 0) stream(slot.device).release(slot.storage);
  }
  for (auto& stream : streams_) stream->wait_idle();
  pagers_.clear();
  for (auto& stream : streams_) stream->settle();
  for (auto& stream : streams_) stream->close();
}

Stream& Context::stream(int device) {
  if (device < 0 || device >= device_count()) {
    throw OpError(kDevice, "device number " + std::to_string(device) + " does not exist");
  }
  return *streams_[static_cast<size_t>(device)];
}

const Context::Slot& Context::slot(Handle handle) const {
  const auto number = static_cast<int64_t>(handle);
  const int64_t position = number % kSlotRange;
  if (position > 0 && position < static_cast<int64_t>(slots_.size())) {
    const Slot& found = slots_[static_cast<size_t>(position)];
    if (found.storage && found.generation == number / kSlotRange) return found;
  }
  throw OpError(kDisposed, "a tensor was used after it was disposed",
                "return it from its scope, or keep() it, if it must live longer");
}

Operand Context::operand(Handle handle) const {
  const Slot& found = slot(handle);
  return {found.storage, found.offset, found.view};
}

int Context::device_of(Handle handle) const { return slot(handle).device; }

CreatedTensor Context::add_slot(Slot fresh) {
  int64_t position;
  if (free_slots_.empty()) {
    position = static_cast<int64_t>(slots_.size());
    if (position >= kSlotRange) {
      throw OpError(kOutOfMemory, "more than 16 million live tensors", "dispose tensors, or use scope()");
    }
    slots_.push_back(fresh);
  } else {
    position = free_slots_.back();
    free_slots_.pop_back();
    fresh.generation = slots_[static_cast<size_t>(position)].generation;
    slots_[static_cast<size_t>(position)] = fresh;
  }
  ++live_handles_;
  return {static_cast<double>(position + kSlotRange * fresh.generation), fresh.view};
}

void Context::release(Handle handle) {
  const auto position = static_cast<int64_t>(handle) % kSlotRange;
  Slot& gone = const_cast<Slot&>(slot(handle));
  Storage* storage = gone.storage;
  const int32_t device = gone.device;
  gone.storage = nullptr;
  gone.generation = gone.generation % (1 << 28) + 1;
  free_slots_.push_back(static_cast<int32_t>(position));
  --live_handles_;
  if (--storage->references) return;
  if (!storage->away) count_live(device, -storage->bytes);
  streams_[static_cast<size_t>(device)]->release(storage);
}

void Context::count_live(int device, int64_t bytes) {
  ProgramCounts& counts = program_[static_cast<size_t>(device)];
  counts.live_bytes += bytes;
  counts.peak_bytes = std::max(counts.peak_bytes, counts.live_bytes);
}

int Context::open_pager(std::string folder) {
  pagers_.push_back(std::make_shared<Pager>(std::move(folder)));
  return static_cast<int>(pagers_.size()) - 1;
}

Pager& Context::pager(int number) {
  if (number < 0 || number >= static_cast<int>(pagers_.size()) || !pagers_[static_cast<size_t>(number)]) {
    throw OpError(kDisposed, "offload: this pager was closed");
  }
  return *pagers_[static_cast<size_t>(number)];
}

void Context::page_out(Handle handle, int number) {
  pager(number);  // is there
  const Slot& found = slot(handle);
  if (found.storage->away || !found.storage->bytes) return;
  found.storage->away = true;
  count_live(found.device, -found.storage->bytes);
  stream(found.device).page_out(found.storage, pagers_[static_cast<size_t>(number)]);
}

void Context::comes_back(Storage* storage, int device) {
  if (!storage->away) return;
  storage->away = false;
  count_live(device, storage->bytes);
}

void Context::page_in(Handle handle) {
  const Slot& found = slot(handle);
  if (!found.storage->away) return;
  comes_back(found.storage, found.device);
  stream(found.device).page_in(found.storage);
}

void Context::prefetch(Handle handle) {
  const Slot& found = slot(handle);
  if (found.storage->away) stream(found.device).prefetch(found.storage);
}

namespace {
Storage* new_storage(const TensorView& view, const char* origin) {
  auto* storage = new Storage;
  storage->bytes = view.numel * dtype_size(view.dtype);
  storage->origin = origin;
  storage->view = view;
  return storage;
}

int64_t backend_workspace(const OpCall& call, WorkspaceFn rule) {
  KernelArgs args{};
  args.inputs = call.inputs;
  args.outputs = call.outputs;
  args.num_inputs = call.num_inputs;
  args.num_outputs = call.num_outputs;
  args.attrs = call.attrs;
  args.attr_begin = call.attr_begin;
  args.op = call.op->name;
  return rule(&args);
}
}  // namespace

CreatedTensor Context::create(int device, DType dtype, const int64_t* shape, int rank, const void* bytes,
                              int64_t num_bytes) {
  Stream& target = stream(device);
  Slot fresh;
  fresh.view = make_view(dtype, shape, rank);
  fresh.device = device;
  const int64_t needed = fresh.view.numel * dtype_size(dtype);
  if (needed != num_bytes) {
    throw OpError(kShape, "tensor: " + view_text(fresh.view) + " needs " + std::to_string(needed) + " bytes, got " +
                              std::to_string(num_bytes));
  }
  fresh.storage = new_storage(fresh.view, "tensor");
  count_live(device, fresh.storage->bytes);
  const char* first = static_cast<const char*>(bytes);
  target.write(fresh.storage, std::vector<char>(first, first + num_bytes));
  return add_slot(fresh);
}

CreatedTensor Context::copy_to(Handle handle, int device) {
  const Slot source = slot(handle);
  Stream& from = stream(source.device);
  Stream& to = stream(device);
  if (from.is_meta() && !to.is_meta()) {
    throw OpError(kDevice, "to: tensors on 'meta' have shapes but no numbers to copy to " + to.name(), "run the same code on 'cpu'");
  }
  comes_back(source.storage, source.device);
  Slot fresh;
  fresh.view = source.view;
  fresh.device = device;
  fresh.storage = new_storage(fresh.view, "to");
  count_live(device, fresh.storage->bytes);
  Stream::transfer(from, {source.storage, source.offset, source.view}, to, fresh.storage);
  return add_slot(fresh);
}

CreatedTensor Context::view(Handle source, int64_t offset, const int64_t* shape, int rank) {
  Slot fresh = slot(source);
  const TensorView old = fresh.view;
  fresh.view = make_view(old.dtype, shape, rank);
  if (offset < 0 || offset + fresh.view.numel > old.numel) {
    throw OpError(kShape, "view: " + shape_text(fresh.view) + " from element " + std::to_string(offset) +
                              " does not fit in a tensor of shape " + shape_text(old));
  }
  fresh.offset += offset * dtype_size(old.dtype);
  ++fresh.storage->references;
  return add_slot(fresh);
}

const std::vector<CreatedTensor>& Context::call(const double* words, size_t num_words) {
  size_t at = 0;
  auto next = [&]() -> double {
    if (at >= num_words) throw OpError(kArgument, "call: the argument words end too early");
    return words[at++];
  };
  const auto id = static_cast<int64_t>(next());
  const auto& ops = all_ops();
  if (id < 0 || id >= static_cast<int64_t>(ops.size())) throw OpError(kArgument, "call: unknown operator number");
  OpCall call;
  call.op = ops[static_cast<size_t>(id)];
  const OpSchema& op = *call.op;

  int device = static_cast<int>(next());
  const int num_inputs = static_cast<int>(next());
  inputs_.clear();
  input_views_.clear();
  int first_device_input = -1;
  for (int i = 0; i < num_inputs; ++i) {
    const Handle handle = next();
    Operand operand;
    operand.view.rank = -1;
    if (handle != 0) {
      const Slot& found = slot(handle);
      operand = {found.storage, found.offset, found.view};
      if (device < 0) {
        device = found.device;
        first_device_input = i;
      } else if (device != found.device) {
        call.fail_hint(kDevice, "copy one of them with to()", "input %d is on %s, but %s is on %s", i,
                       streams_[static_cast<size_t>(found.device)]->name().c_str(),
                       first_device_input < 0 ? "the call" : ("input " + std::to_string(first_device_input)).c_str(),
                       streams_[static_cast<size_t>(device)]->name().c_str());
      }
    }
    inputs_.push_back(operand);
    input_views_.push_back(operand.view);
  }
  const bool variadic = !op.inputs.empty() && op.inputs.back().variadic;
  const int named = static_cast<int>(op.inputs.size()) - (variadic ? 1 : 0);
  if (num_inputs < named || (!variadic && num_inputs > named)) {
    call.fail(kArgument, "got %d inputs, takes %d", num_inputs, named);
  }
  for (int i = 0; i < num_inputs; ++i) {
    const InputSpec& spec = op.inputs[static_cast<size_t>(i < named ? i : named)];
    if (inputs_[static_cast<size_t>(i)].view.rank < 0 && !spec.optional) {
      call.fail(kArgument, "input '%s' is missing", spec.name);
    }
  }
  Stream& target = stream(device);

  attrs_.clear();
  attr_begin_.clear();
  for (const AttrSpec& spec : op.attrs) {
    attr_begin_.push_back(static_cast<int32_t>(attrs_.size()));
    const bool list = spec.type == AttrType::kIntegers || spec.type == AttrType::kNumbers;
    const int count = list ? static_cast<int>(next()) : 1;
    for (int i = 0; i < count; ++i) {
      const double value = next();
      const bool whole = spec.type != AttrType::kNumber && spec.type != AttrType::kNumbers;
      if (std::isnan(value) || (whole && value != std::floor(value))) {
        call.fail(kArgument, "%s must be %s, got %g", spec.name, whole ? "a whole number" : "a number", value);
      }
      attrs_.push_back(value);
    }
  }
  attr_begin_.push_back(static_cast<int32_t>(attrs_.size()));

  call.inputs = input_views_.data();
  call.num_inputs = num_inputs;
  call.attrs = attrs_.data();
  call.attr_begin = attr_begin_.data();
  op.shape(call);
  const Cost cost = op.cost(call);
  const Kernel& kernel = kernels_[static_cast<size_t>(device)][static_cast<size_t>(id)];
  if (!kernel.run && !target.is_meta()) {
    call.fail(kNoKernel, "there is no kernel for this operator on %s", target.name().c_str());
  }
  const int64_t workspace = kernel.workspace ? backend_workspace(call, kernel.workspace) : op.workspace ? op.workspace(call) : 0;

  for (const Operand& in : inputs_) {
    if (in.storage) comes_back(in.storage, device);
  }
  outputs_.clear();
  created_.clear();
  for (int i = 0; i < call.num_outputs; ++i) {
    Slot fresh;
    fresh.view = call.outputs[i];
    fresh.device = device;
    fresh.storage = new_storage(fresh.view, op.name);
    count_live(device, fresh.storage->bytes);
    outputs_.push_back({fresh.storage, 0, fresh.view});
    created_.push_back(add_slot(fresh));
  }
  count_live(device, workspace);
  count_live(device, -workspace);
  program_[static_cast<size_t>(device)].flops += cost.flops;
  target.run_op(&op, kernel.run, cost, workspace, inputs_, outputs_, attrs_.data(), attr_begin_.data());
  return created_;
}

}  // namespace lf
