// Boxes of anomaly maps on CUDA, all on the device: nothing waits for the host, and the result is
// the same whatever the order of the threads.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "../anomaly_boxes.h"
#include "components.cuh"

namespace agssp {
namespace {

// Pixels whose maximum is kept, for large boxes: a segment wide, so many rows high.
constexpr int kTileRows = 32;

__host__ __device__ inline int64_t tile_rows(const Shape& shape) {
  return (shape.height + kTileRows - 1) / kTileRows;
}

__device__ inline float max_of_warp(float value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;  // fmaxf takes the other of a NaN
}

// Rounds each operation by itself: no fused multiply-add.
__device__ inline float mix(float low, float high, float weight) {
  return __fadd_rn(low, __fmul_rn(weight, __fsub_rn(high, low)));
}

// Resizes, thresholds, takes the tiles' maxima, and makes each run of background in a segment one;
// what touches the border at once is outside, but for the right one.
template <bool kResize>
__global__ void threshold_maps(
    Shape input_shape, const float* input, const float* thresholds, Shape shape, float* resized,
    uint8_t* masks, float* tile_maxima, int32_t* outside) {
  const int lane = threadIdx.x % kWarp;
  const int64_t tiles_of_map = tile_rows(shape) * shape.segments();
  for (int64_t tile = first_warp(); tile < shape.maps * tiles_of_map; tile += num_warps()) {
    const int64_t map = tile / tiles_of_map, row = tile % tiles_of_map / shape.segments();
    const int64_t x = tile % shape.segments() * kWarp + lane;
    const bool inside = x < shape.width;
    const float threshold = thresholds[map];
    const float* pixels = input + map * input_shape.pixels();
    int32_t* parents = outside + map * (shape.pixels() + 1);
    Taps columns{0, 0, 0};
    if (kResize && inside) columns = taps_of(input_shape.width, shape.width, x);
    float best = -INFINITY;
    const int64_t end = min((row + 1) * kTileRows, static_cast<int64_t>(shape.height));
    for (int64_t y = row * kTileRows; y < end; ++y) {
      const int64_t pixel = y * shape.width + x;
      float value = NAN;
      if (inside) {
        if constexpr (kResize) {
          const Taps rows = taps_of(input_shape.height, shape.height, y);
          const float* above = pixels + rows.low * input_shape.width;
          const float* below = pixels + rows.high * input_shape.width;
          value = mix(
              mix(above[columns.low], above[columns.high], columns.weight),
              mix(below[columns.low], below[columns.high], columns.weight), rows.weight);
          resized[map * shape.pixels() + pixel] = value;
        } else {
          value = pixels[pixel];
        }
        masks[map * shape.pixels() + pixel] = value > threshold;
        best = fmaxf(best, value);
      }
      const bool gap = inside && !(value > threshold);
      const unsigned lanes = __ballot_sync(kAllLanes, gap);
      if (gap) {
        const int64_t start = x - lane + run_start(lanes, lane);
        const bool at_border = y == 0 || y == shape.height - 1 || start == 0;
        parents[pixel + 1] =
            at_border ? 0 : static_cast<int32_t>(y * shape.width + start + 1);
      }
    }
    best = max_of_warp(best);
    if (lane == 0) {
      tile_maxima[tile] = best;
      if (tile % tiles_of_map == 0) parents[0] = 0;
    }
  }
}

// Those that are large enough.
__global__ void keep_large(
    Shape shape, const double* min_areas, const Component* components,
    const int32_t* num_components, int32_t* kept, int32_t* num_kept) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t map = blockIdx.y; map < shape.maps; map += gridDim.y) {
    const int64_t first = map * shape.max_components();
    for (int64_t slot = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
         slot < num_components[map]; slot += stride) {
      if (0.5 * components[first + slot].area >= min_areas[map]) {
        kept[first + atomicAdd(num_kept + map, 1)] = static_cast<int32_t>(slot);
      }
    }
  }
}

