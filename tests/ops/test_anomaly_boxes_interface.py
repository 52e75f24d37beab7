"""Boxes of maps: types, layouts, threads, registration, and what is refused."""

import pytest
import torch

from detectron2_agssp.ops import anomaly_boxes
from tests.ops.box_cases import by_hand, find
from tests.ops.implementations import only_compiled, uniform

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_types(dtype):
    maps = uniform(3, 20, 30).to(dtype)
    expected = [by_hand(full) for full in maps.float().cpu().numpy()]
    assert find(maps) == expected
    boxes, scores, _ = anomaly_boxes(
        maps.requires_grad_(), torch.full((3,), 0.5).to(dtype), torch.tensor([0, 1, 2]), 4
    )
    assert boxes.dtype == scores.dtype == torch.float32
    assert not scores.requires_grad


@pytest.mark.parametrize(
    "layout",
    [
        lambda maps: maps.mT.contiguous().mT,
        lambda maps: torch.stack([maps, maps + 1], dim=-1).flatten(-2)[..., ::2],
        lambda maps: maps.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        lambda maps: maps[:1].expand_as(maps),
        lambda maps: maps[::2],
    ],
)
def test_layouts(layout):
    maps = layout(uniform(4, 20, 30))
    assert find(maps) == [by_hand(full) for full in maps.cpu().numpy()]


@only_compiled
def test_threads_change_nothing():
    maps = uniform(7, 90, 140)
    expected = [by_hand(full, min_area=1) for full in maps.cpu().numpy()]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8, 2, 1):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert find(maps, min_areas=1) == expected
    finally:
        torch.set_num_threads(before)


@only_compiled
@pytest.mark.parametrize("size", [None, (9, 14)])
def test_registration(size):
    maps = uniform(3, 20, 30)
    limits = torch.full((3,), 0.5), torch.full((3,), 2.0, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.detectron2_agssp.anomaly_boxes.default, (maps, *limits, 5), {"size": size}
    )


@only_compiled
def test_compiled():
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def run(maps, thresholds, max_boxes, image):
        return anomaly_boxes(
            maps, thresholds, torch.zeros_like(thresholds), max_boxes, size=image.shape[-2:]
        )

    for count, side in ((2, 20), (3, 31), (4, 40)):
        maps, limits, image = uniform(count, 8, 9), torch.full((count,), 0.5), torch.zeros(side)
        image = image.expand(3, side + 1, side)
        expected = anomaly_boxes(maps, limits, limits * 0, count + 2, size=(side + 1, side))
        found = run(maps, limits, count + 2, image)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


USUAL = {
    "maps": torch.zeros(2, 4, 5),
    "thresholds": torch.zeros(2),
    "min_areas": torch.zeros(2),
    "max_boxes": 3,
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maps": torch.zeros(4, 5)}, r"maps \(N, H, W\), got \(4, 5\)"),
        ({"maps": torch.zeros(2, 4, 5, dtype=torch.uint8)}, "torch.uint8"),
        ({"thresholds": torch.zeros(3)}, r"thresholds \(2,\), one of each map, got \(3,\)"),
        ({"thresholds": torch.tensor(0.5)}, r"got \(\)"),
        ({"min_areas": torch.zeros(2, 1)}, r"min_areas \(2,\), one of each map, got \(2, 1\)"),
        ({"min_areas": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
        ({"thresholds": torch.zeros(2, device="meta")}, "maps on cpu and thresholds on meta"),
        ({"max_boxes": 0}, "max_boxes to be at least 1, got 0"),
        ({"size": (4,)}, r"size of \(height, width\), got \(4,\)"),
        ({"size": (0, 4)}, "both sides of size to be at least 1, got 0"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        anomaly_boxes(**{**USUAL, **settings})


@only_compiled
def test_the_kernel_checks_for_itself():
    op = torch.ops.detectron2_agssp.anomaly_boxes
    maps, limits, areas = torch.zeros(2, 4, 5), torch.zeros(2), torch.zeros(2, dtype=torch.float64)
    for arguments in (
        (maps.half(), limits, areas, 1),
        (maps[0], limits, areas, 1),
        (maps, limits[:1], areas, 1),
        (maps, limits, areas.float(), 1),
        (maps, limits, areas, 0),
    ):
        with pytest.raises(ValueError, match="anomaly_boxes: "):
            op(*arguments)
    with pytest.raises(ValueError, match="size must be positive"):
        op(maps, limits, areas, 1, size=(4, 0))
