// Nearest neighbour by cosine: blocks of the memory are normalised and packed, multiplied with blocks
// of queries through oneDNN (its tile kernels, with AMX or AVX-512 BF16 where there is one) or BLAS,
// and each product is folded into a running maximum while it is in the first-level cache.
//
// Q queries, M rows of memory, D channels. Dividing by a query's norm does not change its winner, so
// that is done once, at the end.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "vectorize.h"

namespace agssp {
namespace {

namespace cpublas = at::native::cpublas;

constexpr int64_t kLanes = 16;
// Measured (7200 queries, D = 152 and 640, AVX-512): products are kQueries x kColumns float32, 32 KiB,
// and a packed block of the memory has kRows rows however large the memory is.
constexpr int64_t kQueries = 64;
constexpr int64_t kColumns = 128;
constexpr int64_t kRows = 2048;
// With fewer channels the roundings of bfloat16 do not average out below 2e-3.
constexpr int64_t kFewestNarrow = 128;

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
  void to_floats(const T* input, int64_t count, float* output) {                   \
    widen_##SUFFIX(input, count, output);                                          \
  }

AGSSP_WIDEN(float, float)
AGSSP_WIDEN(double, double)
AGSSP_WIDEN(c10::BFloat16, bfloat16)
AGSSP_WIDEN(c10::Half, half)

AGSSP_CLONES float dot(const float* a, const float* b, int64_t count) {
  float lanes[kLanes] = {};
  int64_t index = 0;
  for (; index + kLanes <= count; index += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += a[index + lane] * b[index + lane];
    }
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  for (; index < count; ++index) {
    sum += a[index] * b[index];
  }
  return sum;
}

// kLanes rows, D apart, become kLanes columns of a panel (D, kColumns), each scaled.
AGSSP_CLONES void pack_floats(
    const float* rows, int64_t channels, const float* scales, float* panel, int64_t columns) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      panel[channel * columns + lane] = rows[lane * channels + channel] * scales[lane];
    }
  }
}

AGSSP_INLINE uint32_t round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// The same in bfloat16, two channels of a column side by side, as its multiply instructions read
// them; an odd last channel is paired with zero.
AGSSP_CLONES void pack_bfloat16(
    const float* rows, int64_t channels, const float* scales, uint32_t* panel, int64_t columns) {
  for (int64_t pair = 0; pair < (channels + 1) / 2; ++pair) {
    const bool both = 2 * pair + 1 < channels;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float* row = rows + lane * channels + 2 * pair;
      const uint32_t low = round_to_bfloat16(row[0] * scales[lane]);
      const uint32_t high = both ? round_to_bfloat16(row[both] * scales[lane]) : 0;
      panel[pair * columns + lane] = low | high << 16;
    }
  }
}

// The largest of `count` numbers; NaN is passed over.
AGSSP_INLINE float largest_of(const float* values, int64_t count) {
  constexpr int64_t kWidth = 4 * kLanes;  // four vectors, so that none waits for the last one
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  float tops[kWidth];
  std::fill(tops, tops + kWidth, kLeast);
  int64_t index = 0;
  for (; index + kWidth <= count; index += kWidth) {
    for (int64_t lane = 0; lane < kWidth; ++lane) {
      tops[lane] = values[index + lane] > tops[lane] ? values[index + lane] : tops[lane];
    }
  }
  float top = kLeast;
  for (; index < count; ++index) {
    top = values[index] > top ? values[index] : top;
  }
  for (int64_t width = kWidth / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) {
      tops[lane] = tops[lane + width] > tops[lane] ? tops[lane + width] : tops[lane];
    }
  }
  return tops[0] > top ? tops[0] : top;
}

// Folds products (rows, stride) into each row's best and its index; of equal ones the first stays.
AGSSP_CLONES void fold(
    const float* products, int64_t rows, int64_t stride, int64_t columns, int64_t offset,
    float* best, int64_t* winner) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = products + row * stride;
    const float top = largest_of(values, columns);
    // New bests become rare, so that finding their place costs little.
    if (top > best[row]) {
      best[row] = top;
      winner[row] = offset + (std::find(values, values + columns, top) - values);
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

// products (rows, kColumns) = queries (rows, depth) x panel (depth, kColumns).
template <typename T>
void multiply(
    const T* queries, const T* panel, int64_t rows, int64_t depth, float* products, bool tiles) {
#if defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (tiles) {
    cpublas::brgemm(
        rows, kColumns, depth, depth, kColumns, kColumns, false, queries, panel, products,
        std::is_same_v<T, c10::BFloat16>);
    return;
  }
#endif
  // BLAS, with one thread, as this runs inside parallel_for.
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  at::Tensor result = at::from_blob(products, {rows, kColumns}, at::kFloat);
  at::mm_out(
      result, at::from_blob(const_cast<T*>(queries), {rows, depth}, at::kFloat),
      at::from_blob(const_cast<T*>(panel), {depth, kColumns}, at::kFloat));
}

