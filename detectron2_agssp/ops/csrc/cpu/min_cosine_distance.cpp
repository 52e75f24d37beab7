// Nearest neighbour by cosine: blocks of the memory are normalised, multiplied with panels of queries
// through oneDNN (its tile kernels, with AMX or AVX-512 BF16 where there is one) or BLAS, and each
// product is folded into a running maximum while it is in the first-level cache. A query is a column
// of the products, so that a vector holds as many maxima and none has to be searched for its largest.
//
// Q queries, M rows of memory, D channels. Dividing by a query's norm does not change its winner, so
// that is done once, at the end.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "pack_rows.h"

namespace agssp {
namespace {

namespace cpublas = at::native::cpublas;

// Measured (7200 queries, D = 152 and 640, AVX-512): products are kRows x kQueries float32, 16 KiB,
// and kBlock rows of the memory are normalised at a time, however large it is.
constexpr int64_t kRows = 64;
constexpr int64_t kBlock = 2048;
// With fewer channels the roundings of bfloat16 do not average out below 2e-3.
constexpr int64_t kFewestNarrow = 128;

// Folds products (rows, kQueries) into each query's best and its row, of `queries` of them; of
// equal ones the first stays, and NaN is passed over.
AGSSP_CLONES void fold(
    const float* products, int64_t rows, int64_t offset, int64_t queries, float* best,
    int64_t* winner) {
  float tops[kQueries];
  int32_t places[kQueries] = {};
  std::fill(tops, tops + kQueries, -std::numeric_limits<float>::infinity());
  for (int32_t row = 0; row < rows; ++row) {
    const float* values = products + row * kQueries;
    for (int64_t query = 0; query < kQueries; ++query) {
      const float value = values[query], top = tops[query];
      // A mask, as of two conditions GCC makes a branch around the stores.
      const int32_t better = -int32_t{value > top};
      places[query] = (row & better) | (places[query] & ~better);
      tops[query] = value > top ? value : top;
    }
  }
  for (int64_t query = 0; query < queries; ++query) {
    if (tops[query] > best[query]) {
      best[query] = tops[query];
      winner[query] = offset + places[query];
    }
  }
}

// Whether oneDNN's tile kernels run here, for float32 or bfloat16: asked by running one. bfloat16 is
// no gain where the processor has no instructions for it, and oneDNN emulates them.
template <typename T>
bool has_tile_kernel() {
#if defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
  static const bool answer = [] {
    constexpr bool kPairs = std::is_same_v<T, c10::BFloat16>;
#if defined(__x86_64__)
    if (kPairs && !__builtin_cpu_supports("avx512bf16")) {
      return false;
    }
#endif
    const std::vector<T> one(16 * 16);
    std::vector<float> product(16 * 16);
    try {
      cpublas::brgemm(
          16, 16, 16, 16, 16, 16, false, one.data(), one.data(), product.data(), kPairs);
      cpublas::brgemm_release(kPairs);
    } catch (const c10::Error&) {
      return false;
    }
    return true;
  }();
  return answer;
#else
  return false;
#endif
}

// The first `columns` of products (rows, kQueries) = memory (rows, depth) x panel (depth, kQueries).
template <typename T>
void multiply(
    const T* memory, const T* panel, int64_t rows, int64_t columns, int64_t depth,
    float* products, bool tiles) {
#if defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (tiles) {
    cpublas::brgemm(
        rows, columns, depth, depth, kQueries, kQueries, false, memory, panel, products,
        std::is_same_v<T, c10::BFloat16>);
    return;
  }
#endif
  // BLAS, with one thread, as this runs inside parallel_for.
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  at::Tensor result = at::from_blob(products, {rows, columns}, {kQueries, 1}, at::kFloat);
  at::mm_out(
      result, at::from_blob(const_cast<T*>(memory), {rows, depth}, at::kFloat),
      at::from_blob(const_cast<T*>(panel), {depth, columns}, {kQueries, 1}, at::kFloat));
}

void release(bool tiles, bool pairs) {
#if defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (tiles) {
    cpublas::brgemm_release(pairs);
  }
#endif
}

