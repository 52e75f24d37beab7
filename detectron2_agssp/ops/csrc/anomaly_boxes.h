// What anomaly_boxes on the CPU and on CUDA share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/macros/Macros.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>

namespace agssp {
namespace {

using Boxes = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Where one output position of a bilinear resize reads: low + weight * (high - low), each
// operation rounded by itself, along the rows and then along the columns.
struct Taps {
  int64_t low, high;
  float weight;
};

// Half-pixel centres; beyond the border the border's value. Integers up to the last division, so
// that no rounding moves a position.
C10_HOST_DEVICE inline Taps taps_of(int64_t input, int64_t output, int64_t position) {
  const int64_t numerator = (2 * position + 1) * input - output;
  const int64_t low = numerator / (2 * output), rest = numerator % (2 * output);
  if (numerator <= 0) return {0, 0, 0.0f};
  if (low >= input - 1) return {input - 1, input - 1, 0.0f};
  const double weight = static_cast<double>(rest) / static_cast<double>(2 * output);
  return {low, low + (rest > 0), static_cast<float>(weight)};
}

struct Arguments {
  at::Tensor maps, thresholds, min_areas;  // (N, h, w), (N,), (N,); contiguous
  int64_t max_boxes, height, width;        // of the resized maps

  int64_t num_maps() const { return maps.size(0); }
  bool resize() const { return height != maps.size(1) || width != maps.size(2); }

  Boxes no_boxes() const {
    return {
        at::zeros({num_maps(), max_boxes, 4}, maps.options()),
        at::zeros({num_maps(), max_boxes}, maps.options()),
        at::zeros({num_maps()}, maps.options().dtype(at::kLong))};
  }
};

inline Arguments check_arguments(
    const at::Tensor& maps, const at::Tensor& thresholds, const at::Tensor& min_areas,
    int64_t max_boxes, at::OptionalIntArrayRef size) {
  TORCH_CHECK_VALUE(
      maps.dim() == 3 && maps.scalar_type() == at::kFloat,
      "anomaly_boxes: maps must be (N, H, W) float32, got ", maps.sizes(), ", ",
      maps.scalar_type());
  for (const at::Tensor& limits : {thresholds, min_areas}) {
    TORCH_CHECK_VALUE(
        limits.dim() == 1 && limits.size(0) == maps.size(0) && limits.device() == maps.device(),
        "anomaly_boxes: thresholds and min_areas must be (N,), N = ", maps.size(0), ", on ",
        maps.device(), ", got ", limits.sizes(), " on ", limits.device());
  }
  TORCH_CHECK_VALUE(
      thresholds.scalar_type() == at::kFloat && min_areas.scalar_type() == at::kDouble,
      "anomaly_boxes: thresholds must be float32 and min_areas float64, got ",
      thresholds.scalar_type(), " and ", min_areas.scalar_type());
  TORCH_CHECK_VALUE(
      max_boxes >= 1 && (!size || (size->size() == 2 && (*size)[0] >= 1 && (*size)[1] >= 1)),
      "anomaly_boxes: max_boxes and both sides of size must be positive");
  const int64_t height = size ? (*size)[0] : maps.size(1);
  const int64_t width = size ? (*size)[1] : maps.size(2);
  TORCH_CHECK_VALUE(
      std::max({height, width, maps.size(1), maps.size(2)}) <
          std::numeric_limits<int32_t>::max() - 1,
      "anomaly_boxes: a side of a map is over 2^31 - 3 pixels");
  return {maps.contiguous(), thresholds.contiguous(), min_areas.contiguous(),
          max_boxes,         height,                  width};
}

}  // namespace
}  // namespace agssp
