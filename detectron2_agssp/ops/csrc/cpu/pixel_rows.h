// What touches every pixel of a map: loops over rows, compiled for several instruction sets.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "vectorize.h"

// Product and sum are rounded separately, so that a resized map has the same bits on every
// processor, in PyTorch's reference and on a GPU: a pixel is above the threshold everywhere or
// nowhere.
#if defined(__clang__)
#define AGSSP_NO_FMA
#define AGSSP_NO_FMA_HERE _Pragma("clang fp contract(off)")
#elif defined(__GNUC__)
#define AGSSP_NO_FMA __attribute__((optimize("fp-contract=off")))
#define AGSSP_NO_FMA_HERE
#else
#define AGSSP_NO_FMA
#define AGSSP_NO_FMA_HERE
#endif

namespace agssp {
namespace {

AGSSP_CLONES AGSSP_NO_FMA void resize_row(
    const float* __restrict row, const int32_t* __restrict low, const int32_t* __restrict high,
    const float* __restrict weights, int64_t width, float* __restrict output) {
  AGSSP_NO_FMA_HERE
  for (int64_t x = 0; x < width; ++x) {
    output[x] = row[low[x]] + weights[x] * (row[high[x]] - row[low[x]]);
  }
}

// `low` and `high` may be one row.
AGSSP_CLONES AGSSP_NO_FMA void mix_rows(
    const float* low, const float* high, float weight, int64_t width, float* __restrict output) {
  AGSSP_NO_FMA_HERE
  for (int64_t x = 0; x < width; ++x) {
    output[x] = low[x] + weight * (high[x] - low[x]);
  }
}

// Eight bytes of 0 or 1 as the bits of one.
AGSSP_INLINE uint64_t pack_bytes(const uint8_t* bytes) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return (word * 0x0102040810204080u) >> 56;
#else
  uint64_t packed = 0;
  for (int bit = 0; bit < 8; ++bit) packed |= static_cast<uint64_t>(bytes[bit]) << bit;
  return packed;
#endif
}

AGSSP_INLINE int lowest_bit(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_ctzll(word);
#else
  int bit = 0;
  while (!(word >> bit & 1)) ++bit;
  return bit;
#endif
}

// Writes where runs of pixels above the threshold start and end, in turns; returns the end of what
// it wrote, at most width + 1 numbers.
AGSSP_CLONES int32_t* edges_of_row(
    const float* __restrict row, int64_t width, float threshold, int32_t* __restrict edges) {
  uint64_t before = 0;
  for (int64_t x = 0; x < width; x += 64) {
    uint8_t above[64];
    if (width - x >= 64) {
      for (int64_t i = 0; i < 64; ++i) above[i] = row[x + i] > threshold;
    } else {
      std::memset(above, 0, sizeof(above));
      for (int64_t i = 0; i < width - x; ++i) above[i] = row[x + i] > threshold;
    }
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits |= pack_bytes(above + 8 * i) << (8 * i);
    uint64_t flips = bits ^ (bits << 1 | before);
    before = bits >> 63;
    while (flips) {
      *edges++ = static_cast<int32_t>(x + lowest_bit(flips));
      flips &= flips - 1;
    }
  }
  if (before) *edges++ = static_cast<int32_t>(width);
  return edges;
}

// NaN never enters a maximum: it compares false.
AGSSP_INLINE float larger(float value, float best) { return value > best ? value : best; }

// The maximum over `rows` rows of `columns` numbers, `stride` apart; -inf of none.
AGSSP_CLONES float max_of_rows(
    const float* row, int64_t stride, int64_t rows, int64_t columns) {
  constexpr int64_t kLanes = 32;
  float lanes[kLanes];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  for (; rows > 0; --rows, row += stride) {
    if (columns < kLanes) {
      for (int64_t x = 0; x < columns; ++x) lanes[x] = larger(row[x], lanes[x]);
      continue;
    }
    for (int64_t x = 0; x + kLanes <= columns; x += kLanes) {
      for (int64_t i = 0; i < kLanes; ++i) lanes[i] = larger(row[x + i], lanes[i]);
    }
    // The rest, with some numbers a second time.
    const float* end = row + columns - kLanes;
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = larger(end[i], lanes[i]);
  }
  float best = lanes[0];
  for (float lane : lanes) best = larger(lane, best);
  return best;
}

// maxima[x] becomes the larger of itself and row[x].
AGSSP_CLONES void max_into(const float* __restrict row, int64_t width, float* __restrict maxima) {
  for (int64_t x = 0; x < width; ++x) maxima[x] = larger(row[x], maxima[x]);
}

}  // namespace
}  // namespace agssp
