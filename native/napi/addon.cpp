// The addon's entry and everything that is not called once an operator: reads, fences, statistics, settings.
#include <napi.h>

#include <algorithm>
#include <iterator>

#include "build_info.h"
#include "core/backends.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/peak.h"
#include "napi/call.h"
#include "napi/handles.h"

namespace lf {
namespace {

Environment& self_of(const Napi::CallbackInfo& info) { return *info.Env().GetInstanceData<Environment>(); }
Stream& stream_of(const Napi::CallbackInfo& info) {
  return self_of(info).context.stream(info[0].As<Napi::Number>().Int32Value());
}

// Runs `body`; an OpError becomes the last error and its code is returned, as in napi/call.cpp.
template <class F>
Napi::Value guarded(const Napi::CallbackInfo& info, F&& body) {
  try {
    body();
    return Napi::Number::New(info.Env(), kOk);
  } catch (const OpError& error) {
    self_of(info).last_error = error;
    return Napi::Number::New(info.Env(), error.code);
  }
}

// init(words: Float64Array, onComplete): once per environment.
void init(const Napi::CallbackInfo& info) {
  Environment& self = self_of(info);
  auto words = info[0].As<Napi::Float64Array>();
  self.words = words.Data();
  self.num_words = words.ElementLength();
  self.words_reference = Napi::Persistent(words);
  if (self.completion) self.completion->close();
  self.completion = std::make_shared<Completion>(info.Env(), info[1].As<Napi::Function>());
}

Napi::Value last_error(const Napi::CallbackInfo& info) {
  const OpError& error = self_of(info).last_error;
  auto out = Napi::Array::New(info.Env(), 2);
  out.Set(0u, Napi::String::New(info.Env(), error.what()));
  out.Set(1u, Napi::String::New(info.Env(), error.hint));
  return out;
}

// read(handle, destination: Uint8Array, id): the bytes are there when completion `id` arrives. The caller keeps the
// destination alive until then.
Napi::Value read(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    Environment& self = self_of(info);
    const double handle = info[0].As<Napi::Number>().DoubleValue();
    const Operand source = self.context.operand(handle);
    Stream& stream = self.context.stream(self.context.device_of(handle));
    if (stream.is_meta()) {
      throw OpError(kDevice, "data: tensors on 'meta' have shapes but no numbers", "run the same code on 'cpu'");
    }
    auto bytes = info[1].As<Napi::Uint8Array>();
    if (static_cast<int64_t>(bytes.ByteLength()) != source.view.numel * dtype_size(source.view.dtype)) {
      throw OpError(kArgument, "read: the destination has the wrong size");
    }
    self.completion->expect(info.Env());
    const double id = info[2].As<Napi::Number>().DoubleValue();
    stream.read(source, bytes.Data(), [completion = self.completion, id](const StreamError& error, const DeviceStats&) {
      completion->finish(id, error);
    });
  });
}

void put_stats(const DeviceStats& stats, double* out) {
  const double values[] = {static_cast<double>(stats.live_bytes),
                           static_cast<double>(stats.peak_bytes),
                           static_cast<double>(stats.reserved_bytes),
                           static_cast<double>(stats.live_blocks),
                           static_cast<double>(stats.limit_bytes),
                           stats.flops,
                           stats.bytes_read,
                           stats.bytes_written,
                           stats.busy_seconds,
                           static_cast<double>(stats.kernels),
                           static_cast<double>(stats.graph_replays),
                           static_cast<double>(stats.branches),
                           static_cast<double>(stats.copies),
                           static_cast<double>(stats.copied_bytes),
                           static_cast<double>(stats.kernels_beside_copies),
                           static_cast<double>(stats.locked_bytes),
                           stats.waited_seconds};
  std::copy(std::begin(values), std::end(values), out);
}

// fence(device, id, stats: Float64Array): completion `id` arrives when everything asked for so far is done, and `stats`
// then holds the device's statistics at that point, in the order of `statNames` in lib/native/call.ts.
Napi::Value fence(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    Environment& self = self_of(info);
    Stream& stream = stream_of(info);
    self.completion->expect(info.Env());
    const double id = info[1].As<Napi::Number>().DoubleValue();
    double* out = info[2].As<Napi::Float64Array>().Data();
    stream.fence([completion = self.completion, id, out](const StreamError& error, const DeviceStats& stats) {
      put_stats(stats, out);
      completion->finish(id, error);
    });
  });
}