void release(bool tiles, bool pairs) {
#if defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (tiles) {
    cpublas::brgemm_release(pairs);
  }
#endif
}

// Packs `count` rows of the memory, `stride` apart, into panels; false if one is not finite.
template <typename T, typename Packed>
bool pack(
    const T* memory, int64_t stride, int64_t count, int64_t channels, int64_t depth,
    Packed* panels) {
  std::atomic<bool> finite{true};
  const int64_t groups = (count + kLanes - 1) / kLanes;
  at::parallel_for(0, groups, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> rows(kLanes * channels);
    float scales[kLanes];
    for (int64_t group = begin; group < end; ++group) {
      const int64_t here = std::min(kLanes, count - group * kLanes);
      for (int64_t lane = 0; lane < here; ++lane) {
        to_floats(
            memory + (group * kLanes + lane) * stride, channels, rows.data() + lane * channels);
      }
      // The last columns of a panel may be no rows at all: zeros, which `fold` leaves out.
      std::fill(rows.begin() + here * channels, rows.end(), 0.f);
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float* row = rows.data() + lane * channels;
        const float norm = std::sqrt(dot(row, row, channels));
        if (!std::isfinite(norm)) {
          finite = false;
        }
        scales[lane] = 1 / std::max(norm, kShortest);
      }
      const int64_t column = group * kLanes;
      Packed* panel = panels + column / kColumns * kColumns * depth;
      if constexpr (std::is_same_v<Packed, float>) {
        pack_floats(rows.data(), channels, scales, panel + column % kColumns, kColumns);
      } else {
        pack_bfloat16(
            rows.data(), channels, scales,
            reinterpret_cast<uint32_t*>(panel) + column % kColumns, kColumns);
      }
    }
  });
  return finite;
}

template <typename T, typename Packed>
bool search(
    const at::Tensor& queries, const at::Tensor& memory, float* best, int64_t* winner) {
  const int64_t count = queries.size(0), depth = queries.size(1);
  const int64_t size = memory.size(0), channels = memory.size(1), stride = memory.stride(0);
  const Packed* input = queries.const_data_ptr<Packed>();
  const T* rows = memory.const_data_ptr<T>();
  const int64_t held = std::min(kRows, (size + kColumns - 1) / kColumns * kColumns);
  at::Tensor panels = at::empty({held * depth}, queries.options());
  Packed* packed = panels.mutable_data_ptr<Packed>();
  const bool tiles = has_tile_kernel<Packed>();
  bool finite = true;
  for (int64_t start = 0; start < size; start += kRows) {
    const int64_t here = std::min(kRows, size - start);
    finite &= pack(rows + start * stride, stride, here, channels, depth, packed);
    const int64_t blocks = (count + kQueries - 1) / kQueries;
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> products(kQueries * kColumns);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kQueries;
        const int64_t taken = std::min(kQueries, count - first);
        for (int64_t column = 0; column < here; column += kColumns) {
          multiply(
              input + first * depth, packed + column * depth, taken, depth, products.data(),
              tiles);
          fold(
              products.data(), taken, kColumns, std::min(kColumns, here - column),
              start + column, best + first, winner + first);
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
  bool finite = true;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, memory.scalar_type(), "min_cosine_distance", [&] {
        const scalar_t* rows = memory.const_data_ptr<scalar_t>();
        if (narrow) {
          const at::Tensor pairs = queries.to(at::kBFloat16);
          const at::Tensor even =
              channels % 2 ? at::constant_pad_nd(pairs, {0, 1}) : pairs;
          finite = search<scalar_t, c10::BFloat16>(even, memory, best, winner);
        } else {
          finite = search<scalar_t, float>(queries, memory, best, winner);
        }
        const float* input = queries.const_data_ptr<float>();
        at::parallel_for(0, count, 256, [&](int64_t begin, int64_t end) {
          std::vector<float> row(channels);
          for (int64_t item = begin; item < end; ++item) {
            const float* query = input + item * channels;
            const float norm = std::sqrt(dot(query, query, channels));
            if (!finite || !std::isfinite(norm)) {
              best[item] = std::numeric_limits<float>::quiet_NaN();
              continue;
            }
            float product = best[item];
            if (narrow) {
              to_floats(rows + winner[item] * memory.stride(0), channels, row.data());
              const float other = std::sqrt(dot(row.data(), row.data(), channels));
              product = dot(query, row.data(), channels) / std::max(other, kShortest);
            }
            best[item] = std::clamp(1 - product / std::max(norm, kShortest), 0.f, 2.f);
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
