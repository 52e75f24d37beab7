// External components of a thresholded map, from its rows' runs.
//
// A run is a stretch of foreground in one row, [start, end). Everything here is linear in the
// number of runs (times union-find's near-constant), whatever the components' shapes.
#pragma once

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "pixel_rows.h"

namespace agssp {
namespace {

struct Component {
  int32_t x0, y0, x1, y1;
  int64_t area;  // in halves of a pixel
};

// Sets of numbers; a set's root is its smallest member, so a parent is never behind its child.
class DisjointSets {
 public:
  void resize(size_t size) {
    if (parents_.size() < size) parents_.resize(size);
  }
  uint32_t& operator[](size_t item) { return parents_[item]; }

  uint32_t find(uint32_t item) {
    uint32_t parent = parents_[item];
    while (parents_[parent] != parent) {
      parents_[item] = parents_[parent];
      item = parent;
      parent = parents_[parent];
    }
    return parent;
  }

  // Unites the sets of two roots, if so; returns the root of b's.
  uint32_t unite_if(bool so, uint32_t a, uint32_t b) {
    // Arithmetic where a condition would become a branch.
    const uint32_t low = std::min(a, b), high = std::max(a, b), bits = -uint32_t{so};
    parents_[high] = high ^ ((high ^ low) & bits);
    return b ^ ((b ^ low) & bits);
  }

 private:
  std::vector<uint32_t> parents_;
};

// Kept from map to map for its memory.
//
// A row's edges are -1, start and end of each run, and the width + 1. So its runs are the pairs
// from the second number on, and its gaps, with the outside left and right, those from the first.
class Runs {
 public:
  // `row_of(y)` gives a row's pixels.
  template <typename RowOf>
  void threshold(RowOf row_of, int64_t height, int64_t width, float threshold) {
    first_.assign(1, 0);
    size_t used = 0;
    for (int64_t y = 0; y < height; ++y) {
      const size_t needed = used + width + 3;
      if (edges_.size() < needed) edges_.resize(std::max(needed, 2 * edges_.size()));
      int32_t* begin = edges_.data() + used;
      *begin = -1;
      int32_t* end = edges_of_row(row_of(y), width, threshold, begin + 1);
      *end = static_cast<int32_t>(width + 1);
      used += end + 1 - begin;
      TORCH_CHECK_VALUE(
          used / 2 < std::numeric_limits<uint32_t>::max(),
          "anomaly_boxes: a map has over 2^32 runs; make it smaller.");
      first_.push_back(static_cast<uint32_t>(used / 2 - (y + 1)));
    }
  }

  // What is not 4-connected to the border through background becomes foreground.
  void fill_holes() {
    const int64_t height = rows();
    bool inner_gaps = false;
    for (int64_t y = 0; y < height && !inner_gaps; ++y) inner_gaps = runs_in(y) > 1;
    if (!inner_gaps) return;
    // A gap's number is that of its pair of edges; 0, the first of all, is the outside.
    sets_.resize(first_.back() + height);
    for (int64_t y = 0; y < height; ++y) {
      const uint32_t begin = first_[y] + y, end = first_[y + 1] + y;
      const bool at_border = y == 0 || y == height - 1;
      for (uint32_t gap = begin; gap <= end; ++gap) sets_[gap] = at_border ? 0 : gap;
      sets_[begin] = sets_[end] = 0;
      if (y > 0 && (runs_in(y - 1) > 1 || runs_in(y) > 1)) unite_gaps(y - 1, y);
    }
    uint32_t kept = 0;
    size_t gap = 0;
    for (int64_t y = 0; y < height; ++y) {
      const size_t last = first_[y + 1] + y;
      int32_t* edges = edges_.data() + 2 * (kept + y);
      *edges++ = -1;
      for (first_[y] = kept; gap <= last; ++gap) {
        sets_[gap] = sets_[sets_[gap]];  // the root: every smaller number already has its own
        if (sets_[gap] != 0) continue;
        // The end of what is left of a gap, unless the border is, and the start of what is right.
        if (edges_[2 * gap] >= 0) *edges++ = edges_[2 * gap], ++kept;
        *edges++ = edges_[2 * gap + 1];
      }
    }
    first_.back() = kept;
  }

