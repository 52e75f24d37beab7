// Nearest neighbour by cosine on CUDA: tiles of the memory are normalised, multiplied with tiles of
// the queries through cuBLAS, and folded into a running maximum while they are in the L2 cache.
//
// The tile sizes are reckoned from the size of L2, not measured.
//
// Q queries, M rows of memory, D channels. Dividing by a query's norm does not change its winner, so
// that is done once, at the end.
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>
#include <torch/version.h>

#include <limits>
#include <tuple>

#include "common.cuh"

// cuBLAS gives float32 products of bfloat16, which at::mm offers from this version on. Rounded to
// bfloat16 they could miss the winner by 4e-3: before, the exact search is all there is.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 8)
#define AGSSP_WIDE_PRODUCTS 1
#else
#define AGSSP_WIDE_PRODUCTS 0
#endif

namespace agssp {
namespace {

// Products are at most kQueries x kRows float32, 32 MiB, however large the memory is.
constexpr int64_t kQueries = 4096;
constexpr int64_t kRows = 2048;
// With fewer channels the roundings of bfloat16 do not average out below 2e-3.
constexpr int64_t kFewestNarrow = 128;
constexpr int kWarps = 8;

template <typename T>
__device__ __forceinline__ float squares_of(const T* row, int64_t channels) {
  float sum = 0;
#pragma unroll 4
  for (int64_t channel = threadIdx.x; channel < channels; channel += kWarp) {
    const float value = static_cast<float>(row[channel]);
    sum += value * value;
  }
  return warp_sum(sum);
}

// unit (rows, D) = memory / norm, a warp to a row; *finite becomes false where a norm is not.
template <typename T, typename Unit>
__global__ void normalise(
    const T* __restrict__ memory, int64_t rows, int64_t channels, Unit* __restrict__ unit,
    bool* __restrict__ finite) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows) {
    return;
  }
  const T* values = memory + row * channels;
  const float norm = sqrtf(squares_of(values, channels));
  if (!isfinite(norm) && threadIdx.x == 0) {
    *finite = false;  // all who write write the same
  }
  const float scale = 1 / fmaxf(norm, kShortest);
  for (int64_t channel = threadIdx.x; channel < channels; channel += kWarp) {
    unit[row * channels + channel] =
        static_cast<Unit>(static_cast<float>(values[channel]) * scale);
  }
}

// Folds products (rows, columns) into each row's best and its index, a warp to a row; of equal ones
// the lowest index stays, and NaN never wins.
__global__ void fold(
    const float* __restrict__ products, int64_t rows, int columns, int64_t offset,
    float* __restrict__ best, int64_t* __restrict__ winner) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows) {
    return;
  }
  const float* values = products + row * columns;
  float top = -INFINITY;
  int place = columns;
#pragma unroll 4
  for (int column = threadIdx.x; column < columns; column += kWarp) {
    const float value = values[column];
    if (value > top) {
      top = value;
      place = column;
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, top, step);
    const int other_place = __shfl_xor_sync(kAllLanes, place, step);
    if (other > top || (other == top && other_place < place)) {
      top = other;
      place = other_place;
    }
  }
  if (threadIdx.x == 0 && top > best[row]) {
    best[row] = top;
    winner[row] = offset + place;
  }
}

// best becomes the distance, a warp to a query. With `exact` the winner's product is computed anew.
template <typename T>
__global__ void finish(
    const float* __restrict__ queries, const T* __restrict__ memory, int64_t count,
    int64_t channels, bool exact, const bool* __restrict__ finite,
    const int64_t* __restrict__ winner, float* __restrict__ best) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; item < count;
       item += step) {
    const float* query = queries + item * channels;
    const float norm = sqrtf(squares_of(query, channels));
    float product = best[item];
    if (exact) {
      const T* row = memory + winner[item] * channels;
      float sum = 0;
      for (int64_t channel = threadIdx.x; channel < channels; channel += kWarp) {
        sum += query[channel] * static_cast<float>(row[channel]);
      }
      product = warp_sum(sum) / fmaxf(sqrtf(squares_of(row, channels)), kShortest);
    }
    if (threadIdx.x == 0) {
      const float distance = fminf(fmaxf(1 - product / fmaxf(norm, kShortest), 0.f), 2.f);
      best[item] = *finite && isfinite(norm) ? distance : nanf("");
    }
  }
}