// Each query's largest product with a normalised row of the memory, that row, and its own norm;
// false if the memory is not finite.
template <typename T, typename Packed>
bool search(
    const at::Tensor& queries, const at::Tensor& memory, float* best, int64_t* winner,
    float* norms) {
  const int64_t count = queries.size(0), channels = queries.size(1);
  const int64_t size = memory.size(0), stride = memory.stride(0);
  // bfloat16 is multiplied in pairs of channels.
  const int64_t depth = std::is_same_v<Packed, float> ? channels : channels + channels % 2;
  const int64_t panels = (count + kQueries - 1) / kQueries;
  const auto options = queries.options().dtype(c10::CppTypeToScalarType<Packed>::value);
  const at::Tensor packed = at::empty({panels * depth * kQueries}, options);
  const at::Tensor block = at::empty({std::min(kBlock, size) * depth}, options);
  Packed* columns = packed.mutable_data_ptr<Packed>();
  Packed* normalized = block.mutable_data_ptr<Packed>();
  pack_queries(queries.const_data_ptr<float>(), count, channels, depth, columns, norms);
  const bool tiles = has_tile_kernel<Packed>();
  bool finite = true;
  for (int64_t start = 0; start < size; start += kBlock) {
    const int64_t here = std::min(kBlock, size - start);
    finite &= normalize_rows(
        memory.const_data_ptr<T>() + start * stride, stride, here, channels, depth, normalized);
    at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> products(kRows * kQueries);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t first = panel * kQueries;
        const int64_t taken = std::min(kQueries, count - first);
        const int64_t width = (taken + kLanes - 1) / kLanes * kLanes;
        for (int64_t row = 0; row < here; row += kRows) {
          const int64_t rows = std::min(kRows, here - row);
          multiply(
              normalized + row * depth, columns + first * depth, rows, width, depth,
              products.data(), tiles);
          fold(products.data(), rows, start + row, taken, best + first, winner + first);
        }
      }
      release(tiles, !std::is_same_v<Packed, float>);
    });
  }
  return finite;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> min_cosine_distance(
    const at::Tensor& queries_any, const at::Tensor& memory_any, bool high) {
  TORCH_CHECK_VALUE(
      queries_any.dim() == 2 && memory_any.dim() == 2 && memory_any.numel() > 0 &&
          queries_any.size(1) == memory_any.size(1) && memory_any.device().is_cpu() &&
          queries_any.is_floating_point(),
      "min_cosine_distance: queries must be (Q, D) and the memory (M, D), got ",
      queries_any.sizes(), " and ", memory_any.sizes());
  const at::Tensor queries = queries_any.to(at::kFloat).contiguous();
  // Rows may be apart, or the same one: a large memory is not copied for that.
  const at::Tensor memory =
      memory_any.stride(1) == 1 ? memory_any : memory_any.contiguous();
  const int64_t count = queries.size(0), channels = queries.size(1);
  at::Tensor distance = at::empty({count}, queries.options());
  at::Tensor index = at::empty({count}, queries.options().dtype(at::kLong));
  float* best = distance.mutable_data_ptr<float>();
  int64_t* winner = index.mutable_data_ptr<int64_t>();
  std::fill(best, best + count, -std::numeric_limits<float>::infinity());
  std::fill(winner, winner + count, 0);
  // Without a bfloat16 kernel the exact search is the faster one as well.
  const bool narrow = high && channels >= kFewestNarrow && has_tile_kernel<c10::BFloat16>();
  std::vector<float> norms(count);
  bool finite = true;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, memory.scalar_type(), "min_cosine_distance", [&] {
        finite = narrow
            ? search<scalar_t, c10::BFloat16>(queries, memory, best, winner, norms.data())
            : search<scalar_t, float>(queries, memory, best, winner, norms.data());
        const scalar_t* rows = memory.const_data_ptr<scalar_t>();
        const float* input = queries.const_data_ptr<float>();
        at::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
          std::vector<float> buffer(channels);
          for (int64_t item = begin; item < end; ++item) {
            if (!finite || !std::isfinite(norms[item])) {
              best[item] = std::numeric_limits<float>::quiet_NaN();
              continue;
            }
            float product = best[item];
            if (narrow) {
              const float* row =
                  float_row(rows + winner[item] * memory.stride(0), channels, buffer.data());
              product = dot(input + item * channels, row, channels) /
                  std::max(norm_of(row, channels), kShortest);
            }
            best[item] = std::clamp(1 - product / std::max(norms[item], kShortest), 0.f, 2.f);
          }
        });
      });
  return {distance, index, at::scalar_tensor(finite, queries.options().dtype(at::kBool))};
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CPU, m) {
  m.impl("min_cosine_distance", &min_cosine_distance);
}

}  // namespace agssp
