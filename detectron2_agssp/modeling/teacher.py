"""A teacher and its student: a detector that learns from labels and from unlabelled images
together.

The teacher, an exponential moving average of the student, detects in a weak view of an unlabelled
image; the student learns what it found in a strong view (Mean Teacher, Tarvainen and Valpola,
NeurIPS 2017; Unbiased Teacher, Liu et al., ICLR 2021). Anomaly maps may be a second witness: they
weigh against boxes that are calmer than their surroundings, and what they show and no detection
explains is not taught as background.
"""

import contextlib
import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from detectron2_agssp.modeling.detectors.score_weights import weight_by_score
from detectron2_agssp.modeling.pseudo_labels import (
    MIN_VISIBLE,
    ClassThresholds,
    WithheldLabels,
    erase,
    map_agreement,
    move_boxes,
    split_detections,
    unexplained,
)
from detectron2_agssp.utils.moving_average import decay_of
from detectron2_agssp.utils.registry import get_registered

logger = logging.getLogger(__name__)

# Names in a checkpoint of what is not the teacher's: without points, so that no name of a detector
# is an end of them.
TRAINING_STATE = "teacher_student/"
# Among these, the number of iterations since which the teacher is empty, and is flooding.
_FRUITLESS = "fruitless"
# What a mapper adds to a labelled input: its unlabelled companions.
UNLABELED = "unlabeled"
# What an unlabelled companion has where its labels are known, to judge and not to teach.
WITHHELD = "withheld"
PATIENCE = 200  # iterations after which an empty or a flooding teacher is told of
FLOOD = 3.0  # times as many boxes as labels let expect


