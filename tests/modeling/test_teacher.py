"""Teacher and student round one detector."""

import copy

import pytest
import torch
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from detectron2_agssp.modeling import teacher as teacher_module
from detectron2_agssp.modeling.teacher import TRAINING_STATE, detector_weights
from tests.tiny_models import SMALL_R50, SMALL_TIMM, copy_of, detection_inputs, make_model

SETTINGS = {
    **SMALL_TIMM,
    "AGSSP.CSPDARKNET.SIZE": "nano",
    "AGSSP.TEACHER.BURN_IN": 0.0,
    "AGSSP.TEACHER.GUIDANCE": 0.5,
    "AGSSP.TEACHER.IGNORE_COMPONENTS": True,
    "AGSSP.TEACHER.SCORE_BOUNDS": (0.0, 0.9),
}
SIZES = ((64, 96), (64, 64))
SMALL_DINO = {
    "HIDDEN_DIM": 32,
    "FEEDFORWARD_DIM": 16,
    "ENCODER_LAYERS": 1,
    "DECODER_LAYERS": 2,
    "DN_QUERIES": 8,
}
DETECTORS = ["faster_rcnn_lite0_fpn", "retinanet_lite0_fpn", "yolo_cspdarknet_s"]


def make_teacher(name="faster_rcnn_lite0_fpn", **settings):
    own = {f"AGSSP.TEACHER.{key}": value for key, value in settings.items()}
    return make_model(f"teacher/{name}.yaml", SETTINGS, own).train()


def inputs_with_pairs(maps=True, withheld=False):
    """Labelled images, each with one unlabelled: its mirror image is the strong view."""
    inputs = detection_inputs(*SIZES)
    for own in inputs:
        image = own["image"]
        _, height, width = image.shape
        matrix = torch.tensor([[-1.0, 0, width], [0, 1, 0]], dtype=torch.float64)
        pair = {"weak_image": image, "image": image.flip(2), "weak_to_strong": matrix}
        if maps:
            pair["anomaly_map"] = torch.rand(1, height, width)
            pair["anomaly_boxes"] = torch.tensor([[2.0, 2, 20, 20]])
        if withheld:
            pair["withheld"] = own["instances"]
        own["unlabeled"] = [pair]
    return inputs


