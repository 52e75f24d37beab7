"""What the operators' benchmark measures.

Shapes: Q queries, M rows of memory, N images, L patches, C or D channels, H x W pixels.
"""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from benchmarks.ops.timing import Case
from detectron2_agssp.ops import channel_energy, min_cosine_distance, text_anomaly_score

QUERIES = 7200


def cases(device: torch.device, quick: bool = False, only: str = "") -> Iterator[Case]:
    """Those whose name has ``only``, made one at a time: their inputs are large.

    Args:
        quick: small inputs, to try the tool.
    """
    for make in (_searches, _texts, _boxes, _energies):
        for case in make(_Inputs(device), quick):
            if only in case.name:
                yield case
                # torch.compile gives up on a function that it has compiled too often.
                torch.compiler.reset()


class _Inputs:
    """Normal numbers, the same in every run."""

    def __init__(self, device: torch.device):
        self.device = device
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.device, dtype)


def _searches(random: _Inputs, quick: bool) -> Iterator[Case]:
    memories = [50] if quick else [900, 10_000, 100_000]
    if random.device.type == "cuda" and not quick:
        memories.append(1_000_000)
    for channels in (152, 640):
        for memory in memories:
            queries = random(64 if quick else QUERIES, channels)
            yield from _search_cases(queries, random(memory, channels))


def _texts(random: _Inputs, quick: bool) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        tokens = [random(2 if quick else 32, 226, 640, dtype=dtype) for _ in range(4)]
        yield _text_case(tokens, random(2, 640))


def _energies(random: _Inputs, quick: bool) -> Iterator[Case]:
    for shape in ((64, 1024, 14, 14), (64, 2048, 7, 7), (8, 256, 160, 160)):
        shape = (1, 8, 7, 9) if quick else shape
        for dtype in (torch.float32, torch.bfloat16):
            features = random(*shape, dtype=dtype)
            yield from _energy_cases(features)
            yield from _energy_cases(features.contiguous(memory_format=torch.channels_last))


def _boxes(random: _Inputs, quick: bool) -> Iterator[Case]:
    maps = random(2, 1, 8, 8) if quick else random(64, 1, 64, 64)
    smooth = F.interpolate(maps, scale_factor=10, mode="bicubic")[:, 0]
    yield from _boxes_cases(smooth, "smooth")
    yield from _boxes_cases(smooth + 0.3 * random(*smooth.shape), "noisy")
    yield from _boxes_cases(random(*smooth.shape), "white noise")


def _search_cases(queries: Tensor, memory: Tensor) -> Iterator[Case]:
    few = queries[: max(1, 2**24 // len(memory))]

    def eager(a: Tensor, b: Tensor) -> Tensor:
        return 1 - (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).amax(dim=1)

    fast = torch.compile(eager, dynamic=False)
    flops = 2 * len(queries) * memory.numel()
    for precision, dtype in (("highest", torch.float32), ("high", torch.bfloat16)):
        ways = {
            "ours": lambda p=precision: min_cosine_distance(queries, memory, precision=p),
            "eager": lambda: eager(queries, memory),
        }
        if precision == "high":
            # At equal precision; its error is that of products rounded to bfloat16.
            a, b = queries.bfloat16(), memory.bfloat16()
            ways["eager in bfloat16"] = lambda a=a, b=b: eager(a, b)
        else:
            ways["torch.compile"] = lambda: fast(queries, memory)
            if (peer := _faiss(queries, memory)) is not None:
                ways["FAISS IndexFlatIP"] = peer
        yield Case(
            f"min_cosine_distance {precision} {len(queries)}, {len(memory)} x {memory.shape[1]}",
            ways,
            exact=lambda: eager(few.double(), memory.double()),
            result=lambda distance: distance[: len(few)],
            flops=flops,
            flops_dtype=dtype,
        )


def _faiss(queries: Tensor, memory: Tensor) -> Callable[[], object] | None:
    """Its index is built before: it is the user's of many searches; on the CPU only."""
    if queries.device.type != "cpu":
        return None
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(memory.shape[1])
    index.add(F.normalize(memory, dim=1).numpy())
    return lambda: index.search(F.normalize(queries, dim=1).numpy(), 1)


def _text_case(tokens: list[Tensor], text: Tensor) -> Case:
    patches = [layer[:, 1:] for layer in tokens]

    def eager(layers: list[Tensor], text: Tensor) -> Tensor:
        sides = F.normalize(text, dim=-1)
        scores = [
            (F.normalize(x.to(text.dtype), dim=-1) @ sides.T / 0.07).softmax(dim=-1)[..., 1]
            for x in layers
        ]
        return torch.stack(scores).mean(dim=0)

    fast = torch.compile(eager, dynamic=False)
    return Case(
        f"text_anomaly_score {len(patches)} x {tuple(patches[0].shape)} {patches[0].dtype}",
        {
            "ours": lambda: text_anomaly_score(patches, text),
            "eager": lambda: eager(patches, text),
            "torch.compile": lambda: fast(patches, text),
        },
        exact=lambda: eager(patches, text.double()),
        moved=sum(layer.numel() * layer.element_size() for layer in patches),
    )


def _energy_cases(features: Tensor) -> Iterator[Case]:
    def eager(x: Tensor) -> Tensor:
        return x.float().square().sum(dim=1, keepdim=True)

    def gradient(way: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        leaf = features.detach().requires_grad_()
        grad = torch.ones_like(eager(features))
        return lambda: torch.autograd.grad(way(leaf), leaf, grad)[0]

    fast = torch.compile(eager, dynamic=False)
    last = "channels-last" if not features.is_contiguous() else "NCHW"
    name = f"{tuple(features.shape)} {last} {features.dtype}"
    size = features.numel() * features.element_size()
    yield Case(
        f"channel_energy {name}",
        {
            "ours": lambda: channel_energy(features),
            "eager": lambda: eager(features),
            "torch.compile": lambda: fast(features),
        },
        exact=lambda: features.double().square().sum(dim=1, keepdim=True),
        moved=size,
    )
    yield Case(
        f"channel_energy, forward and backward, {name}",
        {
            "ours": gradient(channel_energy),
            "eager": gradient(eager),
            "torch.compile": gradient(fast),
        },
        exact=lambda: 2 * features.double(),
        moved=3 * size,
    )


def _boxes_cases(maps: Tensor, kind: str) -> Iterator[Case]:
    """The peers only label: ours also fills holes, measures and sorts."""
    try:
        from detectron2_agssp.ops.anomaly_boxes import anomaly_boxes
    except ImportError:
        return
    thresholds = maps.flatten(1).quantile(0.9, dim=1)
    min_areas = torch.zeros_like(thresholds)

    def masks() -> np.ndarray:
        return (maps > thresholds[:, None, None]).byte().cpu().numpy()

    def opencv() -> None:
        for mask in masks():
            cv2.connectedComponentsWithStats(mask, connectivity=8)

    def scipy() -> None:
        for mask in masks():
            labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
            ndimage.find_objects(labels)

    yield Case(
        f"anomaly_boxes {tuple(maps.shape)} {kind}",
        {
            "ours": lambda: anomaly_boxes(maps, thresholds, min_areas, 10),
            "OpenCV connectedComponentsWithStats": opencv,
            "SciPy label": scipy,
        },
        moved=maps.numel() * maps.element_size(),
    )