// A block a component: the maximum in its box, from tiles where they lie inside.
__global__ void score_components(
    Shape shape, const float* maps, const float* tile_maxima, const int32_t* kept,
    const int32_t* num_kept, Component* components) {
  __shared__ float of_warps[kBlock / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int64_t map = blockIdx.y; map < shape.maps; map += gridDim.y) {
    const float* pixels = maps + map * shape.pixels();
    const float* maxima = tile_maxima + map * tile_rows(shape) * shape.segments();
    const int64_t first = map * shape.max_components();
    for (int64_t rank = blockIdx.x; rank < num_kept[map]; rank += gridDim.x) {
      Component& box = components[first + kept[first + rank]];
      const int32_t x0 = box.x0, y0 = box.root / shape.width, x1 = box.x1, y1 = box.y1;
      const int32_t left = x0 / kWarp, top = y0 / kTileRows;
      const int64_t across = (x1 - 1) / kWarp - left + 1, down = (y1 - 1) / kTileRows - top + 1;
      float best = -INFINITY;
      for (int64_t index = warp; index < across * down; index += kBlock / kWarp) {
        const int64_t column = left + index % across, row = top + index / across;
        const int64_t x = column * kWarp, y = row * kTileRows;
        const int64_t x_end = min(x + kWarp, static_cast<int64_t>(shape.width));
        const int64_t y_end = min(y + kTileRows, static_cast<int64_t>(shape.height));
        if (x >= x0 && x_end <= x1 && y >= y0 && y_end <= y1) {
          best = fmaxf(best, maxima[row * shape.segments() + column]);
        } else if (x + lane >= x0 && x + lane < x1) {
          const int64_t last = min(y_end, static_cast<int64_t>(y1));
          for (int64_t at = max(y, static_cast<int64_t>(y0)); at < last; ++at) {
            best = fmaxf(best, pixels[at * shape.width + x + lane]);
          }
        }
      }
      best = max_of_warp(best);
      if (lane == 0) of_warps[warp] = best;
      __syncthreads();
      if (warp == 0) {
        best = max_of_warp(lane < kBlock / kWarp ? of_warps[lane] : -INFINITY);
        if (lane == 0) box.score = best + 0.0f;  // -0 becomes 0
      }
      __syncthreads();
    }
  }
}

// Falling score, then top to bottom and left to right; the root at last, which no two share.
__device__ bool is_better(const Component& a, const Component& b, int32_t width) {
  if (a.score != b.score) return a.score > b.score;
  const int32_t a_top = a.root / width, b_top = b.root / width;
  if (a_top != b_top) return a_top < b_top;
  if (a.x0 != b.x0) return a.x0 < b.x0;
  if (a.y1 != b.y1) return a.y1 < b.y1;
  if (a.x1 != b.x1) return a.x1 < b.x1;
  return a.root < b.root;
}

// A block a map: a bitonic sort whose every exchange puts the better one first, so that what is
// missing to a power of two may be thought of as worst; then the best are written.
__global__ void write_best(
    Shape shape, const Component* all_components, int32_t* all_kept, const int32_t* num_kept,
    int64_t max_boxes, float* boxes, float* scores, int64_t* counts) {
  for (int64_t map = blockIdx.x; map < shape.maps; map += gridDim.x) {
    const Component* components = all_components + map * shape.max_components();
    int32_t* kept = all_kept + map * shape.max_components();
    const int64_t count = num_kept[map];
    const auto exchange = [&](int64_t flip) {
      for (int64_t index = threadIdx.x; index < count; index += blockDim.x) {
        const int64_t other = index ^ flip;
        if (other <= index || other >= count) continue;
        const int32_t a = kept[index], b = kept[other];
        if (is_better(components[b], components[a], shape.width)) {
          kept[index] = b;
          kept[other] = a;
        }
      }
      __syncthreads();
    };
    for (int64_t size = 2; size / 2 < count; size *= 2) {
      exchange(size - 1);
      for (int64_t distance = size / 4; distance > 0; distance /= 2) exchange(distance);
    }
    const int64_t written = min(count, max_boxes);
    for (int64_t rank = threadIdx.x; rank < written; rank += blockDim.x) {
      const Component& best = components[kept[rank]];
      float* box = boxes + 4 * (map * max_boxes + rank);
      box[0] = static_cast<float>(best.x0);
      box[1] = static_cast<float>(best.root / shape.width);
      box[2] = static_cast<float>(best.x1);
      box[3] = static_cast<float>(best.y1);
      scores[map * max_boxes + rank] = best.score;
    }
    if (threadIdx.x == 0) counts[map] = written;
  }
}

// Blocks for so many warps of work; the kernels go round where that is more.
unsigned blocks_for(int64_t warps) {
  const int64_t blocks = (warps + kBlock / kWarp - 1) / (kBlock / kWarp);
  return static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 20));
}