def step(model, inputs, rate=0.01):
    losses = model(inputs)
    sum(losses.values()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
    return losses


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as storage:
        yield storage


@pytest.mark.parametrize("name", DETECTORS)
def test_both_parts_of_a_batch_teach_the_student_and_nothing_the_teacher(name):
    model = make_teacher(name)
    losses = model(inputs_with_pairs())
    plain = {key.removesuffix("_unlabeled") for key in losses}
    assert set(losses) == plain | {f"{key}_unlabeled" for key in plain}
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        is_student = key.startswith("student.")
        if not is_student:
            assert not parameter.requires_grad, key
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize(
    ("name", "architecture", "labels_alone"),
    [
        ("mask_rcnn_R50_fpn", "GeneralizedRCNN", {"loss_mask"}),
        ("cascade_rcnn_R50_fpn", "GeneralizedRCNN", set()),
        ("fcos_R50_fpn", "FCOS", set()),
        ("dino_R50", "DINO", set()),
    ],
)
def test_other_detectors(name, architecture, labels_alone):
    small = {f"AGSSP.DINO.{key}": value for key, value in SMALL_DINO.items()}
    settings = {
        **SMALL_R50,
        **small,
        "MODEL.FPN.OUT_CHANNELS": 64,
        "MODEL.META_ARCHITECTURE": "TeacherStudent",
        "AGSSP.TEACHER.META_ARCHITECTURE": architecture,
        "AGSSP.TEACHER.BURN_IN": 0.0,
        "AGSSP.TEACHER.SCORE_THRESHOLD": 0.01,
    }
    model = make_model(f"finetune/{name}.yaml", settings).train()
    inputs = inputs_with_pairs()
    if labels_alone:
        for own, masked in zip(inputs, detection_inputs(*SIZES, masks=True), strict=True):
            own["instances"] = masked["instances"]
    losses = model(inputs)
    plain = {key for key in losses if not key.endswith("_unlabeled")}
    assert set(losses) == plain | {f"{key}_unlabeled" for key in plain - labels_alone}
    assert plain >= labels_alone
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    without = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert "instances" in model.eval()(detection_inputs((64, 96)))[0]


def test_evaluation_is_the_teachers():
    model = make_teacher().eval()
    expected = copy.deepcopy(model.teacher)
    inputs = detection_inputs((64, 96))
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.zero_()
        got, wanted = (m(inputs)[0]["instances"] for m in (model, expected))
    assert torch.equal(got.pred_boxes.tensor, wanted.pred_boxes.tensor)
    model.train()
    assert model.student.training
    assert not any(part.training for part in model.teacher.modules())


def test_the_average_against_a_loop_in_float64():
    model = make_teacher("yolo_cspdarknet_s", WEIGHT=0.0, DECAY=0.3)
    inputs = detection_inputs(*SIZES)
    expected = None
    for count in range(5):
        own = {k: v.double() for k, v in copy_of(model.student).items() if v.is_floating_point()}
        if expected is None:
            expected = own
        else:
            decay = min(0.3, count / (9 + count))
            expected = {k: decay * v + (1 - decay) * own[k] for k, v in expected.items()}
        step(model, inputs)
    averaged = model.teacher.state_dict()
    # Statistics of batch norms are among them.
    assert any(name.endswith("running_mean") for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].double(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_without_weight_it_is_plain_fine_tuning_bit_for_bit(name):
    model = make_teacher(name, WEIGHT=0.0)
    plain = make_model(f"finetune/{name}.yaml", SETTINGS).train()
    plain.load_state_dict(model.student.state_dict())
    inputs = inputs_with_pairs()
    for number in range(3):
        torch.manual_seed(number)
        losses = step(model, inputs)
        torch.manual_seed(number)
        expected = step(plain, detection_inputs(*SIZES))
        assert losses.keys() == expected.keys()
        assert all(torch.equal(losses[key], expected[key]) for key in losses)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.student.state_dict()[key]), key


@pytest.mark.parametrize("name", DETECTORS)
def test_true_labels_as_pseudo_labels_teach_what_labels_do(name, monkeypatch):
    """An unlabelled image whose teacher is right, in the view of the labelled one: the bound of
    what teacher rounds can reach is supervised training on all labels."""
    model = make_teacher(name, SCORE_THRESHOLD=0.5)
    inputs = detection_inputs(*SIZES)
    detections = []
    for own in inputs:
        same = torch.eye(2, 3, dtype=torch.float64)
        pair = {"weak_image": own["image"], "image": own["image"], "weak_to_strong": same}
        own["unlabeled"] = [pair]
        found = Instances(own["instances"].image_size)
        found.pred_boxes = own["instances"].gt_boxes
        found.pred_classes = own["instances"].gt_classes
        found.scores = torch.ones(len(found.pred_boxes))
        detections.append(found)
    monkeypatch.setattr(model, "_detect", lambda pairs: detections)
    forward = model.student.forward

    def from_the_same_state(batch):
        # Draws of anchors and proposals, and RetinaNet's running number of foreground anchors.
        torch.manual_seed(0)
        model.student.loss_normalizer = 100.0
        return forward(batch)

    monkeypatch.setattr(model.student, "forward", from_the_same_state)
    losses = model(inputs)
    plain = [key for key in losses if not key.endswith("_unlabeled")]
    assert plain
    for key in plain:
        torch.testing.assert_close(losses[f"{key}_unlabeled"], losses[key], rtol=1e-5, atol=1e-6)


def test_burn_in_is_on_labels_alone():
    model = make_teacher()
    model.burn_in = 2
    inputs = inputs_with_pairs()
    kinds = [any("unlabeled" in key for key in step(model, inputs)) for _ in range(3)]
    assert kinds == [False, False, True]


def test_a_box_lands_where_the_strong_view_shows_it(monkeypatch):
    model = make_teacher(SCORE_THRESHOLD=0.5, GUIDANCE=0.0, UNCERTAIN=1.0)
    inputs = inputs_with_pairs()
    seen = []
    found = detection_inputs(*SIZES)

    def detect(pairs):
        own = []
        for labelled in found:
            instances = labelled["instances"]
            instances.pred_boxes, instances.pred_classes = (
                instances.gt_boxes,
                instances.gt_classes,
            )
            instances.scores = torch.tensor([0.9, 0.4])
            own.append(instances)
        return own

    monkeypatch.setattr(model, "_detect", detect)
    original = model.student.forward
    model.student.forward = lambda batch: seen.append(batch) or original(batch)
    model(inputs)
    for taught, labelled in zip(seen[1], found, strict=True):
        width = labelled["width"]
        x0, y0, x1, y1 = labelled["instances"].gt_boxes.tensor[0].tolist()
        assert taught["instances"].gt_boxes.tensor.tolist() == [[width - x1, y0, width - x0, y1]]
        assert taught["instances"].gt_scores.tolist() == pytest.approx([0.9])


def test_no_map_no_guidance():
    losses = make_teacher()(inputs_with_pairs(maps=False))
    assert all(loss.isfinite() for loss in losses.values())


def test_a_detectors_weights_are_the_start_of_both(tmp_path):
    plain = make_model("finetune/faster_rcnn_lite0_fpn.yaml", SETTINGS, seed=3)
    model = make_teacher()
    result = model.load_state_dict(plain.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    for key, tensor in plain.state_dict().items():
        assert torch.equal(model.student.state_dict()[key], tensor), key
        assert torch.equal(model.state_dict()[key], tensor), key


def test_its_own_state_is_kept_whole():
    model = make_teacher()
    for _ in range(2):
        step(model, inputs_with_pairs())
    state = copy_of(model)
    other = make_model("teacher/faster_rcnn_lite0_fpn.yaml", SETTINGS, seed=7).train()
    other.load_state_dict(state)
    assert int(other.iterations) == 2
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    torch.manual_seed(0)
    losses = model(inputs_with_pairs(maps=False))
    torch.manual_seed(0)
    again = other(inputs_with_pairs(maps=False))
    assert all(torch.equal(losses[key], again[key]) for key in losses)


def test_a_detector_loads_what_it_saves():
    model = make_teacher()
    step(model, inputs_with_pairs())
    state = model.state_dict()
    plain = make_model("finetune/faster_rcnn_lite0_fpn.yaml", SETTINGS, seed=3)
    assert detector_weights(state).keys() == plain.state_dict().keys()
    plain.load_state_dict(detector_weights(state))
    for key, tensor in model.teacher.state_dict().items():
        if key in plain.state_dict():
            assert torch.equal(plain.state_dict()[key], tensor), key
    # No name of a detector is an end of the others.
    assert all("." not in key for key in state if key.startswith(TRAINING_STATE))


def test_losses_of_unlabelled_images_that_are_no_numbers_are_left_out(monkeypatch, caplog):
    model = make_teacher()
    original = model.student.forward

    def broken(batch):
        losses = original(batch)
        if "unlabeled" not in batch[0]:
            losses["loss_cls"] = losses["loss_cls"] * torch.nan
        return losses

    model.student.forward = broken
    losses = model(inputs_with_pairs())
    assert all(loss.isfinite() for loss in losses.values())
    assert not any("unlabeled" in key for key in losses)
    assert "lower SOLVER.BASE_LR or AGSSP.TEACHER.WEIGHT" in caplog.text


def test_an_empty_teacher_is_told_of(monkeypatch, caplog):
    monkeypatch.setattr(teacher_module, "PATIENCE", 3)
    model = make_teacher(SCORE_THRESHOLD=1.0)
    for _ in range(2):
        model(inputs_with_pairs())
    resumed = make_teacher(SCORE_THRESHOLD=1.0)
    resumed.load_state_dict(copy_of(model))
    resumed(inputs_with_pairs())
    assert "The teacher has found nothing in 3 iterations" in caplog.text


def test_a_flooding_teacher_is_told_of(monkeypatch, caplog):
    monkeypatch.setattr(teacher_module, "PATIENCE", 2)
    monkeypatch.setattr(teacher_module, "FLOOD", 0.0)
    model = make_teacher("yolo_cspdarknet_s", SCORE_THRESHOLD=0.005)
    for _ in range(2):
        model(inputs_with_pairs())
    assert "raise the first of AGSSP.TEACHER.SCORE_BOUNDS" in caplog.text


def test_figures_of_every_class(storage):
    model = make_teacher("yolo_cspdarknet_s", SCORE_THRESHOLD=0.005)
    model(inputs_with_pairs())
    latest = {key: value for key, (value, _) in storage.latest().items()}
    assert latest["teacher/boxes_per_image"] > 0
    by_class = [latest[f"teacher/boxes_of_class_{number}"] for number in range(6)]
    assert sum(by_class) == pytest.approx(latest["teacher/boxes_per_image"])
    assert latest["teacher/boxes_per_labeled_image"] == 2
    assert 0 <= latest["teacher/map_agreement"] <= 1
    assert "teacher/precision" not in latest


def test_withheld_labels_judge_and_teach_nothing(storage, monkeypatch):
    model, plain = make_teacher(WITHHELD=("known",)), make_teacher()
    plain.load_state_dict(detector_weights(model.state_dict()))
    found = []
    for own in detection_inputs(*SIZES):
        instances = own["instances"]
        instances.pred_boxes, instances.pred_classes = instances.gt_boxes, instances.gt_classes
        instances.scores = torch.tensor([0.9, 0.1])
        found.append(instances)
    for one in (model, plain):
        monkeypatch.setattr(one, "_detect", lambda pairs: found)
        one.thresholds.fixed = 0.5
    inputs = inputs_with_pairs(withheld=True)
    torch.manual_seed(0)
    losses = model(inputs)
    torch.manual_seed(0)
    expected = plain(inputs)
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[key], expected[key]) for key in losses)
    latest = {key: value for key, (value, _) in storage.latest().items()}
    # Of two labels an image, the teacher has found one.
    assert latest["teacher/precision"] == 1
    assert latest["teacher/recall"] == 0.5
    # In only a part of the images are they known.
    del inputs[0]["unlabeled"][0]["withheld"]
    model(inputs)
    assert int(model.withheld.images) == 3
    state = copy_of(model)
    other = make_teacher(WITHHELD=("known",))
    other.load_state_dict(state)
    assert torch.equal(other.withheld.counts, model.withheld.counts)
    assert detector_weights(state).keys() == detector_weights(plain.state_dict()).keys()


