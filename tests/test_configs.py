"""Every shipped config: it loads, its model is built, and its settings make sense together."""

import pytest
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from omegaconf import ListConfig
from torch import nn

from detectron2_agssp.config import settings_of
from detectron2_agssp.data import MAPPER_REGISTRY
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.modeling.teacher import detector_config
from detectron2_agssp.scoring import ANOMALY_SCORER_REGISTRY, build_anomaly_scorer
from tests import small_clip
from tests.tiny_models import CONFIGS, make_cfg


def shipped(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob(pattern))


STAGES = ("agbp", "agdp", "finetune", "teacher")
TRAINING = [path for stage in STAGES for path in shipped(f"{stage}/*.yaml")]
# AGDP without AGBP's weights, on the maps of its backbone.
FROM_IMAGENET = ["agdp/faster_rcnn_lite0_fpn_energy.yaml"]
# AGDP in which the backbone learns, as AGBP had no weights to start from.
UNFROZEN = ["agdp/yolo_cspdarknet_n.yaml"]
MAPS = shipped("maps/*.yaml")
ONLY_IN_ONE = ("backbone_name", "loss_weight")
SEQUENCES = (tuple, list, ListConfig)
LAZY = [path for path in shipped("lazy/*.py") if "common" not in path]
YAML_OF_LAZY = {
    "lazy/agbp_lite0.py": "agbp/lite0.yaml",
    "lazy/agbp_swin_b.py": "agbp/swin_b.yaml",
    "lazy/agdp_faster_rcnn_lite0_fpn.py": "agdp/faster_rcnn_lite0_fpn.yaml",
    "lazy/agdp_yolo_cspdarknet_n.py": "agdp/yolo_cspdarknet_n.yaml",
    "lazy/faster_rcnn_lite0_fpn.py": "finetune/faster_rcnn_lite0_fpn.yaml",
    "lazy/yolo_cspdarknet_n.py": "finetune/yolo_cspdarknet_n.yaml",
}


@pytest.mark.parametrize("path", TRAINING)
def test_its_model_is_built(path, monkeypatch):
    # Values do not matter, and those of a Swin-B take seconds to draw.
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    cfg = make_cfg(path, {"MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": ""})
    model = build_model(cfg)
    optimizer = AGSSPTrainer.build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer)
    frozen = not any(p.requires_grad for p in backbone_parameters(model))
    assert frozen == (path.startswith("agdp") and path not in FROM_IMAGENET + UNFROZEN)


def backbone_parameters(model):
    model = getattr(model, "student", model)
    return getattr(model.backbone, "bottom_up", model.backbone).parameters()


@pytest.mark.parametrize("path", TRAINING)
def test_solver_and_input(path):
    cfg = make_cfg(path)
    solver = cfg.SOLVER
    assert 0 < solver.WARMUP_ITERS < solver.MAX_ITER / 2
    assert 0 < solver.CHECKPOINT_PERIOD < solver.MAX_ITER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        assert list(solver.STEPS) == sorted(set(solver.STEPS))
        assert solver.STEPS[0] > solver.WARMUP_ITERS
        assert solver.STEPS[-1] < solver.MAX_ITER
    assert max(cfg.INPUT.MIN_SIZE_TRAIN) <= cfg.INPUT.MAX_SIZE_TRAIN
    assert cfg.INPUT.MIN_SIZE_TEST <= cfg.INPUT.MAX_SIZE_TEST
    assert max(cfg.INPUT.MIN_SIZE_TRAIN) >= cfg.INPUT.MIN_SIZE_TEST
    if cfg.INPUT.CROP.ENABLED:
        assert max(cfg.INPUT.CROP.SIZE) <= min(cfg.INPUT.MIN_SIZE_TRAIN)
    if cfg.AGSSP.SOLVER.BEST_METRIC:
        assert cfg.TEST.EVAL_PERIOD > 0
        assert cfg.DATASETS.TEST
    if "lite0" in path:
        assert cfg.INPUT.FORMAT == "RGB"
        assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([127.0] * 3, [128.0] * 3)
    elif "swin" in path:
        assert cfg.INPUT.FORMAT == "RGB"
        assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
        assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    elif "cspdarknet" in path:
        assert cfg.INPUT.FORMAT == "RGB"
        assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ([0.0] * 3, [255.0] * 3)
    else:
        # As Detectron2's ImageNet weights want it.
        assert cfg.INPUT.FORMAT == "BGR"
        assert cfg.MODEL.PIXEL_STD == [1.0] * 3
        assert cfg.MODEL.WEIGHTS.startswith(("detectron2://", "output/agbp/"))


