"""The starts that are compared."""

import hashlib
import json
from dataclasses import dataclass, field
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
        options: of a variant, stage ("maps", "agbp", "agdp", "finetune") -> keys that differ.
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
class Pretraining:
    """A pretraining run, and the runs that it builds on; arms that need the same one share it.

    Attributes:
        name: of its folder.
        map_name: of the folder of its anomaly maps.
        stage: whose settings it has: the last of its arm's stages so far.
        start: the run that it starts from; None for the config's weights.
        options: stage -> keys that differ, of this run and its maps.
    """

    name: str
    map_name: str
    stage: str
    start: "Pretraining | None"
    options: dict[str, dict[str, Any]]

    @property
    def chain(self) -> "tuple[Pretraining, ...]":
        """The runs that it consists of, in order, itself the last."""
        return (*(self.start.chain if self.start else ()), self)


def pretraining_of(arm: Arm) -> Pretraining | None:
    """The run that an arm is fine-tuned from, if any."""
    run = None
    for count, stage in enumerate(arm.pretraining, start=1):
        stages = arm.pretraining[:count]
        shared = next(key for key, one in ARMS.items() if one.pretraining == stages)
        run = Pretraining(
            name=_name(shared, arm, ("maps", *stages)),
            map_name=_name("maps", arm, ("maps",)),
            stage=stage,
            start=run,
            options={key: arm.options[key] for key in ("maps", stage) if key in arm.options},
        )
    return run


def _name(shared: str, arm: Arm, keys: tuple[str, ...]) -> str:
    """With a digest of the arm's options, if it has any: the same options, the same run."""
    changed = {key: arm.options[key] for key in keys if arm.options.get(key)}
    if not changed:
        return shared
    content = json.dumps(changed, sort_keys=True).encode()
    return f"{shared}-{hashlib.sha256(content).hexdigest()[:8]}"
