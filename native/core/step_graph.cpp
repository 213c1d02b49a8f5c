#include "core/step_graph.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace lf {
namespace {
constexpr size_t kMostKnown = 4;
constexpr int64_t kAlignment = 256;
int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool same_view(const TensorView& a, const TensorView& b) {
  return a.data == b.data && a.rank == b.rank && a.dtype == b.dtype &&
         (a.rank <= 0 || std::equal(a.shape, a.shape + a.rank, b.shape));
}
int64_t part_bytes(const Launch& launch) {
  return static_cast<int64_t>(launch.op ? launch.attrs.size() * sizeof(double) : launch.bytes.size());
}
// What is of no branch goes where the last meeting of branches left the device.
int32_t enter(const Backend* backend, void* stream, const Launch& launch, char* error) {
  return launch.branch || launch.after ? backend->enter_branch(stream, launch.branch, launch.after, error) : kOk;
}
}  // namespace

int32_t run_launch(const Backend* backend, void* stream, const Launch& launch, char* error) {
  if (const int32_t code = enter(backend, stream, launch, error)) return code;
  if (!launch.op) {
    return backend->copy_in(stream, launch.destination, launch.bytes.data(), static_cast<int64_t>(launch.bytes.size()), error);
  }
  KernelArgs args{};
  args.inputs = launch.views.data();
  args.outputs = launch.views.data() + launch.num_inputs;
  args.num_inputs = launch.num_inputs;
  args.num_outputs = static_cast<int32_t>(launch.views.size()) - launch.num_inputs;
  args.attrs = launch.attrs.data();
  args.attr_begin = launch.attr_begin.data();
  args.workspace = launch.workspace;
  args.workspace_bytes = launch.workspace_bytes;
  args.stream = stream;
  args.op = launch.op->name;
  args.error = error;
  int32_t code = kOk;
  for (int i = 0; launch.op->zero_outputs && i < args.num_outputs && !code; ++i) {
    const TensorView& view = args.outputs[i];
    if (view.data) code = backend->fill_zero(stream, view.data, view.numel * dtype_size(view.dtype), error);
  }
  if (!code) code = launch.kernel(&args);
  if (code) {
    const std::string text = error;
    std::snprintf(error, kErrorText, "%s: %s", launch.op->name, text.c_str());
  }
  return code;
}

bool StepGraph::same(const Launch& a, const Launch& b) const {
  if (a.op != b.op || a.branch != b.branch || a.after != b.after) return false;
  if (!a.op) return a.destination == b.destination && a.bytes.size() == b.bytes.size();
  if (a.workspace != b.workspace || a.num_inputs != b.num_inputs || a.attr_begin != b.attr_begin) return false;
  if (!std::equal(a.views.begin(), a.views.end(), b.views.begin(), b.views.end(), same_view)) return false;
  for (size_t i = 0; i + 1 < a.attr_begin.size(); ++i) {
    const auto first = a.attr_begin[i], last = a.attr_begin[i + 1];
    if (std::equal(a.attrs.begin() + first, a.attrs.begin() + last, b.attrs.begin() + first)) continue;
    if (!backend_->graphs->reads_from_block(a.op->name, static_cast<int>(i))) return false;
  }
  return true;
}

// What this step fills in: attributes and contents, each part at a multiple of kAlignment, in the order of the launches.
std::vector<char> StepGraph::block() const {
  int64_t size = 0;
  for (const Launch& launch : launches_) size += aligned(part_bytes(launch));
  std::vector<char> out(static_cast<size_t>(size));
  int64_t at = 0;
  for (const Launch& launch : launches_) {
    const void* from = launch.op ? static_cast<const void*>(launch.attrs.data()) : launch.bytes.data();
    if (part_bytes(launch)) std::memcpy(out.data() + at, from, static_cast<size_t>(part_bytes(launch)));
    at += aligned(part_bytes(launch));
  }
  return out;
}

int32_t StepGraph::capture(Known& known, void* stream, char* error) {
  const GraphServices& graphs = *backend_->graphs;
  int64_t size = 0;
  for (const Launch& launch : launches_) size += aligned(part_bytes(launch));
  int64_t at = 0;
  int32_t code = graphs.begin(stream, size, &known.graph, error);
  if (code) {
    graphs.destroy(stream, known.graph);
    known.graph = nullptr;
    return code;
  }
  for (const Launch& launch : launches_) {
    if (code) break;
    if (launch.op || launch.bytes.empty()) {
      graphs.attributes_at(stream, known.graph, at);
      code = run_launch(backend_, stream, launch, error);
    } else {
      code = enter(backend_, stream, launch, error);
      if (!code) code = graphs.copy(stream, known.graph, launch.destination, at, part_bytes(launch), error);
    }
    at += aligned(part_bytes(launch));
  }
  char ending[kErrorText] = "";
  const int32_t ended = graphs.end(stream, known.graph, ending);
  if (!code && ended) std::memcpy(error, ending, sizeof ending);
  if (code || ended) {
    graphs.destroy(stream, known.graph);
    known.graph = nullptr;
  }
  return code ? code : ended;
}

int32_t StepGraph::run_all(void* stream, char* error) {
  for (const Launch& launch : launches_) {
    if (const int32_t code = run_launch(backend_, stream, launch, error)) return code;
  }
  return kOk;
}

int32_t StepGraph::flush(void* stream, char* error) {
  recording_ = false;
  const int32_t code = run_all(stream, error);
  launches_.clear();
  return code;
}

int32_t StepGraph::finish(void* stream, char* error) {
  recording_ = false;
  if (launches_.empty()) return kOk;
  auto equal = [&](const Known& known) {
    return std::equal(launches_.begin(), launches_.end(), known.launches.begin(), known.launches.end(),
                      [&](const Launch& a, const Launch& b) { return same(a, b); });
  };
  auto found = std::find_if(known_.begin(), known_.end(), equal);
  int32_t code = kOk;
  if (found == known_.end()) {
    code = run_all(stream, error);
    if (known_.size() == kMostKnown) {
      if (known_.back().graph) backend_->graphs->destroy(stream, known_.back().graph);
      known_.pop_back();
    }
    known_.insert(known_.begin(), Known{std::move(launches_), nullptr, false});
  } else {
    std::rotate(known_.begin(), found, found + 1);
    Known& known = known_.front();
    if (!known.graph && !known.refused) {
      char text[kErrorText] = "";
      known.refused = capture(known, stream, text) != kOk;  // the launches themselves then say what is wrong, if anything
    }
    if (known.graph) {
      ++replays_;
      code = backend_->graphs->launch(stream, known.graph, block().data(), error);
    } else {
      code = run_all(stream, error);
    }
  }
  launches_.clear();
  return code;
}

void StepGraph::clear(void* stream) {
  recording_ = false;
  launches_.clear();
  for (const Known& known : known_) {
    if (known.graph) backend_->graphs->destroy(stream, known.graph);
  }
  known_.clear();
}

}  // namespace lf
