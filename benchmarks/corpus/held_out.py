"""The labelled sets that pretraining sets are judged on."""

from pathlib import Path

from benchmarks.corpus.arms import link_images
from detectron2_agssp.io.coco import read_coco, subset, write_coco
from detectron2_agssp.io.files import datasets_root, read_json

HELD_OUT = 100


def held_out_sets(output: Path, gc10: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> folder of images, COCO json: every n-th of the test images with labels.

    Args:
        output: folder; links to the images and the COCO files are written to its ``held_out``.
        gc10: folder of GC10-DET: images, instances.json, splits.json. NEU-DET and Magnetic-Tile
            are read from $DETECTRON2_DATASETS.
    """
    prepared = datasets_root()
    places = {
        "NEU-DET": (prepared / "neu_det/images", prepared / "neu_det/annotations/test.json"),
        "Magnetic-Tile": (
            prepared / "magnetic_tile/images",
            prepared / "magnetic_tile/annotations/test.json",
        ),
        "GC10-DET": (gc10 / "images", gc10 / "instances.json"),
    }
    stems = set(read_json(gc10 / "splits.json")["test"])
    sets = {}
    for name, (root, labels) in places.items():
        coco = read_coco(labels)
        wanted = {entry["image_id"] for entry in coco["annotations"]}
        images = [image for image in coco["images"] if image["id"] in wanted]
        if name == "GC10-DET":
            images = [image for image in images if Path(image["file_name"]).stem in stems]
        images = sorted(images, key=lambda image: image["file_name"])
        images = images[:: max(1, len(images) // HELD_OUT)][:HELD_OUT]
        folder = output / "held_out"
        link_images(folder, {"corpus": root}, {name: [image["file_name"] for image in images]})
        chosen = subset(coco, {image["id"] for image in images})
        for image in chosen["images"]:
            image["file_name"] = Path(image["file_name"]).name
        write_coco(folder / f"{name}.json", chosen)
        sets[name] = folder / name, folder / f"{name}.json"
    return sets
