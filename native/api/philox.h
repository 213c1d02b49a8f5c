// Philox 4x32-10: four 32-bit random words for each 128-bit counter, the same on every device and in any order.
// Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
// Convention of this library: key = the seed's low and high half; counter = (block, offset), 64 bits each. Element e of a
// tensor uses word e % 4 of block e / 4; `offset` tells the operators of one run apart.
#pragma once
#include "api/kernel.h"

namespace lf {

struct PhiloxKey {
  uint32_t key0, key1, offset0, offset1;
};

LF_INLINE PhiloxKey philox_key(int64_t seed, int64_t offset) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32),
          static_cast<uint32_t>(offset), static_cast<uint32_t>(static_cast<uint64_t>(offset) >> 32)};
}

LF_INLINE void philox(const PhiloxKey& key, uint64_t block, uint32_t words[4]) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = key.offset0, c3 = key.offset1;
  uint32_t k0 = key.key0, k1 = key.key1;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// Uniform in [0, 1), a multiple of 2^-24.
LF_INLINE float philox_uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

}  // namespace lf
