"""A folder as ``$DETECTRON2_DATASETS`` is: NEU-DET of a few tiny images, and maps of them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detectron2_agssp.data.builtin import CLASSES
from detectron2_agssp.io.masks import encode_mask
from detectron2_agssp.maps.store import MapStore

HEIGHT, WIDTH = 48, 64
MAPS = "tiny"
# Overrides of the shipped LazyConfig of AGBP, for these maps.
TINY_LAZY_AGBP = {
    "dataset_names.train": "agssp_tiny",
    "dataloader.train.num_workers": 0,
    "dataloader.train.total_batch_size": 2,
    "dataloader.train.mapper.augmentations.0.short_edge_length": "[64,64]",
    "dataloader.train.mapper.augmentations.1.crop_size": "[48,48]",
    "model.backbone.model": "mobilenetv3_small_050",
    "model.backbone.weights": "''",
}


def write_datasets(root: Path, num_images: int = 4) -> Path:
    """``neu_det_train``, ``neu_det_test`` and the maps ``agssp_tiny``, all of the same images: a
    bright defect of 16 x 20 pixels, with its mask, on a dark noisy surface."""
    rng = np.random.default_rng(0)
    image_root = root / "neu_det" / "images"
    image_root.mkdir(parents=True)
    store = MapStore(root / "agssp" / MAPS)
    images, annotations = [], []
    for index in range(num_images):
        name = f"{index}.png"
        x, y = 8 * index % (WIDTH - 20), 8 * index % (HEIGHT - 16)
        pixels = rng.integers(40, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[y : y + 16, x : x + 20] += 140
        Image.fromarray(pixels).save(image_root / name)
        anomaly_map = np.zeros((HEIGHT // 4, WIDTH // 4), np.float32)
        anomaly_map[y // 4 : y // 4 + 4, x // 4 : x // 4 + 5] = 0.9
        store.write_map(name, anomaly_map)
        size = {"height": HEIGHT, "width": WIDTH}
        entry = {"image": name, "map": store.map_name(name), "source": "tiny", "score": 0.9}
        store.append([{**entry, **size}])
        images.append({"id": index + 1, "file_name": name, **size})
        category = 1 + index % len(CLASSES["neu_det"])
        box = {"bbox": [x, y, 20, 16], "area": 320, "iscrowd": 0, "category_id": category}
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + 16, x : x + 20] = True
        box["segmentation"] = encode_mask(mask)
        annotations.append({"id": index + 1, "image_id": index + 1, **box})
    (store.root / "scorer.json").write_text(json.dumps({"image_root": str(image_root)}))
    categories = [{"id": id_, "name": name} for id_, name in enumerate(CLASSES["neu_det"], start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "neu_det" / "annotations").mkdir()
    for split in ("train", "test"):
        (root / "neu_det" / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def final_metrics(output: Path) -> dict[str, float]:
    """The last value of everything in Detectron2's metrics.json."""
    metrics = {}
    for line in (output / "metrics.json").read_text().splitlines():
        metrics.update(json.loads(line))
    return metrics
