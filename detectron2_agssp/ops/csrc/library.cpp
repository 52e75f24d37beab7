// The operators' schemas. Kernels register themselves per device; fake kernels and autograd are in
// Python, beside each operator's wrapper.
#include <torch/library.h>

TORCH_LIBRARY(detectron2_agssp, m) {
  m.def(
      "anomaly_boxes(Tensor maps, Tensor thresholds, Tensor min_areas, SymInt max_boxes, *, "
      "SymInt[]? size=None) -> (Tensor boxes, Tensor scores, Tensor counts)");
  m.def("channel_energy(Tensor features) -> Tensor");
  m.def("channel_energy_backward(Tensor grad, Tensor features) -> Tensor");
  // features: layers (N, L, D) of one dtype, averaged.
  m.def("text_anomaly_score(Tensor[] features, Tensor text, float temperature) -> Tensor");
  // (Q, D), (M, D) -> distance (Q), index of the winner (Q), whether all of the memory is finite ().
  m.def(
      "min_cosine_distance(Tensor queries, Tensor memory, bool high) -> (Tensor, Tensor, Tensor)");
}
