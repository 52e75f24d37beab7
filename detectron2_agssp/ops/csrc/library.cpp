// The operators' schemas. Kernels register themselves per device; fake kernels and autograd are in
// Python, beside each operator's wrapper.
#include <torch/library.h>

TORCH_LIBRARY(detectron2_agssp, m) {
  m.def("channel_energy(Tensor features) -> Tensor");
  m.def("channel_energy_backward(Tensor grad, Tensor features) -> Tensor");
}
