// What the CUDA kernels share.
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace agssp {

// Vectors shorter than this count as zero.
constexpr float kShortest = 1e-12f;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Numbers that one load of 16 bytes brings.
template <typename T>
constexpr int kWide = 16 / sizeof(T);

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <typename T, int kCount>
__device__ __forceinline__ Pack<T, kCount> load(const T* address) {
  return *reinterpret_cast<const Pack<T, kCount>*>(address);
}

template <typename T, int kCount>
__device__ __forceinline__ void store(T* address, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(address) = pack;
}

// The sum over a warp, in every lane, always in the same order.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

inline bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of a kernel whose blocks loop over the items.
inline unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(std::clamp<int64_t>(items, 1, 1 << 20));
}

}  // namespace agssp