void wait_idle(const Napi::CallbackInfo& info) { stream_of(info).wait_idle(); }
void clear_error(const Napi::CallbackInfo& info) { stream_of(info).clear_error(); }
void reset_peak(const Napi::CallbackInfo& info) { stream_of(info).reset_peak(); }
void set_limit(const Napi::CallbackInfo& info) { stream_of(info).set_limit(info[1].As<Napi::Number>().Int64Value()); }
void check_nonfinite(const Napi::CallbackInfo& info) {
  stream_of(info).check_nonfinite(info[1].As<Napi::Boolean>().Value());
}
void check_guards(const Napi::CallbackInfo& info) { stream_of(info).check_guards(info[1].As<Napi::Boolean>().Value()); }
void begin_step(const Napi::CallbackInfo& info) { stream_of(info).begin_step(); }
void enter_branch(const Napi::CallbackInfo& info) { stream_of(info).enter_branch(info[1].As<Napi::Number>().Int32Value()); }
void end_step(const Napi::CallbackInfo& info) { stream_of(info).end_step(); }
void time_operators(const Napi::CallbackInfo& info) { stream_of(info).time_operators(info[1].As<Napi::Boolean>().Value()); }
void fail_placement(const Napi::CallbackInfo& info) {
  stream_of(info).fail_placement(info[1].As<Napi::Number>().Int64Value());
}
Napi::Value first_nonfinite(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), stream_of(info).first_nonfinite());
}

// loadCuda(): why there is no CUDA device, or '' when there is one; devices() then has it.
Napi::Value load_cuda_devices(const Napi::CallbackInfo& info) {
  const std::string absence = load_cuda();
  self_of(info).context.update_devices();
  return Napi::String::New(info.Env(), absence);
}

Napi::Value devices(const Napi::CallbackInfo& info) {
  auto out = Napi::Array::New(info.Env());
  uint32_t i = 0;
  for (const DeviceDescription& device : available_devices()) out.Set(i++, Napi::String::New(info.Env(), device.name));
  return out;
}

// stats(device, stats: Float64Array): as fence, but blocks until the device is idle.
void stats(const Napi::CallbackInfo& info) { put_stats(stream_of(info).stats(), info[1].As<Napi::Float64Array>().Data()); }

// program(device, counts: Float64Array, reset): live bytes, peak bytes and FLOPs in program order; see ProgramCounts.
void program(const Napi::CallbackInfo& info) {
  ProgramCounts& counts = self_of(info).context.program(info[0].As<Napi::Number>().Int32Value());
  double* out = info[1].As<Napi::Float64Array>().Data();
  out[0] = static_cast<double>(counts.live_bytes);
  out[1] = static_cast<double>(counts.peak_bytes);
  out[2] = counts.flops;
  if (info[2].As<Napi::Boolean>().Value()) counts.peak_bytes = counts.live_bytes;
}

// openPager(folder): its number is in words[0].
Napi::Value open_pager(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { self_of(info).words[0] = self_of(info).context.open_pager(info[0].As<Napi::String>().Utf8Value()); });
}
void close_pager(const Napi::CallbackInfo& info) { self_of(info).context.close_pager(info[0].As<Napi::Number>().Int32Value()); }
Napi::Value page_out(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { self_of(info).context.page_out(info[0].As<Napi::Number>().DoubleValue(), info[1].As<Napi::Number>().Int32Value()); });
}
Napi::Value page_in(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { self_of(info).context.page_in(info[0].As<Napi::Number>().DoubleValue()); });
}
Napi::Value prefetch(const Napi::CallbackInfo& info) {
  return guarded(info, [&] { self_of(info).context.prefetch(info[0].As<Napi::Number>().DoubleValue()); });
}
// pagerStats(pager, stats: Float64Array): as in PagerStats.
Napi::Value pager_stats(const Napi::CallbackInfo& info) {
  return guarded(info, [&] {
    const PagerStats stats = self_of(info).context.pager(info[0].As<Napi::Number>().Int32Value()).stats();
    double* out = info[1].As<Napi::Float64Array>().Data();
    out[0] = static_cast<double>(stats.bytes_written);
    out[1] = static_cast<double>(stats.bytes_read);
    out[2] = static_cast<double>(stats.file_bytes);
    out[3] = stats.wait_seconds;
  });
}

Napi::Value live_handles(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(self_of(info).context.live_handles()));
}

