// Turns a training step that repeats itself into one graph of launches. While a step is being recorded, its launches are
// only listed; at its end the list is compared with those of earlier steps. Equal to one that has a graph: the graph is
// started with this step's block (contents written by the host, attributes that the kernels read from the device). Seen
// before without a graph: the list is carried out while the backend records it. New: it is carried out launch by launch.
// Numbers are the same in all three cases. Used by the stream's thread only.
#pragma once
#include <string>
#include <vector>

#include "api/backend.h"
#include "core/op.h"

namespace lf {

// One thing that a step asks of the device.
struct Launch {
  const OpSchema* op = nullptr;  // nullptr: `bytes` are copied to `destination`; none: the branches of `after` come together
  int32_t branch = 0;            // where it goes, and what else it comes after: see Backend::enter_branch
  uint32_t after = 0;
  KernelFn kernel = nullptr;
  std::vector<TensorView> views;  // inputs, then outputs, with their addresses
  int32_t num_inputs = 0;
  std::vector<double> attrs;
  std::vector<int32_t> attr_begin;
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
  void* destination = nullptr;
  std::vector<char> bytes;
};

// Carries out one launch. kOk, or a code with the text in `error`.
int32_t run_launch(const Backend* backend, void* stream, const Launch& launch, char* error);

class StepGraph {
 public:
  explicit StepGraph(const Backend* backend) : backend_(backend) {}

  void begin() { recording_ = true; }
  bool recording() const { return recording_; }
  void add(Launch launch) { launches_.push_back(std::move(launch)); }
  // Ends the recording and carries the step out, as a graph if it is a known one.
  int32_t finish(void* stream, char* error);
  // Ends the recording and carries out what was listed, launch by launch: something needs the results now.
  int32_t flush(void* stream, char* error);
  // Forgets all steps and gives their graphs back.
  void clear(void* stream);
  // Graphs started so far.
  int64_t replays() const { return replays_; }

 private:
  struct Known {
    std::vector<Launch> launches;
    void* graph = nullptr;
    bool refused = false;  // the backend could not record it
  };
  bool same(const Launch& a, const Launch& b) const;
  std::vector<char> block() const;
  int32_t capture(Known& known, void* stream, char* error);
  int32_t run_all(void* stream, char* error);

  const Backend* backend_;
  bool recording_ = false;
  std::vector<Launch> launches_;
  std::vector<Known> known_;  // the latest first
  int64_t replays_ = 0;
};

}  // namespace lf
