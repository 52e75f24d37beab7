"""What ``scorer.json`` says of how a folder's maps were made, for people."""

from typing import Any


def readable_settings(scorer: dict | None) -> dict[str, Any]:
    """The parts of ``scorer.json`` that tell one scorer from another, by readable names.

    Args:
        scorer: content of ``scorer.json``; None gives no settings.

    Returns:
        "scorer", "model", "weights", "image size" and "calibration" where they are recorded, the
        other settings under their own names, then "fingerprint" and "image root".
    """
    if scorer is None:
        return {}
    settings = dict(scorer.get("SCORER", {}))
    name = str(scorer.get("scorer", settings.get("NAME", "unknown")))
    settings.pop("NAME", None)
    nodes = {key: settings.pop(key) for key in list(settings) if isinstance(settings[key], dict)}
    # The settings of one network only: those that another scorer would use say nothing here.
    features = "clip" if name == "kead" else settings.get("FEATURES", "timm")
    network = {"model": settings.pop("MODEL", None), "weights": settings.pop("WEIGHTS", None)}
    if features == "clip":
        clip = nodes.get("KEAD", {})
        network = {"model": clip.get("MODEL"), "weights": clip.get("PRETRAINED")}
    elif features == "detectron2":
        network = {"model": "the config's MODEL.BACKBONE"}
    shown: dict[str, Any] = {"scorer": name}
    shown |= {key: str(value) or "random" for key, value in network.items() if value is not None}
    if "IMAGE_SIZE" in settings:
        shown["image size"] = f"{settings.pop('IMAGE_SIZE')} pixels a side"
    calibration = scorer.get("calibration", {})
    if {"low", "high"} <= set(calibration):
        shown["calibration"] = (
            f"raw score {calibration['low']:.4g} becomes 0, {calibration['high']:.4g} becomes 1"
        )
        if calibration.get("sources"):
            shown["calibration"] += f"; {len(calibration['sources'])} sources have their own"
    own = nodes.get(name.upper(), {})
    shown |= {f"{name.upper()}.{key}": str(value) for key, value in own.items()}
    shown |= {key: str(value) for key, value in settings.items()}
    if scorer.get("defects"):
        shown["described defects"] = ", ".join(map(str, scorer["defects"]))
    for key in ("fingerprint", "image_root"):
        if key in scorer:
            shown[key.replace("_", " ")] = str(scorer[key])
    return shown