  // 8-connected components, in the order of their first pixels.
  const std::vector<Component>& connect() {
    const size_t runs = first_.back();
    sets_.resize(runs);
    areas_.assign(runs, 0);
    for (size_t run = 0; run < runs; ++run) sets_[run] = static_cast<uint32_t>(run);
    for (int64_t y = 1; y < rows(); ++y) {
      if (runs_in(y - 1) > 0 && runs_in(y) > 0) unite_runs(y - 1, y);
    }
    components_.clear();
    for (int64_t y = 0; y < rows(); ++y) {
      const int32_t* edges = edges_.data() + 2 * (first_[y] + y) + 1;
      for (uint32_t run = first_[y]; run < first_[y + 1]; ++run, edges += 2) {
        const uint32_t parent = sets_[run];
        if (parent == run) {
          components_.push_back({edges[0], static_cast<int32_t>(y), edges[1], 0, 0});
        }
        // From here on the number of its component instead of a parent.
        sets_[run] = parent == run ? static_cast<uint32_t>(components_.size() - 1) : sets_[parent];
        Component& component = components_[sets_[run]];
        component.x0 = std::min(component.x0, edges[0]);
        component.x1 = std::max(component.x1, edges[1]);
        component.y1 = static_cast<int32_t>(y + 1);
        component.area += areas_[run];
      }
    }
    return components_;
  }

 private:
  int64_t rows() const { return static_cast<int64_t>(first_.size()) - 1; }
  uint32_t runs_in(int64_t y) const { return first_[y + 1] - first_[y]; }

  // The loops over two rows' pairs take the next pair of the row whose pair ends first, without a
  // branch: in a noisy map nothing predicts it.

  // Gaps of two neighbouring rows that share a column are one.
  void unite_gaps(int64_t above, int64_t below) {
    size_t a = first_[above] + above, b = first_[below] + below;
    const int32_t* edges = edges_.data();
    uint32_t root = 0;  // of b
    for (uint32_t steps = runs_in(above) + runs_in(below);; --steps) {
      const bool meet = (edges[2 * a] < edges[2 * b + 1]) & (edges[2 * b] < edges[2 * a + 1]);
      root = sets_.unite_if(meet, sets_.find(static_cast<uint32_t>(a)), root);
      if (steps == 0) return;
      const bool take_a = edges[2 * a + 1] < edges[2 * b + 1];
      a += take_a;
      b += !take_a;
      root = take_a ? root : sets_[b];
    }
  }

  // Runs of two neighbouring rows that touch, also by a corner, are one. A 2 x 2 window that
  // counts for the area has a column where both rows are set: 1 for each pair of such columns,
  // and 1/2 at each end of their overlap where one row goes on.
  void unite_runs(int64_t above, int64_t below) {
    uint32_t a = first_[above], b = first_[below];
    const uint32_t a_last = first_[above + 1], b_last = first_[below + 1];
    const int32_t* edges_a = edges_.data() + 2 * above + 1;
    const int32_t* edges_b = edges_.data() + 2 * below + 1;
    uint32_t root = b;
    while (a < a_last && b < b_last) {
      const int32_t a_start = edges_a[2 * size_t{a}], a_end = edges_a[2 * size_t{a} + 1];
      const int32_t b_start = edges_b[2 * size_t{b}], b_end = edges_b[2 * size_t{b} + 1];
      const int64_t shared = int64_t{std::min(a_end, b_end)} - std::max(a_start, b_start);
      root = sets_.unite_if(shared >= 0, sets_.find(a), root);
      const int64_t windows = 2 * (shared - 1) + (a_start != b_start) + (a_end != b_end);
      areas_[b] += shared > 0 ? windows : 0;
      const bool take_a = a_end < b_end;
      a += take_a;
      b += !take_a;
      root = take_a ? root : b;
    }
  }

  std::vector<int32_t> edges_;   // row by row
  std::vector<uint32_t> first_;  // of each row its first run, and at last their number
  std::vector<int64_t> areas_;   // of each run the windows with the row above
  std::vector<Component> components_;
  DisjointSets sets_;
};

}  // namespace
}  // namespace agssp
