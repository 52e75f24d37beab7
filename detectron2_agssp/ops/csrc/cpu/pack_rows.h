// Rows of numbers as the matrix products of min_cosine_distance read them: the memory's normalised,
// row after row; the queries' as the columns of panels.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "vectorize.h"

namespace agssp {
namespace {

constexpr int64_t kLanes = 16;
// Columns of a panel; measured with the tile's rows.
constexpr int64_t kQueries = 64;

template <typename T>
AGSSP_INLINE void widen(const T* input, int64_t count, float* output) {
  for (int64_t index = 0; index < count; ++index) {
    output[index] = static_cast<float>(to_float(input[index]));
  }
}

// A function per type: templates cannot be cloned.
#define AGSSP_WIDEN(T, SUFFIX)                                                     \
  AGSSP_CLONES void widen_##SUFFIX(const T* input, int64_t count, float* output) { \
    widen<T>(input, count, output);                                                \
  }                                                                                \
  inline void to_floats(const T* input, int64_t count, float* output) {            \
    widen_##SUFFIX(input, count, output);                                          \
  }

AGSSP_WIDEN(double, double)
AGSSP_WIDEN(c10::BFloat16, bfloat16)
AGSSP_WIDEN(c10::Half, half)

// A row as float32: itself, or its copy in `buffer`.
template <typename T>
const float* float_row(const T* row, int64_t channels, float* buffer) {
  if constexpr (std::is_same_v<T, float>) {
    return row;
  } else {
    to_floats(row, channels, buffer);
    return buffer;
  }
}

AGSSP_CLONES float dot(const float* a, const float* b, int64_t count) {
  constexpr int64_t kWidth = 4 * kLanes;  // four vectors, so that none waits for the last one
  float sums[kWidth] = {};
  int64_t index = 0;
  for (; index + kWidth <= count; index += kWidth) {
    for (int64_t lane = 0; lane < kWidth; ++lane) {
      sums[lane] += a[index + lane] * b[index + lane];
    }
  }
  float sum = 0;
  for (; index < count; ++index) {
    sum += a[index] * b[index];
  }
  for (int64_t width = kWidth / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) {
      sums[lane] += sums[lane + width];
    }
  }
  return sum + sums[0];
}

inline float norm_of(const float* row, int64_t channels) {
  return std::sqrt(dot(row, row, channels));
}

// NaN and infinity, which rows that are refused have, may become anything.
AGSSP_INLINE uint32_t round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

AGSSP_CLONES void scale_row(const float* row, int64_t channels, float scale, float* output) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    output[channel] = row[channel] * scale;
  }
}

AGSSP_CLONES void scale_row(
    const float* row, int64_t channels, float scale, c10::BFloat16* output) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    output[channel].x = static_cast<uint16_t>(round_to_bfloat16(row[channel] * scale));
  }
}

// kLanes rows of 32-bit words become kLanes columns of a panel, kQueries words wide.
AGSSP_CLONES void transpose(
    const uint32_t* __restrict rows, int64_t words, uint32_t* __restrict panel) {
  for (int64_t word = 0; word < words; ++word) {
    // Not straight to the panel: GCC would turn the loops round and write it number by number.
    uint32_t line[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      line[lane] = rows[lane * words + word];
    }
    std::memcpy(panel + word * kQueries, line, sizeof(line));
  }
}

// Queries (count, D) into panels (depth, kQueries) one after the other, and their norms. bfloat16
// has two channels of a column side by side, as its multiply instructions read them.
template <typename Packed>
void pack_queries(
    const float* queries, int64_t count, int64_t channels, int64_t depth, Packed* panels,
    float* norms) {
  const int64_t groups = (count + kLanes - 1) / kLanes;
  const int64_t words = depth * sizeof(Packed) / sizeof(uint32_t);
  at::parallel_for(0, groups, 4, [&](int64_t begin, int64_t end) {
    std::vector<Packed> rows(kLanes * depth);  // zeros, which the last one's may stay
    for (int64_t first = begin * kLanes; first < std::min(end * kLanes, count); first += kLanes) {
      for (int64_t lane = 0; lane < std::min(kLanes, count - first); ++lane) {
        const float* query = queries + (first + lane) * channels;
        norms[first + lane] = norm_of(query, channels);
        scale_row(query, channels, 1, rows.data() + lane * depth);
      }
      auto* panel = reinterpret_cast<uint32_t*>(panels + first / kQueries * kQueries * depth);
      transpose(
          reinterpret_cast<const uint32_t*>(rows.data()), words, panel + first % kQueries);
    }
  });
}

// Rows of the memory, `stride` apart, normalised into (count, depth); false if one is not finite.
template <typename T, typename Packed>
bool normalize_rows(
    const T* memory, int64_t stride, int64_t count, int64_t channels, int64_t depth,
    Packed* output) {
  std::atomic<bool> finite{true};
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer(std::is_same_v<T, float> ? 0 : channels);
    for (int64_t item = begin; item < end; ++item) {
      const float* row = float_row(memory + item * stride, channels, buffer.data());
      const float norm = norm_of(row, channels);
      if (!std::isfinite(norm)) finite = false;
      scale_row(row, channels, 1 / std::max(norm, kShortest), output + item * depth);
      std::fill(output + item * depth + channels, output + (item + 1) * depth, Packed(0));
    }
  });
  return finite;
}

}  // namespace
}  // namespace agssp
