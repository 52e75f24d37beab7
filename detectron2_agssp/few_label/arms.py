"""The starts that are compared."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

PRETRAINING_STAGES = ("agbp", "agdp")


@dataclass(frozen=True)
class Arm:
    """One way to start the same detector.

    Attributes:
        title: as in tables.
        pretraining: the stages before fine-tuning, in order.
        random: start from random weights instead of the config's (ImageNet).
        longer: fine-tune for the benchmark's ``extra_iterations`` more.
        options: of a variant, stage ("maps", "agbp", "agdp", "finetune") -> keys that differ; and
            "box_maps": keys, beside AGBP's, of the maps that an AGBP run's backbone makes, for AGDP
            to cut its boxes from instead of those of "maps".
    """

    title: str
    pretraining: tuple[str, ...] = ()
    random: bool = False
    longer: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


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
    """

    name: str
    maps: Maps
    stage: str
    start: "Pretraining | None"
    options: dict[str, Any]

    @property
    def chain(self) -> "tuple[Pretraining, ...]":
        """The runs that it consists of, in order, itself the last."""
        needed = [run for run in (self.start, self.maps.start) if run]
        before = {one.name: one for run in needed for one in run.chain}
        return (*before.values(), self)


def pretraining_of(arm: Arm) -> Pretraining | None:
    """The run that an arm is fine-tuned from, if any."""
    run = None
    for count, stage in enumerate(arm.pretraining, start=1):
        stages = arm.pretraining[:count]
        shared = next(key for key, one in ARMS.items() if one.pretraining == stages)
        keys = ("maps", *stages)
        maps = Maps(_name("maps", arm, ("maps",)), arm.options.get("maps", {}))
        if stage == "agdp" and "box_maps" in arm.options:
            first_round = pretraining_of(replace(arm, pretraining=("agbp",)))
            keys = ("maps", "agbp", "box_maps", "agdp")
            maps = Maps(_name("box_maps", arm, keys[:3]), arm.options["box_maps"], first_round)
        run = Pretraining(
            name=_name(shared, arm, keys),
            maps=maps,
            stage=stage,
            start=run,
            options=arm.options.get(stage, {}),
        )
    return run


def _name(shared: str, arm: Arm, keys: tuple[str, ...]) -> str:
    """With a digest of the arm's options, if it has any: the same options, the same run."""
    changed = {key: arm.options[key] for key in keys if arm.options.get(key)}
    if not changed:
        return shared
    content = json.dumps(changed, sort_keys=True).encode()
    return f"{shared}-{hashlib.sha256(content).hexdigest()[:8]}"