// profile(device, reset): one entry per operator that ran.
Napi::Value profile(const Napi::CallbackInfo& info) {
  const auto list = stream_of(info).op_stats(info[1].As<Napi::Boolean>().Value());
  auto out = Napi::Array::New(info.Env());
  uint32_t n = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].calls) continue;
    auto item = Napi::Object::New(info.Env());
    item.Set("op", all_ops()[i]->name);
    item.Set("calls", static_cast<double>(list[i].calls));
    item.Set("seconds", list[i].seconds);
    item.Set("flops", list[i].flops);
    item.Set("bytesRead", list[i].bytes_read);
    item.Set("bytesWritten", list[i].bytes_written);
    out.Set(n++, item);
  }
  return out;
}

Napi::Value ops(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), ops_json()); }

Napi::Value ops_hash_of(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), ops_hash()); }

// hasKernel(device, operator id)
Napi::Value has_kernel(const Napi::CallbackInfo& info) {
  const Stream& stream = stream_of(info);
  const auto id = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
  const bool found = stream.is_meta() || stream.backend()->find_kernel(all_ops().at(id)->name);
  return Napi::Boolean::New(info.Env(), found);
}

void set_threads(const Napi::CallbackInfo& info) { cpu::set_num_threads(info[0].As<Napi::Number>().Int32Value()); }
Napi::Value get_threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), cpu::num_threads()); }

Napi::Value build_info(const Napi::CallbackInfo& info) {
  auto out = Napi::Object::New(info.Env());
  out.Set("build", LF_BUILD_STAMP);
  out.Set("isa", cpu::isa_name());
  out.Set("sparseBlocks", LF_SPARSE_BLOCKS);
  return out;
}

// facts(device): what the device says of itself; numbers that it cannot tell are negative.
Napi::Value facts(const Napi::CallbackInfo& info) {
  auto out = Napi::Object::New(info.Env());
  const Stream& stream = stream_of(info);
  DeviceFacts facts{"", -1, -1, -1, -1, -1};
  if (!stream.is_meta()) stream.backend()->facts(stream.device_index(), &facts);
  out.Set("description", facts.description);
  out.Set("memoryBytes", static_cast<double>(facts.memory_bytes));
  out.Set("freeBytes", static_cast<double>(facts.free_bytes));
  out.Set("watts", facts.watts);
  out.Set("joules", facts.joules);
  out.Set("celsius", facts.celsius);
  return out;
}

// measurePeaks(): the machine's own ceilings, measured now (about 0.3 s): GFLOP/s in f32 and bf16, GB/s of reads.
Napi::Value measure_peaks(const Napi::CallbackInfo& info) {
  auto out = Napi::Object::New(info.Env());
  out.Set("f32Gflops", cpu::measured_peak_gflops(DType::kF32));
  out.Set("bf16Gflops", cpu::measured_peak_gflops(DType::kBF16));
  out.Set("bandwidthGbs", cpu::measured_bandwidth_gbs());
  return out;
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData<Environment>(new Environment);
  env.AddCleanupHook([env] {
    auto* self = env.GetInstanceData<Environment>();
    if (self && self->completion) self->completion->close();
  });
  export_calls(env, exports);
  auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  add("init", init);
  add("lastError", last_error);
  add("read", read);
  add("fence", fence);
  add("waitIdle", wait_idle);
  add("clearError", clear_error);
  add("resetPeak", reset_peak);
  add("setLimit", set_limit);
  add("checkNonfinite", check_nonfinite);
  add("checkGuards", check_guards);
  add("enterBranch", enter_branch);
  add("beginStep", begin_step);
  add("endStep", end_step);
  add("timeOperators", time_operators);
  add("failPlacement", fail_placement);
  add("firstNonfinite", first_nonfinite);
  add("devices", devices);
  add("loadCuda", load_cuda_devices);
  add("facts", facts);
  add("stats", stats);
  add("liveHandles", live_handles);
  add("program", program);
  add("openPager", open_pager);
  add("closePager", close_pager);
  add("pageOut", page_out);
  add("pageIn", page_in);
  add("prefetch", prefetch);
  add("pagerStats", pager_stats);
  add("profile", profile);
  add("ops", ops);
  add("opsHash", ops_hash_of);
  add("hasKernel", has_kernel);
  add("setThreads", set_threads);
  add("threads", get_threads);
  add("buildInfo", build_info);
  add("measurePeaks", measure_peaks);
  return exports;
}

}  // namespace
}  // namespace lf

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return lf::start(env, exports); }
NODE_API_MODULE(addon, init_addon)
