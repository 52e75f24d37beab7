// Energy of feature maps, forward and backward, one pass each.
//
// N images, C channels, P = H * W pixels. Features are (N, C, P) or, channels last, (N, P, C).
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>

#include "vectorize.h"

namespace agssp {
namespace {

// Pixels whose sums stay in the second-level cache while the channels go by. Measured with maps of
// 160 x 160: of shorter stretches of a channel, memory is read and written at half the rate.
constexpr int64_t kPixels = 32768;
// Sums of that many stay in the first-level cache; a thread takes no fewer.
constexpr int64_t kFewestPixels = 4096;
// Channels that are added at once where the sums are more than the first-level cache holds, so that
// they are fetched less often; of short rows that is slower.
constexpr int64_t kChannels = 4;
// Elements a thread takes at least.
constexpr int64_t kGrain = 16384;

// Squares of `channels` rows of `pixels` numbers, `stride` apart, are added into `sums`.
template <typename T>
AGSSP_INLINE void add_squares(
    const T* features, int64_t channels, int64_t stride, int64_t pixels, accumulator_t<T>* sums) {
  const int64_t together = pixels > kFewestPixels ? channels - channels % kChannels : 0;
  int64_t channel = 0;
  for (; channel < together; channel += kChannels) {
    const T* rows = features + channel * stride;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      auto sum = sums[pixel];
      for (int64_t next = 0; next < kChannels; ++next) {
        const auto value = to_float(rows[next * stride + pixel]);
        sum += value * value;
      }
      sums[pixel] = sum;
    }
  }
  for (; channel < channels; ++channel) {
    const T* row = features + channel * stride;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const auto value = to_float(row[pixel]);
      sums[pixel] += value * value;
    }
  }
}

// Sixteen partial sums, which a vector holds: a single one would be added to in strict order. The
// narrow types are widened first, a piece at a time: one loop doing both is not vectorised.
template <typename T>
AGSSP_INLINE accumulator_t<T> sum_of_squares(const T* values, int64_t count) {
  constexpr int64_t kLanes = 16, kPiece = 512;
  accumulator_t<T> lanes[kLanes] = {};
  accumulator_t<T> wide[kPiece];
  accumulator_t<T> rest = 0;
  for (int64_t start = 0; start < count; start += kPiece) {
    const int64_t length = std::min(kPiece, count - start);
    const accumulator_t<T>* piece = wide;
    if constexpr (std::is_same_v<T, accumulator_t<T>>) {
      piece = values + start;
    } else {
      for (int64_t index = 0; index < length; ++index) {
        wide[index] = to_float(values[start + index]);
      }
    }
    int64_t index = 0;
    for (; index + kLanes <= length; index += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += piece[index + lane] * piece[index + lane];
      }
    }
    for (; index < length; ++index) {
      rest += piece[index] * piece[index];
    }
  }
  accumulator_t<T> sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  return sum + rest;
}

// gradient[i] = 2 * grad[i] * feature[i], for one row of pixels.
template <typename T>
AGSSP_INLINE void scale_row(
    const accumulator_t<T>* grad, const T* features, T* gradient, int64_t pixels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    gradient[pixel] = from_float<T>(2 * grad[pixel] * to_float(features[pixel]));
  }
}

template <typename T>
AGSSP_INLINE void scale_by(accumulator_t<T> grad, const T* features, T* gradient, int64_t count) {
  const auto factor = 2 * grad;
  for (int64_t index = 0; index < count; ++index) {
    gradient[index] = from_float<T>(factor * to_float(features[index]));
  }
}

