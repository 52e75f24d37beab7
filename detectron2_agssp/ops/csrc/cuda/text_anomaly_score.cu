// Softmaxed similarity to a pair of texts on CUDA: norm, dot product and sigmoid, one pass over the
// features of all layers.
//
// N images, L patches, D channels. With unit vectors the softmax of two is the sigmoid of their
// difference: one dot product with (anomaly - normal) does for both.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "common.cuh"

namespace agssp {
namespace {

// Layers that one launch takes, their pointers being kernel arguments; more add to the result.
constexpr int kLayers = 4;
constexpr int kWarps = 8;

template <typename T>
struct Layers {
  const T* features[kLayers];
  int64_t image_strides[kLayers];
  int64_t patch_strides[kLayers];
};

// direction (D) = unit anomaly - unit normal, by one warp; NaN if a norm is not finite in float32.
__global__ void direction_of(
    const float* __restrict__ text, int64_t channels, float* __restrict__ direction) {
  double normal = 0, anomaly = 0;
  for (int64_t channel = threadIdx.x; channel < channels; channel += kWarp) {
    const double a = text[channel], b = text[channels + channel];
    normal += a * a;
    anomaly += b * b;
  }
  normal = warp_sum(normal);
  anomaly = warp_sum(anomaly);
  constexpr double kLargest = 3.4028234663852886e38;
  // A comparison with NaN is false as well.
  const bool finite = normal <= kLargest && anomaly <= kLargest;
  const double first = finite ? 1 / fmax(sqrt(normal), static_cast<double>(kShortest)) : nan("");
  const double second = finite ? 1 / fmax(sqrt(anomaly), static_cast<double>(kShortest)) : nan("");
  for (int64_t channel = threadIdx.x; channel < channels; channel += kWarp) {
    direction[channel] = static_cast<float>(text[channels + channel] * second - text[channel] * first);
  }
}

// A warp takes a patch, in all layers: the direction is read once for them.
template <typename T, int V>
__global__ void score(
    const Layers<T> layers, int count, const float* __restrict__ direction, int64_t images,
    int64_t patches, int64_t channels, float temperature, float weight, bool add,
    float* __restrict__ scores) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
       row < images * patches; row += step) {
    const int64_t image = row / patches, patch = row % patches;
    float dots[kLayers] = {}, squares[kLayers] = {};
#pragma unroll 2
    for (int64_t channel = threadIdx.x * V; channel < channels; channel += kWarp * V) {
      float towards[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        towards[i] = direction[channel + i];
      }
#pragma unroll
      for (int layer = 0; layer < kLayers; ++layer) {
        if (layer < count) {
          const T* values = layers.features[layer] + image * layers.image_strides[layer] +
              patch * layers.patch_strides[layer];
          const Pack<T, V> pack = load<T, V>(values + channel);
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const float value = static_cast<float>(pack.values[i]);
            dots[layer] += value * towards[i];
            squares[layer] += value * value;
          }
        }
      }
    }
    float sum = 0;
#pragma unroll
    for (int layer = 0; layer < kLayers; ++layer) {
      if (layer < count) {
        const float dot = warp_sum(dots[layer]);
        const float norm = sqrtf(warp_sum(squares[layer]));
        const float cosine = isfinite(norm) ? dot / fmaxf(norm, kShortest) : nanf("");
        sum += 1 / (1 + expf(-cosine / temperature));
      }
    }
    if (threadIdx.x == 0) {
      scores[row] = (add ? scores[row] : 0) + weight * sum;
    }
  }
}

template <typename T>
void run(
    const std::vector<at::Tensor>& layers, const at::Tensor& direction, float temperature,
    at::Tensor& scores) {
  const int64_t images = scores.size(0), patches = scores.size(1), channels = direction.size(0);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const unsigned blocks = blocks_for(ceil_div(images * patches, kWarps));
  for (size_t start = 0; start < layers.size(); start += kLayers) {
    const int count = static_cast<int>(std::min<size_t>(kLayers, layers.size() - start));
    Layers<T> taken = {};
    bool wide = channels % kWide<T> == 0;
    for (int layer = 0; layer < count; ++layer) {
      const at::Tensor& one = layers[start + layer];
      taken.features[layer] = one.const_data_ptr<T>();
      taken.image_strides[layer] = one.stride(0);
      taken.patch_strides[layer] = one.stride(1);
      wide = wide && is_aligned(taken.features[layer]) && one.stride(0) % kWide<T> == 0 &&
          one.stride(1) % kWide<T> == 0;
    }
    const auto kernel = wide ? &score<T, kWide<T>> : &score<T, 1>;
    kernel<<<blocks, dim3(kWarp, kWarps), 0, stream>>>(
        taken, count, direction.const_data_ptr<float>(), images, patches, channels, temperature,
        1.f / static_cast<float>(layers.size()), start > 0, scores.mutable_data_ptr<float>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

at::Tensor text_anomaly_score(
    at::TensorList layers_any, const at::Tensor& text_any, double temperature) {
  TORCH_CHECK_VALUE(!layers_any.empty(), "text_anomaly_score: no layers");
  const at::Tensor& first = layers_any[0];
  std::vector<at::Tensor> layers;
  const c10::cuda::CUDAGuard guard(first.device());
  for (const at::Tensor& layer : layers_any) {
    TORCH_CHECK_VALUE(
        layer.dim() == 3 && layer.size(2) > 0 && layer.sizes() == first.sizes() &&
            layer.scalar_type() == first.scalar_type() && layer.device() == first.device(),
        "text_anomaly_score: layers must be (N, L, D) of one shape and type, got ", layer.sizes(),
        " and ", first.sizes());
    // Slices of tokens stay where they are; only scattered channels are gathered first.
    layers.push_back(layer.stride(2) == 1 ? layer : layer.contiguous());
  }
  TORCH_CHECK_VALUE(
      text_any.dim() == 2 && text_any.size(0) == 2 && text_any.size(1) == first.size(2) &&
          text_any.device() == first.device(),
      "text_anomaly_score: text must be (2, D), got ", text_any.sizes());
  at::Tensor scores =
      at::empty({first.size(0), first.size(1)}, first.options().dtype(at::kFloat));
  if (scores.numel() == 0) {
    return scores;
  }
  const at::Tensor text = text_any.to(at::kFloat).contiguous();
  at::Tensor direction = at::empty({text.size(1)}, text.options());
  direction_of<<<1, kWarp, 0, c10::cuda::getCurrentCUDAStream()>>>(
      text.const_data_ptr<float>(), text.size(1), direction.mutable_data_ptr<float>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  switch (first.scalar_type()) {
    case at::kFloat:
      run<float>(layers, direction, static_cast<float>(temperature), scores);
      break;
    case at::kBFloat16:
      run<c10::BFloat16>(layers, direction, static_cast<float>(temperature), scores);
      break;
    case at::kHalf:
      run<c10::Half>(layers, direction, static_cast<float>(temperature), scores);
      break;
    default:
      TORCH_CHECK_VALUE(false, "text_anomaly_score: no kernel for ", first.scalar_type());
  }
  return scores;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CUDA, m) {
  m.impl("text_anomaly_score", &text_anomaly_score);
}

}  // namespace agssp
