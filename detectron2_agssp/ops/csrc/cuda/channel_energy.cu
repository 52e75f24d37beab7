// Energy of feature maps on CUDA, forward and backward, one pass each.
//
// N images, C channels, P = H * W pixels. Features are (N, C, P) or, channels last, (N, P, C).
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "common.cuh"

namespace agssp {
namespace {

// Threads of a block along the pixels, and at most along the channels.
constexpr int kAcross = 32;
constexpr int kDown = 32;
// Channels that a block of the backward pass takes.
constexpr int64_t kChannels = 64;
constexpr int kWarps = 8;

// A block sums kAcross * V pixels of an image: its rows of threads take the channels in turn.
template <typename T, int V>
__global__ void energy_of_planes(
    const T* __restrict__ features, accumulator_t<T>* __restrict__ energy, int64_t images,
    int64_t channels, int64_t pixels) {
  using A = accumulator_t<T>;
  __shared__ A partial[kDown][kAcross * V + 1];
  const int64_t tiles = (pixels + kAcross * V - 1) / (kAcross * V);
  for (int64_t item = blockIdx.x; item < images * tiles; item += gridDim.x) {
    const int64_t image = item / tiles;
    const int64_t pixel = (item % tiles * kAcross + threadIdx.x) * V;
    A sums[V] = {};
    if (pixel < pixels) {
      const T* column = features + image * channels * pixels + pixel;
#pragma unroll 4
      for (int64_t channel = threadIdx.y; channel < channels; channel += blockDim.y) {
        const Pack<T, V> pack = load<T, V>(column + channel * pixels);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const A value = static_cast<A>(pack.values[i]);
          sums[i] += value * value;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      partial[threadIdx.y][threadIdx.x * V + i] = sums[i];
    }
    __syncthreads();
    // All threads, not the first row alone, finish the sums.
    const int thread = threadIdx.y * kAcross + threadIdx.x;
    for (int place = thread; place < kAcross * V; place += blockDim.y * kAcross) {
      const int64_t target = item % tiles * kAcross * V + place;
      A sum = 0;
      for (int row = 0; row < static_cast<int>(blockDim.y); ++row) {
        sum += partial[row][place];
      }
      if (target < pixels) {
        energy[image * pixels + target] = sum;
      }
    }
    __syncthreads();  // before the next item overwrites `partial`
  }
}

// A warp sums the channels of a pixel.
template <typename T, int V>
__global__ void energy_of_rows(
    const T* __restrict__ features, accumulator_t<T>* __restrict__ energy, int64_t rows,
    int64_t channels) {
  using A = accumulator_t<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; row < rows;
       row += step) {
    const T* values = features + row * channels;
    A sum = 0;
#pragma unroll 4
    for (int64_t channel = threadIdx.x * V; channel < channels; channel += kWarp * V) {
      const Pack<T, V> pack = load<T, V>(values + channel);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const A value = static_cast<A>(pack.values[i]);
        sum += value * value;
      }
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0) {
      energy[row] = sum;
    }
  }
}

// gradient = 2 * grad * features. A thread keeps its pixels' grad while kChannels channels go by.
template <typename T, int V>
__global__ void gradient_of_planes(
    const accumulator_t<T>* __restrict__ grad, const T* __restrict__ features,
    T* __restrict__ gradient, int64_t images, int64_t channels, int64_t pixels) {
  using A = accumulator_t<T>;
  const int64_t tiles = (pixels + kAcross * V - 1) / (kAcross * V);
  const int64_t parts = (channels + kChannels - 1) / kChannels;
  for (int64_t item = blockIdx.x; item < images * parts * tiles; item += gridDim.x) {
    const int64_t pixel = (item % tiles * kAcross + threadIdx.x) * V;
    const int64_t part = item / tiles % parts, image = item / tiles / parts;
    if (pixel >= pixels) {
      continue;
    }
    A factors[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      factors[i] = 2 * grad[image * pixels + pixel + i];
    }
    const int64_t end = min((part + 1) * kChannels, channels);
#pragma unroll 4
    for (int64_t channel = part * kChannels + threadIdx.y; channel < end; channel += blockDim.y) {
      const int64_t place = (image * channels + channel) * pixels + pixel;
      Pack<T, V> pack = load<T, V>(features + place);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        pack.values[i] = static_cast<T>(factors[i] * static_cast<A>(pack.values[i]));
      }
      store<T, V>(gradient + place, pack);
    }
  }
}

template <typename T, int V>
__global__ void gradient_of_rows(
    const accumulator_t<T>* __restrict__ grad, const T* __restrict__ features,
    T* __restrict__ gradient, int64_t rows, int64_t channels) {
  using A = accumulator_t<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; row < rows;
       row += step) {
    const A factor = 2 * grad[row];
#pragma unroll 4
    for (int64_t channel = threadIdx.x * V; channel < channels; channel += kWarp * V) {
      Pack<T, V> pack = load<T, V>(features + row * channels + channel);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        pack.values[i] = static_cast<T>(factor * static_cast<A>(pack.values[i]));
      }
      store<T, V>(gradient + row * channels + channel, pack);
    }
  }
}