// A function per type: templates cannot be cloned.
#define AGSSP_KERNELS(T, SUFFIX)                                                              \
  AGSSP_CLONES void add_squares_##SUFFIX(                                                     \
      const T* features, int64_t channels, int64_t stride, int64_t pixels,                    \
      accumulator_t<T>* sums) {                                                               \
    add_squares<T>(features, channels, stride, pixels, sums);                                 \
  }                                                                                           \
  AGSSP_CLONES void sums_of_rows_##SUFFIX(                                                    \
      const T* features, int64_t rows, int64_t channels, accumulator_t<T>* sums) {            \
    for (int64_t row = 0; row < rows; ++row) {                                                \
      sums[row] = sum_of_squares<T>(features + row * channels, channels);                     \
    }                                                                                         \
  }                                                                                           \
  AGSSP_CLONES void scale_rows_##SUFFIX(                                                      \
      const accumulator_t<T>* grad, const T* features, T* gradient, int64_t channels,         \
      int64_t stride, int64_t pixels) {                                                       \
    for (int64_t channel = 0; channel < channels; ++channel) {                                \
      scale_row<T>(grad, features + channel * stride, gradient + channel * stride, pixels);   \
    }                                                                                         \
  }                                                                                           \
  AGSSP_CLONES void scale_pixels_##SUFFIX(                                                    \
      const accumulator_t<T>* grad, const T* features, T* gradient, int64_t rows,             \
      int64_t channels) {                                                                     \
    for (int64_t row = 0; row < rows; ++row) {                                                \
      scale_by<T>(grad[row], features + row * channels, gradient + row * channels, channels); \
    }                                                                                         \
  }                                                                                           \
  [[maybe_unused]] constexpr auto add_squares_of(const T*) { return &add_squares_##SUFFIX; }  \
  [[maybe_unused]] constexpr auto sums_of_rows_of(const T*) { return &sums_of_rows_##SUFFIX; } \
  [[maybe_unused]] constexpr auto scale_rows_of(const T*) { return &scale_rows_##SUFFIX; }    \
  [[maybe_unused]] constexpr auto scale_pixels_of(const T*) { return &scale_pixels_##SUFFIX; }

AGSSP_KERNELS(float, float)
AGSSP_KERNELS(double, double)
AGSSP_KERNELS(c10::BFloat16, bfloat16)
AGSSP_KERNELS(c10::Half, half)

at::ScalarType accumulate_type(const at::Tensor& features) {
  return features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Contiguous in its own layout: which of the two, and the tensor.
bool is_channels_last(const at::Tensor& features) {
  return features.size(1) > 1 && !features.is_contiguous() &&
      features.is_contiguous(at::MemoryFormat::ChannelsLast);
}

int64_t grain_of(int64_t elements_per_item) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_item));
}

// Calls body(image, first pixel, pixels) for every tile of pixels, in parallel.
template <typename Body>
void for_each_tile(int64_t images, int64_t channels, int64_t pixels, const Body& body) {
  const int64_t share = images * pixels / at::get_num_threads();  // of a thread
  const int64_t length = std::clamp(share, kFewestPixels, kPixels);
  const int64_t tiles = (pixels + length - 1) / length;
  const int64_t grain = grain_of(channels * std::min(pixels, length));
  at::parallel_for(0, images * tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t start = item % tiles * length;
      body(item / tiles, start, std::min(length, pixels - start));
    }
  });
}

at::Tensor channel_energy(const at::Tensor& features_any) {
  const bool last = is_channels_last(features_any);
  const at::Tensor features = last ? features_any : features_any.contiguous();
  const int64_t images = features.size(0), channels = features.size(1);
  const int64_t pixels = features.size(2) * features.size(3);
  at::Tensor energy = at::empty(
      {images, 1, features.size(2), features.size(3)},
      features.options().dtype(accumulate_type(features)));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "channel_energy", [&] {
        const scalar_t* input = features.const_data_ptr<scalar_t>();
        auto* output = energy.mutable_data_ptr<accumulator_t<scalar_t>>();
        if (last) {
          const auto kernel = sums_of_rows_of(input);
          at::parallel_for(0, images * pixels, grain_of(channels), [&](int64_t begin, int64_t end) {
            kernel(input + begin * channels, end - begin, channels, output + begin);
          });
          return;
        }
        const auto kernel = add_squares_of(input);
        for_each_tile(images, channels, pixels, [&](int64_t image, int64_t start, int64_t width) {
          auto* sums = output + image * pixels + start;
          std::fill(sums, sums + width, 0);
          kernel(input + image * channels * pixels + start, channels, pixels, width, sums);
        });
      });
  return energy;
}

at::Tensor channel_energy_backward(const at::Tensor& grad_any, const at::Tensor& features_any) {
  const bool last = is_channels_last(features_any);
  const at::Tensor features = last ? features_any : features_any.contiguous();
  const at::Tensor grad = grad_any.to(accumulate_type(features)).contiguous();
  TORCH_CHECK_VALUE(
      grad.dim() == 4 && grad.size(0) == features.size(0) && grad.size(1) == 1 &&
          grad.size(2) == features.size(2) && grad.size(3) == features.size(3),
      "channel_energy_backward: grad must be (N, 1, H, W) of the features, got ", grad.sizes(),
      " and ", features.sizes());
  const int64_t images = features.size(0), channels = features.size(1);
  const int64_t pixels = features.size(2) * features.size(3);
  at::Tensor gradient = at::empty_like(features);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "channel_energy_backward", [&] {
        const scalar_t* input = features.const_data_ptr<scalar_t>();
        const auto* weights = grad.const_data_ptr<accumulator_t<scalar_t>>();
        scalar_t* output = gradient.mutable_data_ptr<scalar_t>();
        if (last) {
          const auto kernel = scale_pixels_of(input);
          at::parallel_for(0, images * pixels, grain_of(channels), [&](int64_t begin, int64_t end) {
            kernel(
                weights + begin, input + begin * channels, output + begin * channels, end - begin,
                channels);
          });
          return;
        }
        const auto kernel = scale_rows_of(input);
        for_each_tile(images, channels, pixels, [&](int64_t image, int64_t start, int64_t width) {
          const int64_t offset = image * channels * pixels + start;
          kernel(
              weights + image * pixels + start, input + offset, output + offset, channels, pixels,
              width);
        });
      });
  return gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CPU, m) {
  m.impl("channel_energy", &channel_energy);
  m.impl("channel_energy_backward", &channel_energy_backward);
}

}  // namespace agssp
