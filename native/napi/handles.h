// The native side of one Node environment, held as its instance data.
#pragma once
#include <napi.h>

#include <memory>

#include "core/dispatch.h"
#include "napi/completion.h"

namespace lf {

struct Environment {
  Context context;
  std::shared_ptr<Completion> completion;
  double* words = nullptr;  // the Float64Array through which calls come and results go
  size_t num_words = 0;
  Napi::Reference<Napi::Float64Array> words_reference;
  OpError last_error{kOk, ""};
};

}  // namespace lf
