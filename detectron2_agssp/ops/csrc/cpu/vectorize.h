// What the CPU kernels share: one source, compiled for several instruction sets, chosen at load.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

// GCC compiles a function marked so three times and picks by the processor when the library is
// loaded: the loops use AVX-512 or AVX2 where there is one, and the file runs anywhere. By level,
// as a processor's name fits that maker's only: "haswell" is never chosen on AMD's. Not under the
// sanitizers: the choice happens before they are ready.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(__SANITIZE_ADDRESS__)
#if __GNUC__ >= 12
#define AGSSP_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AGSSP_CLONES \
  __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#endif
#else
#define AGSSP_CLONES
#endif

// Only what is inlined into a clone is compiled for its instruction set.
#define AGSSP_INLINE inline __attribute__((always_inline))

namespace agssp {

// Vectors shorter than this count as zero.
constexpr float kShortest = 1e-12f;

template <typename T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

AGSSP_INLINE float to_float(float value) { return value; }
AGSSP_INLINE double to_float(double value) { return value; }

AGSSP_INLINE float to_float(c10::BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.x) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Without a branch, so that loops over it become vector code: the exponent is moved to its place,
// then corrected by a product, which also turns subnormal numbers into normal ones.
AGSSP_INLINE float to_float(c10::Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.x & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(value.x & 0x7fffu) << 13;
  float magnitude;
  std::memcpy(&magnitude, &rest, sizeof(magnitude));
  magnitude *= 5.192296858534828e+33f;  // 2^112
  uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof(bits));
  // Infinity and NaN: 0x7c00 became 2^16 in value; their exponent is set to all ones.
  bits |= (value.x & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  bits |= sign;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to the nearest, halves to even; NaN stays NaN. c10's own has a branch.
template <typename T, typename Value>
AGSSP_INLINE T from_float(Value value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return T(static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded), T::from_bits());
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace agssp
