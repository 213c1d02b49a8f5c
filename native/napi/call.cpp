// The three hot entries, in raw Node-API: call (one operator), view, release. Arguments and results travel through the
// shared Float64Array, so nothing is allocated in JavaScript's heap. They return 0 or an error code; lastError() tells
// the rest.
#include "napi/call.h"

#include "napi/handles.h"

namespace lf {
namespace {

Environment& environment(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Environment*>(data);
}

napi_value number(napi_env env, double value) {
  napi_value out = nullptr;
  napi_create_double(env, value, &out);
  return out;
}

double first_argument(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  double value = 0;
  napi_get_value_double(env, argument, &value);
  return value;
}

// [handle, dtype, rank, sizes...]
size_t put_tensor(Environment& self, size_t at, const CreatedTensor& created) {
  double* words = self.words;
  words[at++] = created.handle;
  words[at++] = static_cast<double>(created.view.dtype);
  words[at++] = created.view.rank;
  for (int i = 0; i < created.view.rank; ++i) words[at++] = static_cast<double>(created.view.shape[i]);
  return at;
}

template <class F>
napi_value guarded(napi_env env, F&& body) {
  Environment& self = environment(env);
  try {
    body(self);
    return number(env, kOk);
  } catch (const OpError& error) {
    self.last_error = error;
  } catch (const std::bad_alloc&) {
    self.last_error = OpError(kOutOfMemory, "the process is out of memory");
  } catch (const std::exception& error) {
    self.last_error = OpError(kKernel, error.what());
  }
  return number(env, self.last_error.code);
}

// words[0 .. n) hold the call (see Context::call); afterwards [count, tensor...].
napi_value call(napi_env env, napi_callback_info info) {
  const double used = first_argument(env, info);
  return guarded(env, [&](Environment& self) {
    const auto& outputs = self.context.call(self.words, static_cast<size_t>(used));
    size_t at = 0;
    self.words[at++] = static_cast<double>(outputs.size());
    for (const CreatedTensor& created : outputs) at = put_tensor(self, at, created);
  });
}

// words: [source handle, offset in elements, rank, sizes...]; afterwards [tensor].
napi_value view(napi_env env, napi_callback_info) {
  return guarded(env, [&](Environment& self) {
    int64_t shape[kMaxRank];
    const int rank = static_cast<int>(self.words[2]);
    for (int i = 0; i < rank; ++i) shape[i] = static_cast<int64_t>(self.words[3 + i]);
    put_tensor(self, 0, self.context.view(self.words[0], static_cast<int64_t>(self.words[1]), shape, rank));
  });
}

// words: [source handle, device]; afterwards [tensor].
napi_value copy_to(napi_env env, napi_callback_info) {
  return guarded(env, [&](Environment& self) {
    put_tensor(self, 0, self.context.copy_to(self.words[0], static_cast<int>(self.words[1])));
  });
}

napi_value release(napi_env env, napi_callback_info info) {
  const double handle = first_argument(env, info);
  return guarded(env, [&](Environment& self) { self.context.release(handle); });
}

// words: [device, dtype, rank, sizes...]; argument: a typed array with the bytes; afterwards [tensor].
napi_value create(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  void* bytes = nullptr;
  size_t num_bytes = 0;
  napi_typedarray_type type;
  napi_value buffer;
  size_t offset;
  // JavaScript always passes a Uint8Array, so length is bytes whatever this header knows of newer array types.
  napi_get_typedarray_info(env, argument, &type, &num_bytes, &bytes, &buffer, &offset);
  return guarded(env, [&](Environment& self) {
    int64_t shape[kMaxRank];
    const int rank = static_cast<int>(self.words[2]);
    for (int i = 0; i < rank; ++i) shape[i] = static_cast<int64_t>(self.words[3 + i]);
    put_tensor(self, 0,
               self.context.create(static_cast<int>(self.words[0]), static_cast<DType>(self.words[1]), shape, rank,
                                   bytes, static_cast<int64_t>(num_bytes)));
  });
}

void add(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

}  // namespace

void export_calls(napi_env env, napi_value exports) {
  add(env, exports, "call", call);
  add(env, exports, "view", view);
  add(env, exports, "copyTo", copy_to);
  add(env, exports, "release", release);
  add(env, exports, "create", create);
}

}  // namespace lf
