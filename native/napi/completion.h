// Turns "the stream reached this point" into JavaScript promises. Streams call finish() from their own threads; any
// number of finished waits reach JavaScript in one hop. The hop keeps the process alive only while something is waited for.
#pragma once
#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/stream.h"

namespace lf {

class Completion : public std::enable_shared_from_this<Completion> {
 public:
  // `on_complete` is called as on_complete(id, code, message, hint).
  Completion(Napi::Env env, Napi::Function on_complete);
  void expect(Napi::Env env);                 // JavaScript thread: one more wait
  void finish(double id, StreamError error);  // any thread
  void close();                               // JavaScript thread: the environment ends

 private:
  struct Item {
    double id;
    StreamError error;
  };
  static void deliver(Napi::Env env, Napi::Function on_complete, Completion* self, void*);
  using Function = Napi::TypedThreadSafeFunction<Completion, void, deliver>;

  Function function_;
  int64_t waiting_ = 0;
  std::mutex mutex_;
  std::vector<Item> finished_;
  bool scheduled_ = false, closed_ = false;
};

}  // namespace lf
