"""The starts that are compared."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One way to start the same detector.

    Attributes:
        title: as in tables.
        pretraining: the stages before fine-tuning, in order.
        random: start from random weights instead of the config's (ImageNet).
        longer: fine-tune for the benchmark's ``extra_iterations`` more.
        options: of a variant, stage ("maps", "agbp", "agdp", "finetune") -> keys that differ.
        energy_maps: of a variant, keys, beside AGBP's, of maps that an AGBP run's backbone makes:
            AGDP cuts its boxes from those, and AGBP's later rounds learn them.
        rounds: of AGBP, each from the same weights.
        boxes: that AGDP learns, of
            :data:`~benchmarks.few_label.control_boxes.BOX_SOURCES`.
        box_rounds: of AGDP, each from the same weights; after the first, on the detections of the
            round before.
        teacher: fine-tune by teacher rounds, on the images of pretraining; with the maps that AGDP
            saw, if there are any.
    """

    title: str
    pretraining: tuple[str, ...] = ()
    random: bool = False
    longer: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    energy_maps: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1
    boxes: str = "maps"
    box_rounds: int = 1
    teacher: bool = False


# The reference of paired differences.
REFERENCE = "imagenet"
ARMS = {
    "random": Arm("random", random=True),
    "imagenet": Arm("ImageNet"),
    "imagenet_longer": Arm("ImageNet, longer", longer=True),
    "agdp": Arm("AGDP", ("agdp",)),
    "agbp": Arm("AGBP", ("agbp",)),
    "agssp": Arm("AGSSP", ("agbp", "agdp")),
}


@dataclass(frozen=True)
class Maps:
    """A folder of anomaly maps.

    Attributes:
        name: of the folder.
        options: keys that differ.
        start: the AGBP run whose backbone makes them, if one does.
    """

    name: str
    options: dict[str, Any]
    start: "Pretraining | None" = None


@dataclass(frozen=True)
class Pretraining:
    """A pretraining run, and the runs that it builds on; arms that need the same one share it.

    Attributes:
        name: of its folder.
        maps: its anomaly maps.
        stage: whose settings it has: the last of its arm's stages so far.
        start: the run that it starts from; None for the config's weights.
        options: keys that differ.
        boxes: that AGDP learns, as :class:`Arm`'s.
        before: the round of AGDP whose detections this one learns instead, if there was one.
    """

    name: str
    maps: Maps
    stage: str
    start: "Pretraining | None"
    options: dict[str, Any]
    boxes: str = "maps"
    before: "Pretraining | None" = None

    @property
    def chain(self) -> "tuple[Pretraining, ...]":
        """The runs that it consists of, in order, itself the last."""
        needed = [run for run in (self.start, self.maps.start, self.before) if run]
        before = {one.name: one for run in needed for one in run.chain}
        return (*before.values(), self)


def pretraining_of(arm: Arm) -> Pretraining | None:
    """The run that an arm is fine-tuned from, if any."""
    run = None
    if "agbp" in arm.pretraining:
        run = _distillation(arm, arm.rounds)
    if "agdp" in arm.pretraining:
        if arm.energy_maps:
            maps = _maps(arm, arm.rounds)
            keys = ("maps", "agbp", "agdp")
        else:
            maps = _maps(arm, 0)
            keys = ("maps", *arm.pretraining)
        shared = next(key for key, one in ARMS.items() if one.pretraining == arm.pretraining)
        name = _name(shared, arm, keys, arm.rounds if arm.energy_maps else 0)
        if arm.boxes != "maps":
            name = f"{name}-{arm.boxes}"
        run = Pretraining(name, maps, "agdp", run, arm.options.get("agdp", {}), arm.boxes)
        for number in range(2, arm.box_rounds + 1):
            run = replace(run, name=f"{name}-round{number}", before=run)
    return run


def _distillation(arm: Arm, rounds: int) -> Pretraining:
    """AGBP's run of the given round, from 1."""
    name = _name("agbp", arm, ("maps", "agbp"), rounds - 1)
    return Pretraining(name, _maps(arm, rounds - 1), "agbp", None, arm.options.get("agbp", {}))


def _maps(arm: Arm, rounds: int) -> Maps:
    """The maps after so many rounds of AGBP; after none, the scorer's own."""
    if rounds == 0:
        return Maps(_name("maps", arm, ("maps",)), arm.options.get("maps", {}))
    name = _name("energy_maps", arm, ("maps", "agbp"), rounds)
    return Maps(name, arm.energy_maps, _distillation(arm, rounds))


def _name(shared: str, arm: Arm, keys: tuple[str, ...], rounds: int = 0) -> str:
    """With a digest of the arm's options, if it has any: the same options, the same run. After
    rounds of AGBP, those of its maps count too."""
    changed: dict[str, Any] = {key: arm.options[key] for key in keys if arm.options.get(key)}
    if rounds:
        changed["energy_maps"], changed["rounds"] = arm.energy_maps, rounds
    if not changed:
        return shared
    content = json.dumps(changed, sort_keys=True).encode()
    return f"{shared}-{hashlib.sha256(content).hexdigest()[:8]}"
