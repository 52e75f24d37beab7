"""The file that describes a benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from benchmarks.few_label.arms import ARMS, Arm
from benchmarks.few_label.control_boxes import BOX_SOURCES
from detectron2_agssp.io.files import datasets_root

# The shipped ones, of this checkout.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGES = ("maps", "agbp", "agdp", "finetune")
VARIANT_KEYS = {
    "arm",
    "title",
    "longer",
    "energy_maps",
    "rounds",
    "boxes",
    "box_rounds",
    "teacher",
    *STAGES,
}


@dataclass(frozen=True)
class Stage:
    """A shipped config (its path below ``configs/``) and the keys that differ."""

    config: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSettings:
    """Where the data set is; paths are relative to ``root``, and that to $DETECTRON2_DATASETS.

    Attributes:
        root: folder of the data set.
        images: folder that the COCO files' ``file_name`` are relative to.
        test_images: the same for ``test``; "" where it is ``images``.
        unlabeled: folder of the images to pretrain on.
        train, test: COCO files.
        labeled: COCO file of a draw, with ``{fraction}`` and ``{draw}``; "" draws from ``train``.
        validation_images: of ``train``, for the choice of learning rates; none of a draw.
        near_duplicates: images of ``unlabeled`` at least that similar to one of ``test`` or of the
            validation images are left out; see
            :func:`~detectron2_agssp.data.near_duplicates.find_near_duplicates`.
        seed: of the draws and the validation images.
    """

    root: str
    images: str = "images"
    test_images: str = ""
    unlabeled: str = "images/train"
    train: str = "annotations/train.json"
    test: str = "annotations/test.json"
    labeled: str = ""
    validation_images: int = 100
    near_duplicates: float = 0.9
    seed: int = 0

    @property
    def folder(self) -> Path:
        return datasets_root() / self.root


@dataclass(frozen=True)
class Benchmark:
    """A benchmark file, checked.

    Attributes:
        name: of the file.
        data: the data set.
        stages: "maps", "agbp", "agdp" and "finetune".
        arms: names of :data:`~benchmarks.few_label.arms.ARMS`, or of variants.
        variants: further arms: name -> "arm", which it is like, an optional "title", whether its
            fine-tuning is "longer", "energy_maps" and "rounds" of AGBP, "boxes", "box_rounds",
            "teacher" (see :class:`~benchmarks.few_label.arms.Arm`), and by stage the keys that
            differ.
        fractions: labelled share of ``train``, percent.
        draws: numbers of the draws; a fraction of 100 has but the first.
        seeds: of the fine-tuning.
        learning_rates: the candidates; each arm takes, for each fraction, the one with the best
            validation AP of the first draw and seed. One is not tried.
        random_options: overrides of "finetune" that make its start random.
        extra_iterations: of fine-tuning, for the longer control: what AGSSP's pretraining costs.
        validations: evaluations on the validation images while fine-tuning.
    """

    name: str
    data: DataSettings
    stages: dict[str, Stage]
    arms: tuple[str, ...]
    fractions: tuple[float, ...]
    draws: tuple[int, ...]
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    random_options: dict[str, Any]
    extra_iterations: int
    validations: int = 4
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def arm(self, name: str) -> Arm:
        """An arm by its name, variants included."""
        if name in ARMS:
            return ARMS[name]
        content = self.variants[name]
        options = {stage: content[stage] for stage in STAGES if stage in content}
        arm = ARMS[content["arm"]]
        return replace(
            arm,
            title=content.get("title", name),
            longer=content.get("longer", arm.longer),
            options=options,
            energy_maps=content.get("energy_maps", {}),
            rounds=content.get("rounds", 1),
            boxes=content.get("boxes", arm.boxes),
            box_rounds=content.get("box_rounds", arm.box_rounds),
            teacher=content.get("teacher", arm.teacher),
        )

    def titles(self) -> dict[str, str]:
        """Every arm's name -> its title, in the order of tables."""
        return {name: self.arm(name).title for name in (*ARMS, *self.variants)}

    def folders(self, output: Path | None, results: Path | None) -> tuple[Path, Path]:
        """Those of weights and logs, and of results, where they are not named."""
        output = output or Path("output", "few_label", self.name)
        return output, results or output / "results"

    def draws_of(self, fraction: float) -> tuple[int, ...]:
        return self.draws if fraction < 100 else self.draws[:1]

    def fingerprint(self) -> dict:
        """What results of one table have in common; arms, variants, fractions, draws and seeds may
        be added later, and a variant's title may change."""
        return {
            "data": asdict(self.data),
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
            "learning_rates": list(self.learning_rates),
            "random_options": self.random_options,
            "extra_iterations": self.extra_iterations,
            "validations": self.validations,
            "variants": {
                name: {key: value for key, value in content.items() if key != "title"}
                for name, content in self.variants.items()
            },
        }


