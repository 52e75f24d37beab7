"""KeAD with CLIP's real weights, where there are some."""

import os

import pytest
import torch

from detectron2_agssp.scoring import build_anomaly_scorer
from detectron2_agssp.scoring.kead.clip_model import load_clip, load_tokenizer
from detectron2_agssp.scoring.kead.descriptions import load_descriptions
from detectron2_agssp.scoring.kead.maps import text_sides
from detectron2_agssp.scoring.kead.prompts import build_text_features, encode_text_side

MODEL = "ViT-B-16-plus-240"
# Of NEU-DET's defects, words that are in none of their descriptions.
OTHER_WORDS = (
    "a photo of a mesh of hairline fractures in metal.",
    "a photo of foreign material embedded in metal, in stripes.",
    "a photo of stained metal with big black spots.",
    "a photo of corroded metal full of tiny holes.",
    "a photo of metal with oxide scale on it.",
    "a photo of scratched metal.",
)


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("open_clip")
    path = os.environ.get("AGSSP_CLIP_WEIGHTS", "")
    if not os.path.isfile(path):
        pytest.skip(f"AGSSP_CLIP_WEIGHTS is {path!r}; it may name a file of {MODEL}'s weights")
    return path


def test_other_words_for_a_defect_find_it(weights):
    """Less the empty prompt, they are nearer to the defects' text than to the normal one."""
    clip, tokenizer = load_clip(MODEL, weights), load_tokenizer(MODEL)
    (strip,) = load_descriptions("neu_det").values()
    features = build_text_features(clip, tokenizer, strip)
    assert features.normal.shape == (640,)
    normal, anomaly = text_sides(*features)
    for words in OTHER_WORDS:
        said = encode_text_side([words], clip.encode_text, tokenizer) - features.empty
        assert said @ anomaly > said @ normal, words


@pytest.mark.parametrize("layers", [(3, 6, 9, 12), (3, 12, 12, 12)])
def test_maps(weights, tiny_cfg, surface, layers):
    tiny_cfg.AGSSP.SCORER.NAME = "kead"
    tiny_cfg.AGSSP.SCORER.IMAGE_SIZE = 240
    kead = tiny_cfg.AGSSP.SCORER.KEAD
    kead.PRETRAINED, kead.DESCRIPTIONS = weights, "neu_det"
    kead.FEATURE_LAYERS = layers
    scorer = build_anomaly_scorer(tiny_cfg)
    pixels = torch.from_numpy(surface(240, 240)).permute(2, 0, 1)[None].float()
    maps = scorer(pixels).maps
    assert maps.shape == (1, 15, 15)
    assert 0 <= maps.min() < maps.max() <= 1
