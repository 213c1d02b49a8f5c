// The two code books of 8-bit optimiser state: numbers of [-1, 1] (signed) or [0, 1] in seven decades, denser towards 1.
// Decade i from 0 to 6 stands for 10^(i - 6) and holds 2^i (signed, for either sign) or 2^(i + 1) values: the midpoints of as
// many equal parts of [0.1, 1], times 10^(i - 6). With 0 and 1 that makes 256. Source: Dettmers et al., arXiv 2110.02861.
#pragma once
#include "api/kernel.h"

namespace lf {
namespace {

constexpr int kCodes = 256;

// Fills `map` with the 256 values in ascending order.
LF_INLINE void dynamic_map(bool with_sign, float* map) {
  int n = 0;
  double decade = 1e-6;
  for (int i = 0; i < 7; ++i, decade *= 10) {
    const int parts = with_sign ? 1 << i : 1 << (i + 1);
    for (int k = 0; k < parts; ++k) {
      const double value = decade * (0.1 + 0.9 * (k + 0.5) / parts);
      map[n++] = static_cast<float>(value);
      if (with_sign) map[n++] = static_cast<float>(-value);
    }
  }
  map[n++] = 0;
  map[n++] = 1;
  for (int i = 1; i < n; ++i) {
    const float value = map[i];
    int at = i;
    for (; at > 0 && map[at - 1] > value; --at) map[at] = map[at - 1];
    map[at] = value;
  }
}

// The code nearest to x, ties to the lower one; `x` outside the book becomes its end.
LF_INLINE int nearest_code(const float* map, float x) {
  int low = 0, high = kCodes - 1;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (map[middle] <= x) low = middle; else high = middle;
  }
  return x - map[low] <= map[high] - x ? low : high;
}

}  // namespace
}  // namespace lf
