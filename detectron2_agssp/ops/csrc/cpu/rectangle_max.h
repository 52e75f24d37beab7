// Maxima of a map inside rectangles.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "pixel_rows.h"

namespace agssp {
namespace {

// Large rectangles that overlap would cost the whole map each, so their inner parts are read from
// maxima of blocks, of blocks of blocks, and so on. What is left is a rim: its cost is that of the
// rectangle's circumference, which the component inside has in pixels.
class RectangleMax {
 public:
  void reset(const float* map, int64_t height, int64_t width) {
    levels_.clear();
    levels_.push_back({map, height, width});
  }

  // Once for a map; without it a rectangle is read pixel by pixel.
  void make_blocks() {
    for (size_t level = 0; levels_[level].height >= 2 * kSide && levels_[level].width >= 2 * kSide;
         ++level) {
      const Level fine = levels_[level];
      const int64_t height = fine.height / kSide, width = fine.width / kSide;
      if (memory_.size() <= level) memory_.emplace_back();
      std::vector<float>& blocks = memory_[level];
      blocks.resize(height * width);
      columns_.resize(width * kSide);
      for (int64_t y = 0; y < height; ++y) {
        columns_.assign(columns_.size(), -std::numeric_limits<float>::infinity());
        for (int64_t row = y * kSide; row < (y + 1) * kSide; ++row) {
          max_into(fine.data + row * fine.width, width * kSide, columns_.data());
        }
        for (int64_t x = 0; x < width; ++x) {
          blocks[y * width + x] = max_of_rows(columns_.data() + x * kSide, kSide, 1, kSide);
        }
      }
      levels_.push_back({blocks.data(), height, width});
    }
  }

  // Over [x0, x1) x [y0, y1); -inf where it has nothing but NaN.
  float operator()(int64_t x0, int64_t y0, int64_t x1, int64_t y1) const {
    if ((x1 - x0) * (y1 - y0) > kFew) return max_from(0, x0, y0, x1, y1);
    // A noisy map has thousands of specks, for which a call and its vectors take longer.
    const Level& map = levels_[0];
    float best = -std::numeric_limits<float>::infinity();
    for (int64_t y = y0; y < y1; ++y) {
      for (int64_t x = x0; x < x1; ++x) best = larger(map.data[y * map.width + x], best);
    }
    return best;
  }

 private:
  static constexpr int64_t kSide = 8;
  static constexpr int64_t kFew = 64;  // pixels
  struct Level {
    const float* data;
    int64_t height, width;
  };

  float max_from(size_t index, int64_t x0, int64_t y0, int64_t x1, int64_t y1) const {
    const Level& level = levels_[index];
    const auto read = [&level](int64_t x0, int64_t y0, int64_t x1, int64_t y1) {
      return max_of_rows(level.data + y0 * level.width + x0, level.width, y1 - y0, x1 - x0);
    };
    // Blocks that lie inside; the map's last rows and columns may be in none.
    const int64_t left = (x0 + kSide - 1) / kSide, right = x1 / kSide;
    const int64_t top = (y0 + kSide - 1) / kSide, bottom = y1 / kSide;
    if (index + 1 == levels_.size() || left >= right || top >= bottom) return read(x0, y0, x1, y1);
    float best = max_from(index + 1, left, top, right, bottom);
    best = larger(read(x0, y0, x1, top * kSide), best);
    best = larger(read(x0, bottom * kSide, x1, y1), best);
    best = larger(read(x0, top * kSide, left * kSide, bottom * kSide), best);
    return larger(read(right * kSide, top * kSide, x1, bottom * kSide), best);
  }

  std::vector<Level> levels_;
  std::vector<std::vector<float>> memory_;
  std::vector<float> columns_;
};

}  // namespace
}  // namespace agssp
