"""The zoo's cards and their page; the committed weights."""

import shutil

import pytest
import torch
import yaml

from benchmarks.zoo import read_cards, update_document
from detectron2_agssp.checkpoint import load_weights
from detectron2_agssp.io.zoo_files import zoo_root
from tests.tiny_models import ROOT, make_model

CARD = {
    "what": "A small detector",
    "config": "agssp://finetune/faster_rcnn_lite0_fpn.yaml",
    "settings": {"MODEL.FPN.OUT_CHANNELS": 64, "MODEL.RPN.CONV_DIMS": [64]},
    "data": [{"set": "plates", "images": 70, "where": "a drawer", "licence": "not stated"}],
    "command": "agssp pretrain plates out\n",
    "commit": "0123abc",
    "time": "12 minutes on two cores",
    "figures": ["AP 12.3 on plates."],
    "ap": "12.3 (plates)",
    "limits": ["Seen on plates alone."],
}
PAGE = "Before\n<!-- generated: zoo -->\nstale\n<!-- end -->\nAfter\n"
CARDS = read_cards(zoo_root())


def write_zoo(root, **cards):
    for name, card in cards.items():
        (root / f"{name}.pth").write_bytes(name.encode())
        (root / f"{name}.yaml").write_text(yaml.safe_dump({**CARD, **card}))
    return root


def test_every_card_becomes_a_row_and_a_section(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    bare = {"what": "Its backbone", "config": "", "settings": {}, "ap": "", "figures": []}
    bare["data"] = "detector"
    root = write_zoo(tmp_path, detector={}, backbone=bare)
    assert update_document(page, root)
    assert not update_document(page, root), "once is enough"
    text = page.read_text()
    assert text.startswith("Before\n<!-- generated: zoo -->\n| `MODEL.WEIGHTS`")
    assert text.endswith("<!-- end -->\nAfter\n")
    assert "stale" not in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "|" in line]
    backbone, detector = (dict(zip(rows[0], row, strict=True)) for row in rows[2:4])
    assert detector["`MODEL.WEIGHTS`"] == "`agssp://zoo/detector.pth`"
    assert detector["what it is"] == "A small detector"
    assert detector["config"] == "`agssp://finetune/faster_rcnn_lite0_fpn.yaml`"
    assert (detector["made in"], detector["AP"]) == ("12 minutes on two cores", "12.3 (plates)")
    assert (backbone["config"], backbone["AP"]) == ("any with its backbone", "not measured")
    assert text.count("### ") == 2
    # What is to be pasted.
    assert (
        "agssp train --config-file agssp://finetune/faster_rcnn_lite0_fpn.yaml "
        "MODEL.WEIGHTS agssp://zoo/detector.pth \\\n"
        '    MODEL.FPN.OUT_CHANNELS 64 \\\n    MODEL.RPN.CONV_DIMS "[64]"\n'
    ) in text
    for said in ("- Seen on plates alone.", "- AP 12.3 on plates.", "commit `0123abc`", "a drawer"):
        assert said in text
    assert text.count("a drawer") == 1
    assert "without labels: what [detector](#detector) has.\n" in text


def test_a_zoo_without_weights_says_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert update_document(page, tmp_path)
    assert "-->\nThere are no weights in the zoo yet.\n<!--" in page.read_text()


def test_errors(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"page\.md has no place for the cards"):
        update_document(tmp_path / "page.md", write_zoo(tmp_path, a={}))
    with pytest.raises(
        ValueError, match=r"a\.yaml: nothing is said of limits, commit|of commit, l"
    ):
        read_cards(write_zoo(tmp_path, a={"limits": [], "commit": ""}))
    with pytest.raises(ValueError, match=r"a\.yaml: a card has the keys what.*mood"):
        read_cards(write_zoo(tmp_path, a={"mood": "good"}))
    for other in ("a", "nosuch"):
        with pytest.raises(ValueError, match=rf"a\.yaml: there is no other card '{other}' of its"):
            read_cards(write_zoo(tmp_path, a={"data": other}))
    write_zoo(tmp_path, a={}, b={})
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.pth").unlink()
    with pytest.raises(ValueError, match="of a, b there is only one of the two"):
        read_cards(tmp_path)


def test_the_committed_page_shows_the_committed_cards(tmp_path):
    copy = shutil.copy(ROOT / "docs" / "zoo.md", tmp_path)
    assert not update_document(copy), "run python -m benchmarks.zoo --update-docs docs/zoo.md"


@pytest.mark.parametrize("name", CARDS)
def test_the_committed_weights_are_what_their_card_says(name):
    path, card = zoo_root() / f"{name}.pth", CARDS[name]
    assert path.stat().st_size <= 12e6
    content = torch.load(path, weights_only=True)
    kinds = {tensor.dtype for tensor in content["model"].values() if tensor.dim() > 1}
    assert kinds == {torch.float16}
    config = card.config or "agssp://finetune/faster_rcnn_lite0_fpn.yaml"
    random = {"AGSSP.TIMM.WEIGHTS": "", "MODEL.DEVICE": "cpu"}
    model = make_model(config.removeprefix("agssp://"), random, card.settings)
    parts = load_weights(model, f"agssp://zoo/{name}.pth")
    assert parts["backbone"].missing == ()
    afresh = ("roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred.")
    if card.config:
        assert parts["neck"].missing == ()
        assert all(name.startswith(afresh) for name in parts["heads"].missing)
