// External components of thresholded maps on CUDA.
//
// Labels are a union-find per map, made without locks: whoever finds two roots hooks the larger
// below the smaller with one compare-and-swap, and tries again from where another got there first.
// So any shape is done after one pass over its pixels, without asking the host, and a component's
// root is its first pixel, whatever the order of the threads.
//
// A warp takes 32 pixels of a row: runs inside it are found by ballot and are one from the start.
#pragma once

#include <c10/cuda/CUDAException.h>

#include <cstdint>

namespace agssp {
namespace {

constexpr int kWarp = 32;
constexpr int kBlock = 256;
constexpr unsigned kAllLanes = 0xffffffffu;

// A map has fewer than 2^31 - 1 pixels (checked), all of them together may have more.
struct Shape {
  int64_t maps;
  int32_t height, width;

  __host__ __device__ int64_t pixels() const { return static_cast<int64_t>(height) * width; }
  __host__ __device__ int64_t segments() const { return (width + kWarp - 1) / kWarp; }
  // No more 8-connected components fit into a map.
  __host__ __device__ int64_t max_components() const {
    return static_cast<int64_t>((height + 1) / 2) * ((width + 1) / 2);
  }
};

struct Component {
  int32_t root, x0, x1, y1;
  uint32_t area;  // in halves of a pixel
  float score;
};

__device__ inline int64_t first_warp() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
}
__device__ inline int64_t num_warps() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x / kWarp;
}

// Where a lane's pixel is.
struct Place {
  __device__ Place(const Shape& shape, int64_t segment)
      : map(segment / (shape.segments() * shape.height)),
        y(static_cast<int32_t>(segment / shape.segments() % shape.height)),
        lane(threadIdx.x % kWarp),
        x(static_cast<int32_t>(segment % shape.segments()) * kWarp + lane),
        inside(x < shape.width),
        pixel(inside ? y * shape.width + x : 0) {}
  int64_t map;
  int32_t y, lane, x;
  bool inside;
  int32_t pixel;  // in its map
};

// First lane of the run of set bits that `lane` is in, and the lane after its last.
__device__ inline int run_start(unsigned bits, int lane) {
  const unsigned clear_below = ~bits & ((1u << lane) - 1);
  return kWarp - __clz(clear_below);
}
__device__ inline int run_end(unsigned bits, int lane) {
  const unsigned clear_above = ~bits & ~((2u << lane) - 1);
  return clear_above ? __ffs(clear_above) - 1 : kWarp;
}

// Volatile: other threads write. A value that is already old is still an ancestor.
__device__ inline int32_t load(const int32_t* parents, int32_t node) {
  return *static_cast<const volatile int32_t*>(parents + node);
}

__device__ inline int32_t find_root(int32_t* parents, int32_t node) {
  int32_t parent = load(parents, node);
  while (parent != node) {
    const int32_t next = load(parents, parent);
    // Only what is no root any more is written so, and only with an ancestor of it.
    if (next != parent) *static_cast<volatile int32_t*>(parents + node) = next;
    node = parent;
    parent = next;
  }
  return node;
}

__device__ inline void unite(int32_t* parents, int32_t a, int32_t b) {
  a = find_root(parents, a);
  b = find_root(parents, b);
  while (a != b) {
    const int32_t high = max(a, b), low = min(a, b);
    const int32_t found = atomicCAS(parents + high, high, low);
    if (found == high) return;
    a = find_root(parents, found);
    b = find_root(parents, low);
  }
}

// Background that shares a side is one. In `outside`, of pixels + 1 numbers a map, 0 is what lies
// beyond the border, and a pixel is its own number + 1.
__global__ void unite_gaps(Shape shape, const uint8_t* masks, int32_t* outside) {
  const int64_t segments = shape.maps * shape.height * shape.segments();
  for (int64_t segment = first_warp(); segment < segments; segment += num_warps()) {
    const Place at(shape, segment);
    const uint8_t* pixel = masks + at.map * shape.pixels() + at.pixel;
    if (!at.inside || at.y == 0 || *pixel) continue;
    int32_t* parents = outside + at.map * (shape.pixels() + 1);
    const int32_t node = at.pixel + 1, width = shape.width;
    const bool left = at.x > 0 && !pixel[-1];
    if (at.x == width - 1) unite(parents, node, 0);
    if (at.lane == 0 && left) unite(parents, node, node - 1);
    // Where the left neighbours are background too, they see to it.
    if (!pixel[-width] && !(left && !pixel[-width - 1])) unite(parents, node, node - width);
  }
}

