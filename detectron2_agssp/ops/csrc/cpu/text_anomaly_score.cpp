// Softmaxed similarity to a pair of texts: norm, dot product and sigmoid, one pass over the
// features of all layers.
//
// N images, L patches, D channels. With unit vectors the softmax of two is the sigmoid of their
// difference: one dot product with (anomaly - normal) does for both.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "vectorize.h"

namespace agssp {
namespace {

constexpr int64_t kLanes = 16;
// Elements a thread takes at least.
constexpr int64_t kGrain = 16384;

// The sum over `lanes`, in a fixed order.
AGSSP_INLINE float sum_lanes(const float* lanes) {
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  return sum;
}

// Adds sigmoid(<row / norm, direction> / temperature) of each row into `scores`.
template <typename T>
AGSSP_INLINE void add_scores(
    const T* features, int64_t rows, int64_t stride, int64_t channels, const float* direction,
    float temperature, float* scores) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* values = features + row * stride;
    // Two vectors each: their sums do not wait for each other.
    float dots[2][kLanes] = {}, squares[2][kLanes] = {};
    int64_t index = 0;
    for (; index + 2 * kLanes <= channels; index += 2 * kLanes) {
      for (int64_t half = 0; half < 2; ++half) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const float value = to_float(values[index + half * kLanes + lane]);
          dots[half][lane] += value * direction[index + half * kLanes + lane];
          squares[half][lane] += value * value;
        }
      }
    }
    float dot = sum_lanes(dots[0]) + sum_lanes(dots[1]);
    float square = sum_lanes(squares[0]) + sum_lanes(squares[1]);
    for (; index < channels; ++index) {
      const float value = to_float(values[index]);
      dot += value * direction[index];
      square += value * value;
    }
    const float norm = std::sqrt(square);
    // A norm that is not finite, or a text's, gives NaN; `dot` alone could be infinite.
    const float cosine = std::isfinite(norm) ? dot / std::max(norm, kShortest)
                                             : std::numeric_limits<float>::quiet_NaN();
    scores[row] += 1 / (1 + std::exp(-cosine / temperature));
  }
}

// A function per type: templates cannot be cloned.
#define AGSSP_KERNELS(T, SUFFIX)                                                             \
  AGSSP_CLONES void add_scores_##SUFFIX(                                                     \
      const T* features, int64_t rows, int64_t stride, int64_t channels,                     \
      const float* direction, float temperature, float* scores) {                            \
    add_scores<T>(features, rows, stride, channels, direction, temperature, scores);         \
  }                                                                                          \
  void run(                                                                                  \
      const T* features, int64_t rows, int64_t stride, int64_t channels,                     \
      const float* direction, float temperature, float* scores) {                            \
    add_scores_##SUFFIX(features, rows, stride, channels, direction, temperature, scores);   \
  }

AGSSP_KERNELS(float, float)
AGSSP_KERNELS(c10::BFloat16, bfloat16)
AGSSP_KERNELS(c10::Half, half)

// (anomaly - normal), both of unit length; NaN if a norm is not finite in float32.
std::vector<float> direction_of(const at::Tensor& text) {
  const at::Tensor sides = text.to(at::kFloat).contiguous();
  const int64_t channels = sides.size(1);
  const float* normal = sides.const_data_ptr<float>();
  const float* anomaly = normal + channels;
  double squares[2] = {0, 0};
  for (int64_t index = 0; index < channels; ++index) {
    squares[0] += static_cast<double>(normal[index]) * normal[index];
    squares[1] += static_cast<double>(anomaly[index]) * anomaly[index];
  }
  double scales[2];
  for (int64_t side = 0; side < 2; ++side) {
    const bool finite = squares[side] <= std::numeric_limits<float>::max();
    scales[side] = finite ? 1 / std::max<double>(std::sqrt(squares[side]), kShortest)
                          : std::numeric_limits<double>::quiet_NaN();
  }
  std::vector<float> direction(channels);
  for (int64_t index = 0; index < channels; ++index) {
    // In double: nearly equal texts lose nothing by the subtraction.
    direction[index] =
        static_cast<float>(anomaly[index] * scales[1] - normal[index] * scales[0]);
  }
  return direction;
}

template <typename T>
void add_layer(
    const at::Tensor& features, const std::vector<float>& direction, float temperature,
    float* scores) {
  const int64_t images = features.size(0), patches = features.size(1), channels = features.size(2);
  const T* input = features.const_data_ptr<T>();
  const int64_t image_stride = features.stride(0), patch_stride = features.stride(1);
  const int64_t grain = std::max<int64_t>(1, kGrain / channels);
  at::parallel_for(0, images * patches, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t image = begin / patches, patch = begin % patches;
      const int64_t rows = std::min(end - begin, patches - patch);
      run(
          input + image * image_stride + patch * patch_stride, rows, patch_stride, channels,
          direction.data(), temperature, scores + begin);
      begin += rows;
    }
  });
}

at::Tensor text_anomaly_score(
    at::TensorList layers, const at::Tensor& text, double temperature) {
  TORCH_CHECK_VALUE(!layers.empty(), "text_anomaly_score: no layers");
  const at::Tensor& first = layers[0];
  for (const at::Tensor& layer : layers) {
    TORCH_CHECK_VALUE(
        layer.dim() == 3 && layer.size(2) > 0 && layer.sizes() == first.sizes() &&
            layer.scalar_type() == first.scalar_type() && layer.device().is_cpu(),
        "text_anomaly_score: layers must be (N, L, D) of one shape and type, got ", layer.sizes(),
        " and ", first.sizes());
  }
  TORCH_CHECK_VALUE(
      text.dim() == 2 && text.size(0) == 2 && text.size(1) == first.size(2) &&
          text.device().is_cpu(),
      "text_anomaly_score: text must be (2, D), got ", text.sizes());
  at::Tensor scores =
      at::zeros({first.size(0), first.size(1)}, first.options().dtype(at::kFloat));
  if (scores.numel() == 0) {
    return scores;
  }
  const std::vector<float> direction = direction_of(text);
  float* output = scores.mutable_data_ptr<float>();
  for (const at::Tensor& any : layers) {
    // Slices of tokens stay where they are; only scattered channels are gathered first.
    const at::Tensor layer = any.stride(2) == 1 ? any : any.contiguous();
    switch (layer.scalar_type()) {
      case at::kFloat:
        add_layer<float>(layer, direction, temperature, output);
        break;
      case at::kBFloat16:
        add_layer<c10::BFloat16>(layer, direction, temperature, output);
        break;
      case at::kHalf:
        add_layer<c10::Half>(layer, direction, temperature, output);
        break;
      default:
        TORCH_CHECK_VALUE(false, "text_anomaly_score: no kernel for ", layer.scalar_type());
    }
  }
  return layers.size() > 1 ? scores.div_(static_cast<double>(layers.size())) : scores;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CPU, m) {
  m.impl("text_anomaly_score", &text_anomaly_score);
}

}  // namespace agssp