@pytest.mark.parametrize("path", TRAINING)
def test_stage(path):
    cfg = make_cfg(path)
    stage = path.split("/")[0]
    mappers = {"agbp": "AnomalyMapMapper", "agdp": "PseudoBoxMapper", "teacher": "TeacherMapper"}
    mapper = mappers.get(stage, "DetectionMapper")
    if cfg.AGSSP.PRETEXT.NAME == "MoCoV3":
        mapper = "TwoViewMapper"
    assert mapper == cfg.AGSSP.MAPPER
    assert mapper in MAPPER_REGISTRY
    suffix = {"agbp": "agssp_neu_det", "agdp": "agssp_neu_det_boxes"}.get(stage, "10pct_draw0")
    if path in FROM_IMAGENET:
        suffix = "agssp_neu_det_energy_boxes"
    dataset, num_classes = "neu_det", 6
    if cfg.MODEL.MASK_ON:
        # The one with masks.
        dataset, num_classes = "magnetic_tile", 5
        suffix = suffix.replace("neu_det", dataset)
        assert cfg.INPUT.MASK_FORMAT == "bitmask"
    assert cfg.DATASETS.TRAIN
    assert all(name.endswith(suffix) and dataset in name for name in cfg.DATASETS.TRAIN)
    assert (cfg.MODEL.META_ARCHITECTURE == "AnomalyDistiller") == (stage == "agbp")
    assert (cfg.MODEL.META_ARCHITECTURE == "TeacherStudent") == (stage == "teacher")
    if stage == "agbp":
        assert len(cfg.AGSSP.DISTILL.IN_FEATURES) == len(cfg.AGSSP.DISTILL.LOSS_WEIGHTS)
    else:
        heads = {"RetinaNet": cfg.MODEL.RETINANET, "FCOS": cfg.AGSSP.FCOS}
        heads |= {"YOLO": cfg.AGSSP.YOLO, "DINO": cfg.AGSSP.DINO}
        head = heads.get(detector_config(cfg).MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS)
        assert (1 if stage == "agdp" else num_classes) == head.NUM_CLASSES
    if stage == "agdp":
        assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        starts = [
            f"{make_cfg(other).OUTPUT_DIR}/model_final.pth" for other in shipped("agbp/*.yaml")
        ]
        assert cfg.MODEL.WEIGHTS in ([""] if path in FROM_IMAGENET else starts)


def test_output_folders_are_unique_and_follow_the_file():
    folders = [make_cfg(path).OUTPUT_DIR for path in TRAINING]
    assert folders == [f"output/{path.removesuffix('.yaml')}" for path in TRAINING]


@pytest.mark.parametrize("path", MAPS)
def test_maps_name_a_registered_scorer(path):
    assert make_cfg(path).AGSSP.SCORER.NAME in ANOMALY_SCORER_REGISTRY


@pytest.mark.parametrize("path", MAPS)
def test_its_scorer_is_built(path, tmp_path):
    """On random weights, and a small stand-in for CLIP."""
    stand_ins = {"AGSSP.SCORER.DEVICE": "cpu", "AGSSP.SCORER.WEIGHTS": "", "MODEL.WEIGHTS": ""}
    cfg = make_cfg(path, stand_ins)
    scorer = cfg.AGSSP.SCORER
    if scorer.NAME == "kead" or scorer.FEATURES == "clip":
        pytest.importorskip("open_clip")
        assert scorer.KEAD.MODEL.endswith(f"-{scorer.IMAGE_SIZE}")
        scorer.IMAGE_SIZE = small_clip.CONFIG["vision_cfg"]["image_size"]
        scorer.KEAD.MODEL = small_clip.NAME
        scorer.KEAD.PRETRAINED = str(small_clip.make_small_clip(tmp_path))
    assert build_anomaly_scorer(cfg).image_size == scorer.IMAGE_SIZE


def test_kead_configs():
    """They differ in the normal images and what the examples are of."""
    zero_shot, few_shot = (make_cfg(f"maps/kead{kind}.yaml") for kind in ("", "_few_shot"))
    assert (zero_shot.AGSSP.SCORER.KEAD.MODE, few_shot.AGSSP.SCORER.KEAD.MODE) == (
        "zero_shot",
        "both",
    )
    assert few_shot.AGSSP.SCORER.NORMAL_IMAGES
    for cfg in (zero_shot, few_shot):
        assert not cfg.AGSSP.SCORER.KEAD.ALLOW_DOWNLOAD
        cfg.AGSSP.SCORER.NORMAL_IMAGES = ()
        cfg.AGSSP.SCORER.KEAD.MODE = cfg.AGSSP.SCORER.KEAD.DESCRIPTIONS = ""
    assert settings_of(zero_shot.AGSSP) == settings_of(few_shot.AGSSP)


def test_mahalanobis_has_the_defaults_as_it_says():
    cfg, defaults = make_cfg("maps/mahalanobis.yaml"), get_cfg()
    assert settings_of(cfg.AGSSP) == settings_of(defaults.AGSSP)


