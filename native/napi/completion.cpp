#include "napi/completion.h"

namespace lf {

Completion::Completion(Napi::Env env, Napi::Function on_complete) {
  function_ = Function::New(env, on_complete, "leanformer completion", 0, 1, this);
  function_.Unref(env);
}

void Completion::expect(Napi::Env env) {
  if (waiting_++ == 0) function_.Ref(env);
}

void Completion::finish(double id, StreamError error) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  finished_.push_back({id, std::move(error)});
  if (scheduled_) return;
  scheduled_ = true;
  function_.NonBlockingCall();
}

void Completion::close() {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  function_.Abort();
}

void Completion::deliver(Napi::Env env, Napi::Function on_complete, Completion* self, void*) {
  if (env == nullptr || self == nullptr) return;
  std::vector<Item> items;
  {
    std::lock_guard lock(self->mutex_);
    items.swap(self->finished_);
    self->scheduled_ = false;
  }
  self->waiting_ -= static_cast<int64_t>(items.size());
  if (self->waiting_ == 0) self->function_.Unref(env);
  for (const Item& item : items) {
    Napi::HandleScope scope(env);
    on_complete.Call({Napi::Number::New(env, item.id), Napi::Number::New(env, item.error.code),
                      Napi::String::New(env, item.error.message), Napi::String::New(env, item.error.hint)});
  }
}

}  // namespace lf
