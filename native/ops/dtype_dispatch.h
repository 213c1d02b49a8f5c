// From a DType to a C++ element type, for kernels written as templates over it: visit_floating(dtype, f) calls f with a
// value of the type, of which only the type counts. Included by the kernel part of operator files only.
#pragma once
#include "api/half.h"
#include "api/kernel.h"

namespace lf {
namespace {

struct Bool {
  uint8_t value;
};

template <class A, class B>
constexpr bool kIsSame = false;
template <class A>
constexpr bool kIsSame<A, A> = true;
template <class T>
constexpr bool kIsHalf = kIsSame<T, f16> || kIsSame<T, bf16>;
template <class T>
constexpr bool kInVf = kIsHalf<T> || kIsSame<T, float>;  // computed in vectors of floats
template <class T>
constexpr bool kIsFloating = kInVf<T> || kIsSame<T, double>;

// The schema has refused other formats before.
template <class F>
LF_INLINE void visit_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32: f(float{}); break;
    case DType::kF16: f(f16{}); break;
    case DType::kBF16: f(bf16{}); break;
    case DType::kF64: f(double{}); break;
    default: break;
  }
}
template <class F>
LF_INLINE void visit_integer(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kI8: f(int8_t{}); break;
    case DType::kU8: f(uint8_t{}); break;
    case DType::kI32: f(int32_t{}); break;
    case DType::kI64: f(int64_t{}); break;
    default: break;
  }
}
// Every format but bool.
template <class F>
LF_INLINE void visit_numbers(DType dtype, F&& f) {
  if (is_floating(dtype)) {
    visit_floating(dtype, f);
  } else {
    visit_integer(dtype, f);
  }
}
template <class F>
LF_INLINE void visit_all(DType dtype, F&& f) {
  if (dtype == DType::kBool) {
    f(Bool{});
  } else {
    visit_numbers(dtype, f);
  }
}

}  // namespace
}  // namespace lf