@pytest.mark.parametrize("name", ["memory", "mutual", "synthetic"])
def test_scorers_without_text_look_at_the_same(name):
    """At other cells, as they compare cells with cells, or cut them finely; their own keys are
    spelled out."""
    cfg, expected = make_cfg(f"maps/{name}.yaml"), get_cfg()
    assert name == cfg.AGSSP.SCORER.NAME
    expected.AGSSP.SCORER.NAME = name
    sizes = {"memory": (256, (8, 16)), "mutual": (384, (16, 32))}
    sizes["synthetic"] = (256, (4, 8, 16, 32))
    expected.AGSSP.SCORER.IMAGE_SIZE, expected.AGSSP.SCORER.STRIDES = sizes[name]
    assert settings_of(cfg.AGSSP) == settings_of(expected.AGSSP)
    spelled_out = CfgNode.load_yaml_with_base(str(CONFIGS / f"maps/{name}.yaml"))
    assert set(spelled_out["AGSSP"]["SCORER"][name.upper()]) == set(cfg.AGSSP.SCORER[name.upper()])


def test_ensemble_has_the_defaults_as_mahalanobis_has():
    cfg, expected = make_cfg("maps/ensemble.yaml"), get_cfg()
    expected.AGSSP.SCORER.NAME = "ensemble"
    assert settings_of(cfg.AGSSP) == settings_of(expected.AGSSP)
    # Its member `synthetic` is that of its own config.
    alone = make_cfg("maps/synthetic.yaml").AGSSP.SCORER
    member = f"synthetic IMAGE_SIZE {alone.IMAGE_SIZE} STRIDES {alone.STRIDES}".replace(", ", ",")
    assert ("mahalanobis", member) == cfg.AGSSP.SCORER.ENSEMBLE.MEMBERS


def test_every_lazy_config_has_its_yaml():
    assert sorted(YAML_OF_LAZY) == LAZY


@pytest.mark.parametrize("path", LAZY)
def test_lazy_model_is_that_of_the_yaml(path, monkeypatch):
    """The same tensors, the same frozen ones, and the numbers that make no tensor."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    lazy = instantiate(LazyConfig.load(str(CONFIGS / path)).model)
    expected = build_model(make_cfg(YAML_OF_LAZY[path], {"MODEL.DEVICE": "cpu"}))
    assert shapes_of(lazy) == shapes_of(expected)
    assert numbers_of(lazy) == numbers_of(expected)


def shapes_of(model) -> dict:
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: (t.shape, name in trainable) for name, t in model.state_dict().items()}


def numbers_of(module) -> dict:
    """What the modules hold beside tensors: sizes, thresholds, names."""
    return {
        (name, key): list(value) if isinstance(value, SEQUENCES) else value
        for name, child in module.named_modules()
        for key, value in vars(child).items()
        # The yaml's builders give the backbone another name, for exports, and leave out the weights
        # of losses that are 1.
        if is_simple(value) and not key.startswith("_") and key not in ONLY_IN_ONE
    }


def is_simple(value) -> bool:
    if isinstance(value, dict):
        return all(map(is_simple, value.values()))
    if isinstance(value, SEQUENCES):
        return all(map(is_simple, value))
    return isinstance(value, (int, float, str))


@pytest.mark.parametrize("path", LAZY)
def test_lazy_training_is_that_of_the_yaml(path):
    lazy, cfg = LazyConfig.load(str(CONFIGS / path)), make_cfg(YAML_OF_LAZY[path])
    loader = lazy.dataloader.train
    assert lazy.dataset_names.train in cfg.DATASETS.TRAIN
    assert loader.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert loader.num_workers == cfg.DATALOADER.NUM_WORKERS
    assert loader.mapper.image_format == cfg.INPUT.FORMAT
    resize = loader.mapper.augmentations[0]
    assert tuple(resize.short_edge_length) == cfg.INPUT.MIN_SIZE_TRAIN
    assert (resize.max_size, resize.sample_style) == (
        cfg.INPUT.MAX_SIZE_TRAIN,
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
    )
    assert all(instantiate(augmentation) for augmentation in loader.mapper.augmentations)
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert lazy.train.device == cfg.MODEL.DEVICE
    assert lazy.optimizer.lr == cfg.SOLVER.BASE_LR
    lazy.optimizer.params.model = model = nn.Linear(2, 2)
    ours, expected = instantiate(lazy.optimizer), AGSSPTrainer.build_optimizer(cfg, model)
    assert isinstance(expected, type(ours))
    for key in ("weight_decay", "momentum", "nesterov", "betas"):
        assert [group.get(key) for group in ours.param_groups] == [
            group.get(key) for group in expected.param_groups
        ]
    assert lazy.optimizer.weight_decay == cfg.SOLVER.WEIGHT_DECAY
    warmup = cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER
    assert instantiate(lazy.lr_multiplier)(0.5 * warmup) < 0.6
    assert lazy.lr_multiplier.warmup_length == pytest.approx(warmup)
    assert bool(lazy.train.init_checkpoint) == bool(cfg.MODEL.WEIGHTS)