@META_ARCH_REGISTRY.register()
class TeacherStudent(nn.Module):
    """A detector that is taught by a moving average of itself.

    Inputs are the detector's; in training each may have ``unlabeled``, a list of dicts:
    ``weak_image`` and ``image`` (3, H, W) uint8, two views of an image; ``weak_to_strong`` (2, 3)
    float64, affine, from pixels of the first to those of the second; and of its anomaly map, if
    there is one, ``anomaly_map`` (1, H, W) float32 in [0, 1] and ``anomaly_boxes`` (K, 4), of its
    components, both in the weak view; ``withheld``, the Instances of its labels in the weak view,
    if pseudo-labels are to be judged. (:class:`~detectron2_agssp.data.TeacherMapper` makes them.)
    It returns the student's losses, those of unlabelled images with ``_unlabeled`` behind their
    names. In evaluation it is the teacher.

    Its names, in checkpoints too, are those of the detector and hold the teacher, so that detectors
    load from what it saves, and it from detectors; the student's lie beside them.

    Args:
        detector: with random weights; it becomes the student.
        thresholds: from which scores the teacher is believed.
        burn_in: iterations on labels alone.
        decay: of the average per iteration, at most, in (0, 1); less in the first ones.
        weight: of the losses of unlabelled images.
        uncertain: share of the threshold from which a detection is erased in the strong view
            instead of being background, in [0, 1]; 1: none is.
        guidance: how much a map may take from a box's weight, in [0, 1].
        ignore_components: erase components of the map that no detection explains.
        withheld: what judges pseudo-labels, where some images have withheld labels.
        vis_period: iterations between pictures of what is taught, in the log; 0: none.

    Raises:
        ValueError: a number out of its range.
    """

    # Its detector does it itself (score_weights.install_score_weights).
    weight_by_score = True

    @configurable
    def __init__(
        self,
        *,
        detector: nn.Module,
        thresholds: ClassThresholds,
        burn_in: int = 0,
        decay: float = 0.999,
        weight: float = 1.0,
        uncertain: float = 0.5,
        guidance: float = 0.0,
        ignore_components: bool = False,
        withheld: WithheldLabels | None = None,
        vis_period: int = 0,
    ):
        super().__init__()
        ranges = {"DECAY": decay, "UNCERTAIN": uncertain, "GUIDANCE": guidance}
        for key, value in ranges.items():
            if not 0 <= value <= 1 or (key == "DECAY" and value in (0, 1)):
                raise ValueError(f"AGSSP.TEACHER.{key} must be in [0, 1], got {value}.")
        if weight < 0 or burn_in < 0:
            raise ValueError(
                f"AGSSP.TEACHER.WEIGHT and BURN_IN must not be negative, got {weight} and "
                f"{burn_in} iterations."
            )
        teacher = copy.deepcopy(detector).requires_grad_(False)
        # Its parts are this module's own, under their own names.
        self.__dict__["teacher"] = teacher
        self._parameters, self._buffers = teacher._parameters, teacher._buffers
        self._non_persistent_buffers_set = teacher._non_persistent_buffers_set
        self._modules.update(teacher._modules)
        self.student = weight_by_score(detector)
        self.thresholds, self.withheld = thresholds, withheld
        self.burn_in, self.decay, self.weight = burn_in, decay, weight
        self.uncertain, self.guidance = uncertain, guidance
        self.ignore_components, self.vis_period = ignore_components, vis_period
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))
        # Read once, not in every iteration, in which a GPU would be waited for.
        self._iteration: int | None = None
        self._empty = self._flooded = 0
        self.register_state_dict_post_hook(_name_training_state)
        self.register_load_state_dict_pre_hook(_find_training_state)
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.AGSSP.TEACHER
        name = settings.META_ARCHITECTURE
        if name == cls.__name__:
            raise ValueError(f"AGSSP.TEACHER.META_ARCHITECTURE {name!r} is no detector.")
        build = get_registered(META_ARCH_REGISTRY, name, key="AGSSP.TEACHER.META_ARCHITECTURE")
        if not 0 <= settings.BURN_IN < 1:
            raise ValueError(
                "AGSSP.TEACHER.BURN_IN is a share of SOLVER.MAX_ITER in [0, 1), got "
                f"{settings.BURN_IN}."
            )
        detector = build(detector_config(cfg))
        owner = getattr(detector, "roi_heads", detector)
        return {
            "detector": detector,
            "thresholds": ClassThresholds(
                owner.num_classes,
                share=settings.BOX_SHARE,
                bounds=settings.SCORE_BOUNDS,
                fixed=settings.SCORE_THRESHOLD,
            ),
            "burn_in": round(settings.BURN_IN * cfg.SOLVER.MAX_ITER),
            "decay": settings.DECAY,
            "weight": settings.WEIGHT,
            "uncertain": settings.UNCERTAIN,
            "guidance": settings.GUIDANCE,
            "ignore_components": settings.IGNORE_COMPONENTS,
            "withheld": WithheldLabels(owner.num_classes) if settings.WITHHELD else None,
            "vis_period": cfg.VIS_PERIOD,
        }

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "teacher" not in self.__dict__:
                raise
            return getattr(self.teacher, name)

    def train(self, mode: bool = True):
        """The teacher stays in evaluation."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, inputs: Sequence[Mapping]):
        if not self.training:
            return self.teacher(inputs)
        if self._iteration is None:
            self._iteration = int(self.iterations)
        self.update_teacher()
        losses = self.student(inputs)
        self.thresholds.count_labels([own["instances"] for own in inputs])
        pairs = [pair for own in inputs for pair in own.get(UNLABELED, ())]
        if self._iteration >= self.burn_in and self.weight and pairs:
            losses.update(self._losses_of(pairs))
        self._iteration += 1
        self.iterations += 1
        return losses

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Moves the teacher towards the student; the first time it becomes its equal."""
        if self._iteration is None:
            self._iteration = int(self.iterations)
        step = 1 - decay_of(self._iteration - 1, self.decay) if self._iteration else 1.0
        teacher = self.teacher.state_dict()
        for name, own in self.student.state_dict().items():
            if own.is_floating_point():
                teacher[name].lerp_(own, step)
            else:
                teacher[name].copy_(own)

    def _losses_of(self, pairs: Sequence[Mapping]) -> dict[str, Tensor]:
        """The student's losses of unlabelled images; none where they are no numbers."""
        detections = self._detect(pairs)
        self.thresholds.count_detections(detections)
        thresholds = self.thresholds().cpu()
        found = [split_detections(own, thresholds, self.uncertain) for own in detections]
        if self.withheld is not None:
            self._judge(pairs, [accepted for accepted, _ in found])
        taught, num_erased = [], 0
        for pair, own in zip(pairs, found, strict=True):
            inputs, regions = self._teach(pair, *own)
            taught.append(inputs)
            num_erased += regions
        self._watch([own["instances"] for own in taught], thresholds, num_erased)
        if self.vis_period and get_event_storage().iter % self.vis_period == 0:
            self._show(taught[0])
        with _boxes_alone(self.student):
            losses = self.student(taught)
        total = torch.stack([loss.detach().float() for loss in losses.values()]).sum()
        # All processes have losses of the same names, or their means cannot be logged.
        if not all(comm.all_gather(bool(total.isfinite()))):
            logger.warning(
                "The losses of unlabelled images are no numbers in iteration %d and are left out. "
                "If that stays so, lower SOLVER.BASE_LR or AGSSP.TEACHER.WEIGHT, or raise "
                "AGSSP.TEACHER.BURN_IN.",
                self._iteration,
            )
            return {}
        return {f"{name}_{UNLABELED}": self.weight * loss for name, loss in losses.items()}

    @torch.no_grad()
    def _detect(self, pairs: Sequence[Mapping]) -> list[Instances]:
        """The teacher's detections in the weak views, on the CPU."""
        weak = []
        for pair in pairs:
            height, width = pair["weak_image"].shape[1:]
            weak.append({"image": pair["weak_image"], "height": height, "width": width})
        with _boxes_alone(self.teacher):
            return [own["instances"].to("cpu") for own in self.teacher(weak)]

    def _teach(self, pair: Mapping, accepted: Instances, ignored: Tensor) -> tuple[dict, int]:
        """The student's input of one image, from what is taken for true and what may be; and how
        many regions were erased in it."""
        boxes, weights = accepted.pred_boxes.tensor, accepted.scores
        agreement = None
        if "anomaly_map" in pair:
            agreement = map_agreement(boxes, pair["anomaly_map"][0])
            weights = weights * (1 - self.guidance * (1 - agreement))
            if self.ignore_components:
                components = unexplained(pair["anomaly_boxes"].to(boxes), boxes)
                ignored = torch.cat([ignored, components])
        size = tuple(pair["image"].shape[1:])
        moved, visible = move_boxes(boxes, pair["weak_to_strong"], size)
        regions, _ = move_boxes(ignored, pair["weak_to_strong"], size)
        seen = visible >= MIN_VISIBLE
        instances = Instances(size)
        instances.gt_boxes = Boxes(moved[seen])
        instances.gt_classes = accepted.pred_classes[seen]
        instances.gt_scores = weights[seen]
        if agreement is not None:
            instances.map_agreement = agreement[seen]
        image = erase(pair["image"], regions, moved[seen])
        height, width = size
        taught = {"image": image, "instances": instances, "height": height, "width": width}
        return taught, len(regions)

    def _judge(self, pairs: Sequence[Mapping], accepted: Sequence[Instances]) -> None:
        """Pseudo-labels against withheld labels, where there are any, for the log alone."""
        known = [number for number, pair in enumerate(pairs) if WITHHELD in pair]
        self.withheld.count(
            [accepted[number] for number in known], [pairs[number][WITHHELD] for number in known]
        )
        storage = get_event_storage()
        for name, values in zip(("precision", "recall"), self.withheld(), strict=True):
            *by_class, value = values.tolist()
            figures = {f"{name}_of_class_{number}": one for number, one in enumerate(by_class)}
            for key, figure in {name: value, **figures}.items():
                if not math.isnan(figure):
                    storage.put_scalar(f"teacher/{key}", figure, smoothing_hint=False)

    def _watch(self, taught: Sequence[Instances], thresholds: Tensor, num_erased: int) -> None:
        """Figures for the log, and a word where the teacher is of no use."""
        found = sum(map(len, taught))
        expected = float(self.thresholds.labels.sum() / self.thresholds.labeled_images.clamp(min=1))
        storage = get_event_storage()
        storage.put_scalar("teacher/boxes_per_image", found / len(taught))
        storage.put_scalar("teacher/boxes_per_labeled_image", expected)
        storage.put_scalar("teacher/erased_per_image", num_erased / len(taught))
        storage.put_scalar("teacher/mean_threshold", float(thresholds.mean()))
        if found:
            scores = torch.cat([own.gt_scores for own in taught])
            storage.put_scalar("teacher/mean_weight", float(scores.mean()))
        agreed = [own.map_agreement for own in taught if own.has("map_agreement") and len(own)]
        if agreed:
            storage.put_scalar("teacher/map_agreement", float(torch.cat(agreed).mean()))
        classes = torch.cat([own.gt_classes for own in taught])
        for number, count in enumerate(classes.bincount(minlength=len(thresholds)).tolist()):
            storage.put_scalar(f"teacher/boxes_of_class_{number}", count / len(taught))
            storage.put_scalar(f"teacher/threshold_of_class_{number}", float(thresholds[number]))
        self._empty = 0 if found else self._empty + 1
        self._flooded = self._flooded + 1 if found > FLOOD * expected * len(taught) else 0
        if self._empty == PATIENCE:
            logger.warning(
                "The teacher has found nothing in %d iterations: unlabelled images teach nothing. "
                "Raise AGSSP.TEACHER.BURN_IN, lower AGSSP.TEACHER.SCORE_BOUNDS (%s), or give more "
                "labels.",
                PATIENCE,
                self.thresholds.bounds,
            )
        if self._flooded == PATIENCE:
            logger.warning(
                "For %d iterations the teacher has found over %g times as many boxes as labelled "
                "images have (%.1f): raise the first of AGSSP.TEACHER.SCORE_BOUNDS, or lower "
                "AGSSP.TEACHER.BOX_SHARE.",
                PATIENCE,
                FLOOD,
                expected,
            )

    def _show(self, taught: Mapping) -> None:
        """One image as the student sees it, with what it is taught there."""
        # It loads Matplotlib.
        from detectron2.utils.visualizer import Visualizer

        pixels = taught["image"].permute(1, 2, 0)
        rgb = convert_image_to_rgb(pixels, getattr(self.teacher, "input_format", None) or "BGR")
        own = taught["instances"]
        texts = [
            f"class {number}, weight {weight:.2f}"
            for number, weight in zip(own.gt_classes.tolist(), own.gt_scores.tolist(), strict=True)
        ]
        picture = Visualizer(rgb).overlay_instances(boxes=own.gt_boxes, labels=texts)
        name = "teacher/pseudo_labels"
        get_event_storage().put_image(name, picture.get_image().transpose(2, 0, 1))