// Background that is not outside becomes foreground, and every run of a segment one label.
__global__ void fill_holes(Shape shape, uint8_t* masks, int32_t* outside, int32_t* labels) {
  const int64_t segments = shape.maps * shape.height * shape.segments();
  for (int64_t segment = first_warp(); segment < segments; segment += num_warps()) {
    const Place at(shape, segment);
    uint8_t* pixel = masks + at.map * shape.pixels() + at.pixel;
    bool filled = false;
    if (at.inside) {
      filled = *pixel;
      if (!filled) {
        filled = find_root(outside + at.map * (shape.pixels() + 1), at.pixel + 1) != 0;
        if (filled) *pixel = 1;
      }
    }
    const unsigned lanes = __ballot_sync(kAllLanes, filled);
    if (filled) {
      labels[at.map * shape.pixels() + at.pixel] = at.pixel - at.lane + run_start(lanes, at.lane);
    }
  }
}

// Foreground that shares a side or a corner is one.
__global__ void unite_pixels(Shape shape, const uint8_t* masks, int32_t* labels) {
  const int64_t segments = shape.maps * shape.height * shape.segments();
  for (int64_t segment = first_warp(); segment < segments; segment += num_warps()) {
    const Place at(shape, segment);
    const uint8_t* pixel = masks + at.map * shape.pixels() + at.pixel;
    if (!at.inside || !*pixel) continue;
    int32_t* parents = labels + at.map * shape.pixels();
    const int32_t node = at.pixel, width = shape.width;
    const bool not_first = at.x > 0, not_last = at.x < width - 1;
    const bool left = not_first && pixel[-1], right = not_last && pixel[1];
    if (at.lane == 0 && left) unite(parents, node, node - 1);
    if (at.y == 0) continue;
    const bool up_left = not_first && pixel[-width - 1];
    const bool up_right = not_last && pixel[-width + 1];
    // Where a neighbour in this row touches the same run above, it sees to it.
    if (pixel[-width]) {
      if (!(left && up_left)) unite(parents, node, node - width);
    } else {
      if (up_left && !left) unite(parents, node, node - width - 1);
      if (up_right && !right) unite(parents, node, node - width + 1);
    }
  }
}

// Each root gets a place in its map's list: `slots`, pixels + 1 numbers a map, says which.
__global__ void list_components(
    Shape shape, const uint8_t* masks, const int32_t* labels, int32_t* slots,
    Component* components, int32_t* num_components) {
  const int64_t segments = shape.maps * shape.height * shape.segments();
  for (int64_t segment = first_warp(); segment < segments; segment += num_warps()) {
    const Place at(shape, segment);
    const int64_t index = at.map * shape.pixels() + at.pixel;
    if (!at.inside || !masks[index] || labels[index] != at.pixel) continue;
    const int32_t slot = atomicAdd(num_components + at.map, 1);
    slots[at.map * (shape.pixels() + 1) + at.pixel] = slot;
    components[at.map * shape.max_components() + slot] = {at.pixel, at.x, 0, 0, 0, 0.0f};
  }
}

// Corners and areas. The upper left corner's row is the root's. A 2 x 2 window counts 1 where four
// pixels are set and 1/2 where three are, for its upper left pixel or, without that one, for its
// upper right; pixels of one window are of one component.
__global__ void measure_components(
    Shape shape, const uint8_t* masks, int32_t* labels, const int32_t* slots,
    Component* components) {
  const int64_t segments = shape.maps * shape.height * shape.segments();
  for (int64_t segment = first_warp(); segment < segments; segment += num_warps()) {
    const Place at(shape, segment);
    const uint8_t* pixel = masks + at.map * shape.pixels() + at.pixel;
    const int32_t width = shape.width;
    const bool filled = at.inside && *pixel;
    unsigned halves = 0;
    if (filled && at.y < shape.height - 1) {
      const bool below = pixel[width];
      if (at.x < width - 1) {
        const int set = 1 + below + (pixel[1] != 0) + (pixel[width + 1] != 0);
        halves = set >= 3 ? set - 2 : 0;
      }
      if (at.x > 0 && below && !pixel[-1] && pixel[width - 1]) ++halves;
    }
    // All lanes are here: nobody has left the loop's body before.
    const unsigned lanes = __ballot_sync(kAllLanes, filled);
    const unsigned ones = __ballot_sync(kAllLanes, halves & 1);
    const unsigned twos = __ballot_sync(kAllLanes, halves & 2);
    if (!filled || run_start(lanes, at.lane) != at.lane) continue;
    const int end = run_end(lanes, at.lane);
    const unsigned run = (end == kWarp ? kAllLanes : (1u << end) - 1) & ~((1u << at.lane) - 1);
    const int32_t root = find_root(labels + at.map * shape.pixels(), at.pixel);
    const int32_t slot = slots[at.map * (shape.pixels() + 1) + root];
    Component* component = components + at.map * shape.max_components() + slot;
    atomicMin(&component->x0, at.x);
    atomicMax(&component->x1, at.x + end - at.lane);
    atomicMax(&component->y1, at.y + 1);
    const unsigned area = __popc(ones & run) + 2 * __popc(twos & run);
    if (area) atomicAdd(&component->area, area);
  }
}

}  // namespace
}  // namespace agssp
