"""The starts that are compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One way to start the same detector.

    Attributes:
        title: as in tables.
        weights: the pretraining run whose final weights it starts from; "" for none.
        random: start from random weights instead of the config's (ImageNet).
        longer: fine-tune for as many more iterations as AGSSP's pretraining had.
    """

    title: str
    weights: str = ""
    random: bool = False
    longer: bool = False


# The reference of paired differences.
REFERENCE = "imagenet"
ARMS = {
    "random": Arm("random", random=True),
    "imagenet": Arm("ImageNet"),
    "imagenet_longer": Arm("ImageNet, longer", longer=True),
    "agdp": Arm("AGDP", weights="agdp"),
    "agbp": Arm("AGBP", weights="agbp"),
    "agssp": Arm("AGSSP", weights="agssp"),
}


@dataclass(frozen=True)
class Pretraining:
    """A run that several cells start from.

    Attributes:
        stage: whose settings it has, "agbp" or "agdp".
        weights: the pretraining run that it starts from; "" for ImageNet.
    """

    stage: str
    weights: str = ""


PRETRAININGS = {
    "agbp": Pretraining("agbp"),
    "agdp": Pretraining("agdp"),
    "agssp": Pretraining("agdp", weights="agbp"),
}