template <typename T, typename Unit>
void search(
    const at::Tensor& queries, const at::Tensor& memory, at::Tensor& best, at::Tensor& winner,
    at::Tensor& finite) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t count = queries.size(0), channels = queries.size(1), size = memory.size(0);
  const int64_t rows = std::min(kRows, size);
  const at::Tensor unit = at::empty({rows, channels}, queries.options());
  const at::Tensor work = at::empty({std::min(kQueries, count) * rows}, best.options());
  const dim3 threads(kWarp, kWarps);
  for (int64_t next = 0; next < size; next += kRows) {
    // All tiles of one size, the last one overlapping: a product of another shape may round
    // otherwise, and of equally near rows the lowest would not be the first found.
    const int64_t start = std::min(next, size - rows);
    normalise<T, Unit><<<static_cast<unsigned>(ceil_div(rows, kWarps)), threads, 0, stream>>>(
        memory.const_data_ptr<T>() + start * channels, rows, channels,
        unit.mutable_data_ptr<Unit>(), finite.mutable_data_ptr<bool>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    const at::Tensor tile = unit.t();
    for (int64_t first = 0; first < count; first += kQueries) {
      const int64_t taken = std::min(kQueries, count - first);
      at::Tensor products = work.narrow(0, 0, taken * rows).view({taken, rows});
      const at::Tensor part = queries.narrow(0, first, taken);
      if constexpr (std::is_same_v<Unit, float>) {
        at::mm_out(products, part, tile);
      } else {
#if AGSSP_WIDE_PRODUCTS
        at::mm_out(products, part, tile, at::kFloat);
#endif
      }
      fold<<<static_cast<unsigned>(ceil_div(taken, kWarps)), threads, 0, stream>>>(
          products.const_data_ptr<float>(), taken, static_cast<int>(rows), start,
          best.mutable_data_ptr<float>() + first, winner.mutable_data_ptr<int64_t>() + first);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> min_cosine_distance(
    const at::Tensor& queries_any, const at::Tensor& memory_any, bool high) {
  TORCH_CHECK_VALUE(
      queries_any.dim() == 2 && memory_any.dim() == 2 && memory_any.numel() > 0 &&
          queries_any.size(1) == memory_any.size(1) && queries_any.is_floating_point() &&
          memory_any.device() == queries_any.device(),
      "min_cosine_distance: queries must be (Q, D) and the memory (M, D), got ",
      queries_any.sizes(), " and ", memory_any.sizes());
  const c10::cuda::CUDAGuard guard(queries_any.device());
  const at::AutoDispatchBelowADInplaceOrView no_autograd;  // mm_out refuses what wants gradients
  // "highest" is float32 whatever the program allows elsewhere.
  const at::NoTF32Guard no_tf32;
  const at::Tensor queries = queries_any.to(at::kFloat).contiguous();
  const at::Tensor memory = memory_any.contiguous();
  const int64_t count = queries.size(0), channels = queries.size(1);
  at::Tensor best =
      at::full({count}, -std::numeric_limits<float>::infinity(), queries.options());
  at::Tensor winner = at::zeros({count}, queries.options().dtype(at::kLong));
  at::Tensor finite = at::ones({}, queries.options().dtype(at::kBool));
  const bool narrow = high && AGSSP_WIDE_PRODUCTS && channels >= kFewestNarrow;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, memory.scalar_type(), "min_cosine_distance", [&] {
        if (narrow) {
          search<scalar_t, c10::BFloat16>(
              queries.to(at::kBFloat16), memory, best, winner, finite);
        } else {
          search<scalar_t, float>(queries, memory, best, winner, finite);
        }
        if (count == 0) {
          return;
        }
        finish<scalar_t>
            <<<blocks_for(ceil_div(count, kWarps)), dim3(kWarp, kWarps), 0,
               c10::cuda::getCurrentCUDAStream()>>>(
                queries.const_data_ptr<float>(), memory.const_data_ptr<scalar_t>(), count,
                channels, narrow, finite.const_data_ptr<bool>(),
                winner.const_data_ptr<int64_t>(), best.mutable_data_ptr<float>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return {best, winner, finite};
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CUDA, m) {
  m.impl("min_cosine_distance", &min_cosine_distance);
}

}  // namespace agssp
