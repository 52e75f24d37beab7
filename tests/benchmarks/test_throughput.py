"""The benchmark of map generation: what it times is what it says."""

import pytest
import torch

from benchmarks.maps.throughput import (
    measure_throughput,
    plain_dual_attention,
    plain_networks,
)
from detectron2_agssp.scoring import build_anomaly_scorer
from detectron2_agssp.scoring.kead import encoder
from tests.child_process import run_script


def test_rates(tiny_cfg, image_folder):
    result = measure_throughput(tiny_cfg, image_folder, num_images=5, rounds=1)
    assert list(result.rates) == [
        "decode", "forward", "forward + score", "write", "together", "plain"
    ]  # fmt: skip
    assert all(rate > 0 for rate in result.rates.values())
    assert result.bottleneck == min(
        ("decode", "forward + score", "write"), key=result.rates.__getitem__
    )


def test_no_images(tiny_cfg, tmp_path):
    with pytest.raises(ValueError, match="holds no images to time"):
        measure_throughput(tiny_cfg, tmp_path)


def test_plain_model_is_the_same_model(tiny_cfg):
    scorer = build_anomaly_scorer(tiny_cfg)
    images = 255 * torch.rand(2, 3, 64, 64)
    expected = scorer.features(images)
    with plain_networks(scorer):
        level = scorer.features.levels(images)[0]
        assert level.is_contiguous()
        assert not level.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(scorer.features(images), expected, rtol=1e-3, atol=1e-4)


def test_plain_attention_is_the_same_attention():
    pytest.importorskip("open_clip")
    from open_clip.transformer import ResidualAttentionBlock

    torch.manual_seed(0)
    block = ResidualAttentionBlock(32, 4).eval()
    tokens = torch.randn(2, 7, 32)
    with torch.no_grad():
        fast, plain = encoder._dual_attention(block, tokens), plain_dual_attention(block, tokens)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_tool(image_folder, tmp_path):
    done = run_script(
        "benchmarks.maps", image_folder, "--num-images", 4, "--rounds", 1,
        "AGSSP.SCORER.WEIGHTS", "", "AGSSP.SCORER.IMAGE_SIZE", 64, "AGSSP.SCORER.BATCH_SIZE", 2,
        "AGSSP.SCORER.NUM_WORKERS", 0, output=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "x plain" in done.stdout
    assert "The bottleneck is" in done.stdout
