"""The encoder on CLIP's own parts: what it leaves as it is, and what it refuses."""

import pytest
import torch

from detectron2_agssp.scoring.kead import VVAttentionEncoder
from detectron2_agssp.scoring.kead.clip_model import load_clip
from detectron2_agssp.scoring.kead.encoder import resize_positions
from tests.small_clip import register_clip

pytest.importorskip("open_clip")


def images(count: int, height: int = 96, width: int = 96) -> torch.Tensor:
    return 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_without_vv_blocks_patches_are_clips_own(build):
    scorer = build(NUM_VV_BLOCKS=0, FEATURE_LAYERS=(12,))
    visual = scorer.encoder.encoder.visual
    pixels = (images(2) - scorer.encoder.mean) / scorer.encoder.std
    tokens = visual.ln_post(visual.transformer(visual._embeds(pixels))) @ visual.proj
    (patches,) = scorer.encoder(images(2))[1]
    torch.testing.assert_close(patches, tokens, rtol=1e-4, atol=1e-4)


def test_positions_of_other_grids(build):
    table = build().encoder.encoder.visual.positional_embedding
    assert resize_positions(table, (6, 6), (6, 6)) is table
    wide = resize_positions(table, (6, 6), (4, 8))
    assert wide.shape == (33, 64)
    torch.testing.assert_close(wide[0], table[0])
    # The table of a ramp along the rows is one in the new grid too: rows and columns keep apart.
    rows = torch.arange(6.0)[:, None, None].expand(6, 6, 1).flatten(0, 1)
    ramp = resize_positions(torch.cat([torch.zeros(1, 1), rows]), (6, 6), (4, 8))[1:].view(4, 8)
    torch.testing.assert_close(ramp, ramp[:, :1].expand(4, 8))
    assert (ramp[1:] > ramp[:-1]).all()


def test_images_that_do_not_fit(build):
    scorer = build()
    with pytest.raises(ValueError, match=r"8 x 96 pixels are smaller than one patch of 16 x 16"):
        scorer(images(1, 8, 96))
    with pytest.raises(ValueError, match=r"96 x 100 pixels do not divide into patches of 16"):
        scorer(images(1, 96, 100))
    with pytest.raises(ValueError, match=r"Images must be RGB.*\(1, 96, 96\)"):
        scorer(images(1)[0, :1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": ""},
            "TimmModel is not an open_clip VisionTransformer",
        ),
        ({"layers": [1, 1, 1, 1], "width": 8}, "ModifiedResNet is not an open_clip Vision"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "pools by attention"),
        ({"block_type": "custom", "qk_norm": True}, "needs torch.nn.MultiheadAttention"),
    ],
)
def test_visuals_that_are_refused(changes, message, tmp_path):
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1}
    dimension = 192 if "timm_model_name" in changes else 32
    register_clip(
        tmp_path,
        "agssp-odd",
        embed_dim=dimension,
        vision_cfg={**vision, **changes},
        text_cfg=text,
    )
    visual = load_clip("agssp-odd", "").visual
    with pytest.raises(ValueError, match=message) as caught:
        VVAttentionEncoder(visual, feature_layers=(1,), num_vv_blocks=1)
    assert "ViT-B-16-plus-240" in str(caught.value)
