"""Images that no pretraining set may hold: those of labelled validation and test sets."""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2_agssp.data.own_labels import labelled_image_root
from detectron2_agssp.io.coco import read_coco
from detectron2_agssp.io.files import user_path, windows_hint
from detectron2_agssp.io.images import list_images


def held_out_images(places: Sequence[str | Path]) -> list[str]:
    """The images of COCO json files and of folders, absolute, each once.

    A json's file names may have Windows' back slashes; the folder that they begin in is found as by
    :func:`~detectron2_agssp.data.own_labels.labelled_image_root`.

    Raises:
        FileNotFoundError: no such file or folder, or an image of a json that is not there: what
            cannot be compared cannot be kept out.
        ValueError: it is no COCO json, or has no image.
    """
    images: dict[str, None] = {}
    for place in places:
        path = user_path(place)
        if not path.exists():
            raise FileNotFoundError(
                f"There are no held-out images or labels {os.fspath(place)!r}.{windows_hint(place)}"
            )
        if path.is_dir():
            found = [os.path.join(path.resolve(), name) for name in list_images(path)]
        else:
            found = _of_json(path)
        if not found:
            raise ValueError(f"{path} has no images: there is nothing to keep out of the corpus.")
        images.update(dict.fromkeys(found))
    return list(images)


def _of_json(path: Path) -> list[str]:
    coco = read_coco(path)
    for image in coco["images"]:
        image["file_name"] = image["file_name"].replace("\\", "/")
    root = labelled_image_root(path, coco)
    found = [os.path.join(root, image["file_name"]) for image in coco["images"]]
    missing = [image for image in found if not os.path.isfile(image)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(found)} images of {path} are not in {root}, such as "
            f"{missing[0]}. Put the json beside them, write their folder into it as "
            '"info": {"image_root": ...}, or name the folder of the images instead.'
        )
    return found