def load_benchmark(
    path: str | Path, arms: Sequence[str] = (), fractions: Sequence[float] = ()
) -> Benchmark:
    """Reads a benchmark file; ``_BASE_`` names a file that it extends, as in Detectron2.

    Args:
        path: the file.
        arms: instead of the file's, if any are given.
        fractions: percents, instead of the file's, if any are given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not yaml, an unknown or missing key, or a value out of its range (named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no benchmark file {str(path)!r}.")
    try:
        content = CfgNode.load_yaml_with_base(str(path))
        if arms:
            content["arms"] = list(arms)
        if fractions:
            content["fractions"] = list(fractions)
        known = {one.name for one in fields(Benchmark)} - {"name"}
        _check_keys(content, known, "the file")
        _check_keys(content["stages"], set(STAGES), "stages")
        _check_keys(content["data"], {one.name for one in fields(DataSettings)}, "data")
        stages = {}
        for name in STAGES:
            _check_keys(content["stages"][name], {"config", "options"}, f"stages.{name}")
            stages[name] = Stage(**content["stages"][name])
        benchmark = Benchmark(
            name=path.stem,
            data=DataSettings(**content["data"]),
            stages=stages,
            **{
                key: tuple(content[key])
                for key in ("arms", "fractions", "draws", "seeds", "learning_rates")
            },
            **{
                key: content[key]
                for key in ("random_options", "extra_iterations", "validations", "variants")
                if key in content
            },
        )
        _check_values(benchmark)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not yaml: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} has no key {error}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return benchmark


def _check_keys(content: Mapping, known: set[str], where: str) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ValueError(f"{where} has the unknown keys {unknown}; known are {sorted(known)}.")


def _check_values(benchmark: Benchmark) -> None:
    for name, content in benchmark.variants.items():
        _check_keys(content, VARIANT_KEYS, f"variants.{name}")
        if content.get("arm") not in ARMS or name in ARMS:
            raise ValueError(
                f"variants.{name} must have a name of its own and name an arm of {list(ARMS)}, "
                f"got {content.get('arm')!r}."
            )
        rounds = content.get("rounds", 1)
        if rounds < 1 or (rounds > 1 and not content.get("energy_maps")):
            raise ValueError(
                f"variants.{name}.rounds must be at least 1, and above 1 needs energy_maps, "
                f"got {rounds}."
            )
        boxes = content.get("boxes", "maps")
        if boxes not in BOX_SOURCES:
            raise ValueError(f"variants.{name}.boxes must be one of {BOX_SOURCES}, got {boxes!r}.")
        if content.get("box_rounds", 1) < 1:
            raise ValueError(
                f"variants.{name}.box_rounds must be at least 1, got {content['box_rounds']}."
            )
        if "agdp" not in ARMS[content["arm"]].pretraining:
            for key in {"boxes", "box_rounds"} & content.keys():
                raise ValueError(f"variants.{name}.{key} needs an arm with AGDP: agdp or agssp.")
    known = [*ARMS, *benchmark.variants]
    unknown = sorted(set(benchmark.arms) - set(known))
    if unknown:
        raise ValueError(f"unknown arms {unknown}; known are {known}.")
    for key in ("arms", "fractions", "draws", "seeds", "learning_rates"):
        values = getattr(benchmark, key)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{key} must be a list without repetitions, got {list(values)}.")
    if not all(0 < fraction <= 100 for fraction in benchmark.fractions):
        raise ValueError(f"fractions are percents in (0, 100], got {list(benchmark.fractions)}.")
    if not all(rate > 0 for rate in benchmark.learning_rates):
        raise ValueError(f"learning rates are positive, got {list(benchmark.learning_rates)}.")
    counts = (benchmark.validations, benchmark.data.validation_images, benchmark.extra_iterations)
    if min(counts) < 1:
        raise ValueError(
            "validations, data.validation_images and extra_iterations must be at least 1."
        )
