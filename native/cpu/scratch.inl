// A kernel's scratch memory, cut into pieces of 64-byte borders: Scratch<float> s(elements of all pieces, pieces); s.take(elements).
#pragma once
#include "cpu/kernel.h"

namespace lf {
namespace {

template <class Acc>
struct Scratch {
  char* at;
  explicit Scratch(int64_t elements, int64_t pieces)
      : at(static_cast<char*>(cpu::scratch(2, static_cast<size_t>(elements) * sizeof(Acc) + 64 * static_cast<size_t>(pieces)))) {}
  Acc* take(int64_t elements) {
    Acc* piece = reinterpret_cast<Acc*>(at);
    at += (elements * static_cast<int64_t>(sizeof(Acc)) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace
}  // namespace lf