def test_pictures_of_what_is_taught(storage):
    model = make_model(
        "teacher/yolo_cspdarknet_s.yaml",
        SETTINGS,
        {"VIS_PERIOD": 2, "AGSSP.TEACHER.SCORE_THRESHOLD": 0.005},
    ).train()
    for _ in range(3):
        model(inputs_with_pairs())
        storage.step()
    pictures = [(name, step) for name, _, step in storage._vis_data if name.startswith("teacher")]
    assert pictures == [("teacher/pseudo_labels", 0), ("teacher/pseudo_labels", 2)]
    assert storage._vis_data[0][1].shape[0] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"META_ARCHITECTURE": "TeacherStudent"}, "is no detector"),
        ({"META_ARCHITECTURE": "FasterRCNN"}, "not registered"),
        ({"BURN_IN": 1.0}, r"share of SOLVER.MAX_ITER in \[0, 1\), got 1.0"),
        ({"DECAY": 1.0}, "DECAY must be"),
        ({"WEIGHT": -1.0}, "WEIGHT and BURN_IN must not be negative"),
        ({"GUIDANCE": 1.5}, "GUIDANCE must be"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_teacher(**settings)


def test_a_resnet_too_and_detectron2s_trainer_takes_its_losses():
    model = make_model(
        "teacher/faster_rcnn_R50_fpn.yaml", SMALL_R50, {"AGSSP.TEACHER.BURN_IN": 0.0}
    ).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4)
    trainer = SimpleTrainer(model, [inputs_with_pairs()] * 2, optimizer)
    trainer.train(0, 2)
    assert int(model.iterations) == 2