// Few pixels need many threads along the channels to fill the device.
dim3 block_of(int64_t items) { return dim3(kAcross, items >= 1024 ? kDown / 4 : kDown); }

at::ScalarType accumulate_type(const at::Tensor& features) {
  return features.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

bool is_channels_last(const at::Tensor& features) {
  return features.size(1) > 1 && !features.is_contiguous() &&
      features.is_contiguous(at::MemoryFormat::ChannelsLast);
}

template <typename T, int V>
void launch_forward(
    const T* input, accumulator_t<T>* output, int64_t images, int64_t channels, int64_t pixels,
    bool last) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  if (last) {
    const int64_t rows = images * pixels;
    energy_of_rows<T, V><<<blocks_for(ceil_div(rows, kWarps)), dim3(kWarp, kWarps), 0, stream>>>(
        input, output, rows, channels);
  } else {
    const int64_t items = images * ceil_div(pixels, kAcross * V);
    energy_of_planes<T, V><<<blocks_for(items), block_of(items), 0, stream>>>(
        input, output, images, channels, pixels);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int V>
void launch_backward(
    const accumulator_t<T>* grad, const T* input, T* output, int64_t images, int64_t channels,
    int64_t pixels, bool last) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  if (last) {
    const int64_t rows = images * pixels;
    gradient_of_rows<T, V><<<blocks_for(ceil_div(rows, kWarps)), dim3(kWarp, kWarps), 0, stream>>>(
        grad, input, output, rows, channels);
  } else {
    const int64_t parts = ceil_div(channels, kChannels);
    const int64_t items = images * parts * ceil_div(pixels, kAcross * V);
    gradient_of_planes<T, V><<<blocks_for(items), dim3(kAcross, kDown / 4), 0, stream>>>(
        grad, input, output, images, channels, pixels);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor channel_energy(const at::Tensor& features_any) {
  TORCH_CHECK_VALUE(
      features_any.dim() == 4, "channel_energy: features must be (N, C, H, W), got ",
      features_any.sizes());
  const c10::cuda::CUDAGuard guard(features_any.device());
  const bool last = is_channels_last(features_any);
  const at::Tensor features = last ? features_any : features_any.contiguous();
  const int64_t images = features.size(0), channels = features.size(1);
  const int64_t pixels = features.size(2) * features.size(3);
  at::Tensor energy = at::empty(
      {images, 1, features.size(2), features.size(3)},
      features.options().dtype(accumulate_type(features)));
  if (energy.numel() == 0) {
    return energy;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "channel_energy", [&] {
        constexpr int kV = kWide<scalar_t>;
        const scalar_t* input = features.const_data_ptr<scalar_t>();
        auto* output = energy.mutable_data_ptr<accumulator_t<scalar_t>>();
        const bool wide = is_aligned(input) && (last ? channels : pixels) % kV == 0;
        const auto launch = wide ? &launch_forward<scalar_t, kV> : &launch_forward<scalar_t, 1>;
        launch(input, output, images, channels, pixels, last);
      });
  return energy;
}

at::Tensor channel_energy_backward(const at::Tensor& grad_any, const at::Tensor& features_any) {
  TORCH_CHECK_VALUE(
      features_any.dim() == 4 && grad_any.dim() == 4 && grad_any.size(0) == features_any.size(0) &&
          grad_any.size(1) == 1 && grad_any.size(2) == features_any.size(2) &&
          grad_any.size(3) == features_any.size(3) && grad_any.device() == features_any.device(),
      "channel_energy_backward: grad must be (N, 1, H, W) of the features, got ", grad_any.sizes(),
      " and ", features_any.sizes());
  const c10::cuda::CUDAGuard guard(features_any.device());
  const bool last = is_channels_last(features_any);
  const at::Tensor features = last ? features_any : features_any.contiguous();
  const at::Tensor grad = grad_any.to(accumulate_type(features)).contiguous();
  const int64_t images = features.size(0), channels = features.size(1);
  const int64_t pixels = features.size(2) * features.size(3);
  at::Tensor gradient = at::empty_like(features);
  if (gradient.numel() == 0) {
    return gradient;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, features.scalar_type(), "channel_energy_backward", [&] {
        constexpr int kV = kWide<scalar_t>;
        const scalar_t* input = features.const_data_ptr<scalar_t>();
        const auto* weights = grad.const_data_ptr<accumulator_t<scalar_t>>();
        scalar_t* output = gradient.mutable_data_ptr<scalar_t>();
        const bool wide = is_aligned(input) && is_aligned(output) &&
            (last ? channels : pixels) % kV == 0;
        const auto launch = wide ? &launch_backward<scalar_t, kV> : &launch_backward<scalar_t, 1>;
        launch(weights, input, output, images, channels, pixels, last);
      });
  return gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CUDA, m) {
  m.impl("channel_energy", &channel_energy);
  m.impl("channel_energy_backward", &channel_energy_backward);
}

}  // namespace agssp
