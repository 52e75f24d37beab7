"""How many pseudo-boxes a data set of maps has: to be seen before training on them."""

from dataclasses import dataclass

from detectron2.data import DatasetCatalog

from detectron2_agssp.boxes.rule import BoxRule
from detectron2_agssp.maps.store import load_map

# A look at the start, not a pass over a large data set.
MAX_IMAGES = 1000


@dataclass(frozen=True)
class BoxCounts:
    """Of the images that were looked at, of all, and of those with at least one box."""

    boxes: int
    with_boxes: int
    images: int
    all_images: int
    threshold: float

    def __str__(self) -> str:
        sampled = f" (a sample of {self.all_images})" if self.images < self.all_images else ""
        return (
            f"{self.boxes} boxes in {self.with_boxes} of {self.images} images{sampled}, threshold "
            f"{self.threshold:.3f}"
        )


def count_boxes(name: str, rule: BoxRule, max_images: int = MAX_IMAGES) -> BoxCounts:
    """Cuts the boxes of a registered data set of maps, of ``max_images`` evenly spread ones if it
    has more."""
    dicts = DatasetCatalog.get(name)
    looked_at = dicts[:: -(-len(dicts) // max_images)]
    numbers = []
    for entry in looked_at:
        boxes, _ = rule(
            load_map(entry["map_file"]), entry["height"], entry["width"], entry["source"]
        )
        numbers.append(len(boxes))
    return BoxCounts(
        boxes=sum(numbers),
        with_boxes=sum(number > 0 for number in numbers),
        images=len(looked_at),
        all_images=len(dicts),
        threshold=rule.mean_threshold,
    )
