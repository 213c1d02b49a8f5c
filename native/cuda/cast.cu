// cast: y = x in another format, with the CPU's rules (native/ops/cast.cpp): the nearest number, ties to even; floating to
// integer cuts the fraction off, with the nearest end for values beyond the range and 0 for NaN. Pointwise kernels
// (pointwise.cuh), bound by bytes: packs of 16 bytes in the wider of the two formats, 256 threads a block, full occupancy.
#include <limits>

#include "cuda/pointwise.cuh"

namespace lf::cuda {
namespace {

struct Bool {
  uint8_t value;
};
template <class T>
constexpr bool kIsHalf = std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>;

// A float that rounds to any 16-bit format as the wider number itself would: the last bit is set when something was lost.
__device__ __forceinline__ float to_odd_float(double x) {
  const float near = static_cast<float>(x);
  if (static_cast<double>(near) == x || x != x) return near;
  uint32_t bits = __float_as_uint(near);
  if (::fabs(static_cast<double>(near)) > ::fabs(x)) --bits;  // also brings infinity back to the largest finite number
  return __uint_as_float(bits | 1);
}
__device__ __forceinline__ float to_odd_float(int64_t x) {
  const bool wide = x >= (int64_t{1} << 53) || x <= -(int64_t{1} << 53);
  if (!wide) return to_odd_float(static_cast<double>(x));
  const int64_t high = (x >> 11) | ((x & 0x7ff) != 0);
  return to_odd_float(static_cast<double>(high) * 2048.0);
}

template <class To, class From>
__device__ __forceinline__ To to_integer(From x) {
  constexpr int kBits = static_cast<int>(sizeof(To)) * 8 - (std::is_signed_v<To> ? 1 : 0);
  constexpr From kEnd = static_cast<From>(kBits == 63 ? 9223372036854775808.0 : static_cast<double>(int64_t{1} << (kBits & 63)));
  if (!(x == x)) return To{0};
  if (x >= kEnd) return std::numeric_limits<To>::max();
  if (x <= (std::is_signed_v<To> ? -kEnd : From{0})) return std::numeric_limits<To>::min();
  return static_cast<To>(x);
}

template <class To, class From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (kIsHalf<From>) {
    return convert<To>(widen(x));
  } else if constexpr (std::is_same_v<To, Bool>) {
    return Bool{x != 0};
  } else if constexpr (kIsHalf<To>) {
    if constexpr (sizeof(From) < 4 || std::is_same_v<From, float>) return To(static_cast<float>(x));
    else if constexpr (std::is_same_v<From, double>) return To(to_odd_float(x));
    else return To(to_odd_float(static_cast<int64_t>(x)));
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    return to_integer<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
struct Convert {
  __device__ To operator()(From x) const { return convert<To>(x); }
};

int32_t cast(const KernelArgs* args) {
  const TensorView &x = args->inputs[0], &y = args->outputs[0];
  return dispatch_numbers(x.dtype, [&](auto from) {
    using From = typename decltype(from)::Type;
    if (y.dtype == DType::kBool) return pointwise<Bool, From>(args, Convert<Bool, From>{}, y, x);
    return dispatch_numbers(y.dtype, [&](auto to) {
      using To = typename decltype(to)::Type;
      return pointwise<To, From>(args, Convert<To, From>{}, y, x);
    });
  });
}

}  // namespace

LF_CUDA_KERNEL(cast, cast)

}  // namespace lf::cuda
