// cast: y = x in another format. To a floating format: the nearest number, ties to even. Floating to integer: the fraction
// is cut off, values beyond the range become the nearest end of it, NaN becomes 0. Integer to integer: the low bits. To
// bool: x != 0. Bound by the bytes.
#ifdef LF_SCHEMA_PASS
#include "core/op.h"

namespace lf {
namespace {

LF_OP({.name = "cast",
       .inputs = {{"x"}},
       .attrs = {{"dtype", AttrType::kDType}},
       .shape = [](OpCall& call) { call.output_like(call.in(0), call.dtype(0)); },
       .cost = io_cost<0>})

}  // namespace
}  // namespace lf
#else
#include "cpu/kernel.h"
#include "cpu/simd.h"
#include "ops/dtype_dispatch.h"

namespace lf {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements

// A float that rounds to any 16-bit format as the wider number itself would: cut off, with the last bit set when
// something was lost ("round to odd").
LF_INLINE float to_odd_float(double x) {
  const float near = static_cast<float>(x);
  if (static_cast<double>(near) == x || x != x) return near;
  uint32_t bits = float_bits(near);
  const double size = x < 0 ? -x : x, near_size = near < 0 ? -static_cast<double>(near) : static_cast<double>(near);
  if (near_size > size) --bits;  // also brings infinity back to the largest finite number
  return bits_float(bits | 1);
}
LF_INLINE float to_odd_float(int64_t x) {
  const bool wide = x >= (int64_t{1} << 53) || x <= -(int64_t{1} << 53);
  if (!wide) return to_odd_float(static_cast<double>(x));
  const int64_t high = (x >> 11) | ((x & 0x7ff) != 0);
  return to_odd_float(static_cast<double>(high) * 2048.0);
}

template <class To, class From>
LF_INLINE To to_integer(From x) {
  constexpr int kBits = static_cast<int>(sizeof(To)) * 8;
  constexpr bool kSigned = static_cast<To>(-1) < 0;
  constexpr double kEnd = static_cast<double>(uint64_t{1} << (kBits - (kSigned ? 1 : 0)));  // first value out of range
  const double value = static_cast<double>(x);
  constexpr To kMax = kSigned ? static_cast<To>((uint64_t{1} << (kBits - 1)) - 1) : static_cast<To>(-1);
  constexpr To kMin = kSigned ? static_cast<To>(uint64_t{1} << (kBits - 1)) : To{0};
  if (!(value == value)) return To{0};
  if (value >= kEnd) return kMax;
  if (value <= (kSigned ? -kEnd : 0.0)) return kMin;
  return static_cast<To>(value);
}

template <class To, class From>
LF_INLINE To convert(From x) {
  constexpr bool kHalfTo = kIsHalf<To>;
  if constexpr (kIsSame<To, Bool>) {
    if constexpr (kIsHalf<From>) return Bool{to_float(x) != 0};
    else if constexpr (kIsSame<From, Bool>) return x;
    else return Bool{x != 0};
  } else if constexpr (kIsSame<From, Bool>) {
    return convert<To>(static_cast<int32_t>(x.value));
  } else if constexpr (kIsHalf<From>) {
    return convert<To>(to_float(x));
  } else if constexpr (kHalfTo) {
    if constexpr (sizeof(From) < 4 || kIsSame<From, float>) return FromFloat<To>::of(static_cast<float>(x));
    else if constexpr (kIsSame<From, double>) return FromFloat<To>::of(to_odd_float(x));
    else return FromFloat<To>::of(to_odd_float(static_cast<int64_t>(x)));
  } else if constexpr (kIsFloating<From> && !kIsFloating<To>) {
    return to_integer<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
void cast_elements(const TensorView& in, const TensorView& out) {
  const From* x = in.as<From>();
  To* y = out.as<To>();
  cpu::parallel_for(in.numel, kGrain, [=](int64_t begin, int64_t end) {
    if constexpr (kInVf<From> && kInVf<To>) {
      for_lanes<float>(end - begin, [=](int64_t i, int64_t n) {
        const Vf v = n == kVf ? load(x + begin + i) : load(x + begin + i, n);
        if (n == kVf) {
          store(y + begin + i, v);
        } else {
          store(y + begin + i, v, n);
        }
      });
    } else {
      for (int64_t i = begin; i < end; ++i) y[i] = convert<To>(x[i]);
    }
  });
}

int32_t cast(const KernelArgs* args) {
  const TensorView &in = args->inputs[0], &out = args->outputs[0];
  visit_all(in.dtype, [&](auto from) {
    visit_all(out.dtype, [&](auto to) { cast_elements<decltype(to), decltype(from)>(in, out); });
  });
  return kOk;
}

}  // namespace

LF_CPU_KERNEL(cast, cast)

}  // namespace lf
#endif
