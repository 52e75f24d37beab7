"""KeAD against the golden numbers: every variant, every layer."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("open_clip")
from open_clip.transformer import VisionTransformer

from detectron2_agssp.scoring.kead import (
    VVAttentionEncoder,
    few_shot_maps,
    text_anomaly_image_scores,
    text_anomaly_maps,
)

LAYERS = (3, 6, 9, 12)
# The published code's in-place sum makes the layers after the first one tensor.
VARIANTS = {
    "vv": {"residual": False},
    "vv_res": {"residual": True},
    "vv_res_published": {"residual": True, "feature_layers": (3, 12, 12, 12)},
}


@pytest.fixture(params=["kead_dev", "kead_dev_rect"])
def archive(request, golden):
    with np.load(golden(f"{request.param}.npz")) as file:
        return {name: file[name] for name in file.files}


def tensor(archive, name):
    return torch.from_numpy(archive[name])


@pytest.fixture
def visual(archive):
    config = json.loads(str(archive["config"]))
    model = VisionTransformer(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        width=config["width"],
        layers=config["layers"],
        heads=config["width"] // config["head_width"],
        mlp_ratio=4.0,
        output_dim=config["embed_dim"],
    ).eval()
    prefix = "weights/visual."
    weights = {
        name[len(prefix) :]: torch.from_numpy(value)
        for name, value in archive.items()
        if name.startswith(prefix)
    }
    model.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_golden_variant(archive, visual, variant):
    encoder = VVAttentionEncoder(visual, **{"feature_layers": LAYERS, **VARIANTS[variant]})

    def close(actual, name):
        expected = archive[f"{variant}/{name}"]
        np.testing.assert_allclose(actual.numpy(), expected, atol=1e-4, rtol=1e-4)

    embedding, patches = encoder(tensor(archive, "images"))
    _, memory = encoder(tensor(archive, "normal_images"))
    close(embedding, "image_embedding")
    for layer, patch_embedding in zip(LAYERS, patches, strict=True):
        close(patch_embedding, f"patch_embedding_layer{layer}")
    texts = [tensor(archive, f"text_{side}")[0] for side in ("normal", "anomaly", "empty")]
    zero_shot = text_anomaly_maps(patches, *texts)
    few_shot = few_shot_maps(patches, memory)
    score = text_anomaly_image_scores(embedding, *texts)
    close(zero_shot, "zero_shot_map")
    close(score, "zero_shot_score")
    close(few_shot, "few_shot_term")
    combined = zero_shot + few_shot
    close(combined, "few_shot_map")
    close((score + combined.flatten(1).amax(dim=1)) / 2, "few_shot_score")


@torch.no_grad()
def test_modules_stay_as_they_are(archive, visual):
    """The encoder adds no parameter, and CLIP's own forward gives what it gave before."""
    before = visual(tensor(archive, "images"))
    encoder = VVAttentionEncoder(visual)
    embedding, _ = encoder(tensor(archive, "images"))
    assert {p.data_ptr() for p in encoder.parameters()} == {
        p.data_ptr() for p in visual.parameters()
    }
    torch.testing.assert_close(visual(tensor(archive, "images")), before, rtol=0, atol=0)
    torch.testing.assert_close(embedding, before, rtol=1e-4, atol=1e-5)