@contextlib.contextmanager
def _boxes_alone(detector: nn.Module) -> Iterator[None]:
    """Within it, masks and keypoints are left out: they learn from labels."""
    heads = getattr(detector, "roi_heads", None)
    others = [key for key in ("mask_on", "keypoint_on") if getattr(heads, key, False)]
    for key in others:
        setattr(heads, key, False)
    try:
        yield
    finally:
        for key in others:
            setattr(heads, key, True)


def detector_config(cfg: CfgNode) -> CfgNode:
    """The config of the detector that a config of :class:`TeacherStudent` trains; others as they
    are."""
    if TeacherStudent.__name__ != cfg.MODEL.META_ARCHITECTURE:
        return cfg
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = cfg.AGSSP.TEACHER.META_ARCHITECTURE
    if frozen:
        cfg.freeze()
    return cfg


def detector_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the detector among a checkpoint's: without the state of teacher rounds."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(TRAINING_STATE)}


def _is_training_state(name: str) -> bool:
    return name == "iterations" or name.startswith(("student.", "thresholds.", "withheld."))


def _name_training_state(model, state: dict, prefix: str, _) -> None:
    for full in [name for name in state if name.startswith(prefix)]:
        name = full.removeprefix(prefix)
        if _is_training_state(name):
            state[f"{prefix}{TRAINING_STATE}{name.replace('.', '/')}"] = state.pop(full)
    # No buffer: on a GPU, reading it in every iteration would be waited for.
    state[f"{prefix}{TRAINING_STATE}{_FRUITLESS}"] = torch.tensor([model._empty, model._flooded])


def _find_training_state(model, state: dict, prefix: str, *_) -> None:
    """The names of the modules; of a detector's weights, which have no such state, the student gets
    the teacher's."""
    model._iteration = None
    fruitless = state.pop(
        f"{prefix}{TRAINING_STATE}{_FRUITLESS}", torch.zeros(2, dtype=torch.int64)
    )
    model._empty, model._flooded = fruitless.tolist()
    own = {name.replace(".", "/"): name for name in _training_state_of(model)}
    marker = f"{prefix}{TRAINING_STATE}"
    if any(name.startswith(marker) for name in state):
        for full in [name for name in state if name.startswith(marker)]:
            name = full.removeprefix(marker)
            state[prefix + own.get(name, full)] = state.pop(full)
        return
    for name, tensor in _training_state_of(model).items():
        given = state.get(prefix + name.removeprefix("student."))
        state[prefix + name] = tensor if given is None else given


def _training_state_of(model: TeacherStudent) -> dict[str, Tensor]:
    parts = {"student.": model.student, "thresholds.": model.thresholds}
    if model.withheld is not None:
        parts["withheld."] = model.withheld
    state = {
        prefix + name: tensor
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    return {**state, "iterations": model.iterations}
