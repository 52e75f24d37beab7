"""KeAD with CLIP's real weights, where there are some."""

import os

import pytest
import torch

from detectron2_agssp.scoring import build_anomaly_scorer
from detectron2_agssp.scoring.kead.clip_model import load_clip
from detectron2_agssp.scoring.kead.descriptions import load_descriptions
from detectron2_agssp.scoring.kead.maps import text_sides
from detectron2_agssp.scoring.kead.prompts import encode_text_side
from detectron2_agssp.scoring.kead.text_cache import load_text_features

MODEL = "ViT-B-16-plus-240"
# Words that are in no description of the class.
OTHER_WORDS = {
    "crazing": "a photo of a mesh of hairline fractures in metal.",
    "inclusion": "a photo of foreign material embedded in metal, in stripes.",
    "patches": "a photo of stained metal with big black spots.",
    "pitted_surface": "a photo of corroded metal full of tiny holes.",
    "rolled-in_scale": "a photo of metal with oxide scale on it.",
    "scratches": "a photo of scratched metal.",
}


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("open_clip")
    path = os.environ.get("AGSSP_CLIP_WEIGHTS", "")
    if not os.path.isfile(path):
        pytest.skip(f"AGSSP_CLIP_WEIGHTS is {path!r}; it may name a file of {MODEL}'s weights")
    return path


@pytest.fixture(autouse=True, scope="module")
def own_text_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_other_words_for_a_defect_find_it(weights):
    """Less the empty prompt, they are nearer to the defect's own text than to the normal one, and
    for most defects to no other defect's."""
    import open_clip

    clip = load_clip(MODEL, weights)
    (strip,) = load_descriptions("neu_det").values()
    features = load_text_features(clip, MODEL, strip)
    assert features.defect_names == tuple(OTHER_WORDS)
    assert features.normal.shape == (640,)
    torch.testing.assert_close(features.defects.norm(dim=1), torch.ones(6))
    tokenizer = open_clip.get_tokenizer(MODEL)
    found = 0
    for index, (name, words) in enumerate(OTHER_WORDS.items()):
        said = encode_text_side([words], clip.encode_text, tokenizer)
        normal, defect = text_sides(features.normal, features.defects[index], features.empty)
        direction = said - features.empty
        assert direction @ defect > direction @ normal, name
        cosines = torch.nn.functional.normalize(features.defects - features.empty, dim=1)
        found += (cosines @ direction).argmax() == index
    assert found >= 3


@pytest.mark.parametrize("layers", [(3, 6, 9, 12), (3, 12, 12, 12)])
def test_maps(weights, tiny_cfg, surface, layers):
    tiny_cfg.AGSSP.SCORER.NAME = "kead"
    tiny_cfg.AGSSP.SCORER.IMAGE_SIZE = 240
    kead = tiny_cfg.AGSSP.SCORER.KEAD
    kead.PRETRAINED, kead.DESCRIPTIONS, kead.DEFECT_MAPS = weights, "neu_det", True
    kead.FEATURE_LAYERS = layers
    scorer = build_anomaly_scorer(tiny_cfg)
    pixels = torch.from_numpy(surface(240, 240)).permute(2, 0, 1)[None].float()
    scores, defects = scorer.score_defects(pixels)
    assert scores.maps.shape == (1, 15, 15)
    assert defects.shape == (1, 6, 15, 15)
    assert 0 <= scores.maps.min() < scores.maps.max() <= 1