Boxes anomaly_boxes(
    const at::Tensor& maps, const at::Tensor& thresholds, const at::Tensor& min_areas,
    int64_t max_boxes, at::OptionalIntArrayRef size) {
  const Arguments given = check_arguments(maps, thresholds, min_areas, max_boxes, size);
  const c10::cuda::CUDAGuard guard(maps.device());
  Boxes result = given.no_boxes();
  if (maps.numel() == 0) return result;
  const auto shape_of = [&](int64_t height, int64_t width) {
    return Shape{given.num_maps(), static_cast<int32_t>(height), static_cast<int32_t>(width)};
  };
  const Shape input_shape = shape_of(maps.size(1), maps.size(2));
  const Shape shape = shape_of(given.height, given.width);
  TORCH_CHECK_VALUE(
      shape.pixels() < std::numeric_limits<int32_t>::max() - 1,
      "anomaly_boxes: on CUDA a map may have 2^31 - 3 pixels, got ", given.height, " x ",
      given.width);
  const int64_t num_maps = shape.maps, pixels = num_maps * shape.pixels();
  const auto options = maps.options();
  const auto numbers = [&](int64_t count) { return at::empty({count}, options.dtype(at::kInt)); };
  const at::Tensor resized = given.resize() ? at::empty({pixels}, options) : given.maps;
  const at::Tensor masks = at::empty({pixels}, options.dtype(at::kByte));
  const at::Tensor tiles = at::empty({num_maps * tile_rows(shape) * shape.segments()}, options);
  const at::Tensor outside = numbers(pixels + num_maps), labels = numbers(pixels);
  const at::Tensor kept = numbers(num_maps * shape.max_components());
  const at::Tensor memory = at::empty(
      {num_maps * shape.max_components() * static_cast<int64_t>(sizeof(Component))},
      options.dtype(at::kByte));
  const at::Tensor counters = at::zeros({2 * num_maps}, options.dtype(at::kInt));

  const float* input = given.maps.const_data_ptr<float>();
  const float* full = resized.const_data_ptr<float>();
  uint8_t* mask = masks.mutable_data_ptr<uint8_t>();
  float* tile = tiles.mutable_data_ptr<float>();
  int32_t* outer = outside.mutable_data_ptr<int32_t>();
  int32_t* label = labels.mutable_data_ptr<int32_t>();
  int32_t* keep = kept.mutable_data_ptr<int32_t>();
  int32_t* num_components = counters.mutable_data_ptr<int32_t>();
  int32_t* num_kept = num_components + num_maps;
  auto* components = reinterpret_cast<Component*>(memory.mutable_data_ptr<uint8_t>());

  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const unsigned tile_blocks = blocks_for(tiles.numel());
  const unsigned blocks = blocks_for(num_maps * shape.height * shape.segments());
  if (given.resize()) {
    threshold_maps<true><<<tile_blocks, kBlock, 0, stream>>>(
        input_shape, input, given.thresholds.const_data_ptr<float>(), shape,
        resized.mutable_data_ptr<float>(), mask, tile, outer);
  } else {
    threshold_maps<false><<<tile_blocks, kBlock, 0, stream>>>(
        input_shape, input, given.thresholds.const_data_ptr<float>(), shape, nullptr, mask, tile,
        outer);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  unite_gaps<<<blocks, kBlock, 0, stream>>>(shape, mask, outer);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  fill_holes<<<blocks, kBlock, 0, stream>>>(shape, mask, outer, label);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  unite_pixels<<<blocks, kBlock, 0, stream>>>(shape, mask, label);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  // Nobody asks any more what is outside.
  int32_t* slots = outer;
  list_components<<<blocks, kBlock, 0, stream>>>(
      shape, mask, label, slots, components, num_components);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  measure_components<<<blocks, kBlock, 0, stream>>>(shape, mask, label, slots, components);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  // How many components there are the host does not know: enough blocks for a GPU.
  const int64_t rows = std::min<int64_t>(num_maps, 65535);
  const dim3 grid(static_cast<unsigned>(std::clamp<int64_t>(4096 / rows, 8, 1024)),
                  static_cast<unsigned>(rows));
  keep_large<<<grid, kBlock, 0, stream>>>(
      shape, given.min_areas.const_data_ptr<double>(), components, num_components, keep,
      num_kept);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  score_components<<<grid, kBlock, 0, stream>>>(shape, full, tile, keep, num_kept, components);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  write_best<<<static_cast<unsigned>(std::min<int64_t>(num_maps, 1 << 20)), 1024, 0, stream>>>(
      shape, components, keep, num_kept, max_boxes, std::get<0>(result).mutable_data_ptr<float>(),
      std::get<1>(result).mutable_data_ptr<float>(),
      std::get<2>(result).mutable_data_ptr<int64_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CUDA, m) {
  m.impl("anomaly_boxes", &anomaly_boxes);
}

}  // namespace agssp
