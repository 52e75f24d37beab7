// Boxes of anomaly maps on the CPU: one map a thread at a time.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../anomaly_boxes.h"
#include "rectangle_max.h"
#include "runs.h"

namespace agssp {
namespace {

struct Candidate {
  float score;
  Component component;
};

// Falling score, then top to bottom and left to right; the corner at last, so that no order is left
// to chance.
bool is_better(const Candidate& a, const Candidate& b) {
  const Component &p = a.component, &q = b.component;
  return std::tie(b.score, p.y0, p.x0, p.y1, p.x1) < std::tie(a.score, q.y0, q.x0, q.y1, q.x1);
}

// Where each column of a resized map reads.
struct Columns {
  Columns(int64_t input, int64_t output) {
    for (int64_t x = 0; x < output; ++x) {
      const Taps taps = taps_of(input, output, x);
      low.push_back(static_cast<int32_t>(taps.low));
      high.push_back(static_cast<int32_t>(taps.high));
      weights.push_back(taps.weight);
    }
  }
  std::vector<int32_t> low, high;
  std::vector<float> weights;
};

// A map, brought to its size row by row.
class ResizedMap {
 public:
  ResizedMap(int64_t input_height, int64_t input_width, int64_t height, int64_t width)
      : input_height_(input_height), input_width_(input_width), height_(height),
        columns_(input_width, width), pixels_(height * width) {
    for (Row& row : rows_) row.values.resize(width);
  }

  void start(const float* input) {
    input_ = input;
    for (Row& row : rows_) row.index = -1;
  }

  const float* make_row(int64_t y) {
    const int64_t width = static_cast<int64_t>(columns_.low.size());
    const Taps taps = taps_of(input_height_, height_, y);
    float* output = pixels_.data() + y * width;
    mix_rows(stretched(taps.low), stretched(taps.high), taps.weight, width, output);
    return output;
  }

  const float* pixels() const { return pixels_.data(); }

 private:
  struct Row {
    int64_t index;
    std::vector<float> values;
  };

  // A row of the input, its columns resized; kept while the next rows need it too.
  const float* stretched(int64_t y) {
    Row& row = rows_[y % 2];
    if (row.index != y) {
      const int64_t width = static_cast<int64_t>(columns_.low.size());
      resize_row(
          input_ + y * input_width_, columns_.low.data(), columns_.high.data(),
          columns_.weights.data(), width, row.values.data());
      row.index = y;
    }
    return row.values.data();
  }

  int64_t input_height_, input_width_, height_;
  Columns columns_;
  std::vector<float> pixels_;
  const float* input_ = nullptr;
  Row rows_[2];
};

// What a thread keeps from map to map.
class BoxFinder {
 public:
  // Best first; valid until the next call.
  const std::vector<Candidate>& find(
      const float* map, int64_t height, int64_t width, ResizedMap* resized, float threshold,
      double min_area, int64_t max_boxes) {
    if (resized) resized->start(map);
    const auto row_of = [&](int64_t y) { return resized ? resized->make_row(y) : map + y * width; };
    runs_.threshold(row_of, height, width, threshold);
    runs_.fill_holes();
    candidates_.clear();
    double area_of_boxes = 0;
    for (const Component& component : runs_.connect()) {
      if (!(0.5 * static_cast<double>(component.area) >= min_area)) continue;
      candidates_.push_back({0, component});
      area_of_boxes += static_cast<double>(component.x1 - component.x0) *
          static_cast<double>(component.y1 - component.y0);
    }
    maxima_.reset(resized ? resized->pixels() : map, height, width);
    if (area_of_boxes > 2 * static_cast<double>(height) * static_cast<double>(width)) {
      maxima_.make_blocks();
    }
    for (Candidate& candidate : candidates_) {
      const Component& box = candidate.component;
      candidate.score = maxima_(box.x0, box.y0, box.x1, box.y1) + 0.0f;  // -0 becomes 0
    }
    const auto count = std::min<int64_t>(max_boxes, static_cast<int64_t>(candidates_.size()));
    std::partial_sort(
        candidates_.begin(), candidates_.begin() + count, candidates_.end(), is_better);
    candidates_.resize(count);
    return candidates_;
  }

 private:
  Runs runs_;
  RectangleMax maxima_;
  std::vector<Candidate> candidates_;
};

Boxes anomaly_boxes(
    const at::Tensor& maps, const at::Tensor& thresholds, const at::Tensor& min_areas,
    int64_t max_boxes, at::OptionalIntArrayRef size) {
  const Arguments given = check_arguments(maps, thresholds, min_areas, max_boxes, size);
  Boxes result = given.no_boxes();
  if (maps.numel() == 0) return result;
  const float* pixels = given.maps.const_data_ptr<float>();
  const float* threshold_of = given.thresholds.const_data_ptr<float>();
  const double* area_of = given.min_areas.const_data_ptr<double>();
  float* boxes = std::get<0>(result).mutable_data_ptr<float>();
  float* scores = std::get<1>(result).mutable_data_ptr<float>();
  int64_t* counts = std::get<2>(result).mutable_data_ptr<int64_t>();
  const int64_t input_height = maps.size(1), input_width = maps.size(2);
  at::parallel_for(0, given.num_maps(), 1, [&](int64_t begin, int64_t end) {
    BoxFinder finder;
    std::optional<ResizedMap> resized;
    if (given.resize()) {
      resized.emplace(input_height, input_width, given.height, given.width);
    }
    for (int64_t map = begin; map < end; ++map) {
      const auto& found = finder.find(
          pixels + map * input_height * input_width, given.height, given.width,
          resized ? &*resized : nullptr, threshold_of[map], area_of[map], max_boxes);
      counts[map] = static_cast<int64_t>(found.size());
      for (size_t rank = 0; rank < found.size(); ++rank) {
        const Component& at = found[rank].component;
        const int32_t corners[] = {at.x0, at.y0, at.x1, at.y1};
        const int64_t row = map * max_boxes + static_cast<int64_t>(rank);
        std::copy(corners, corners + 4, boxes + 4 * row);
        scores[row] = found[rank].score;
      }
    }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(detectron2_agssp, CPU, m) {
  m.impl("anomaly_boxes", &anomaly_boxes);
}

}  // namespace agssp
