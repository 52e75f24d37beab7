"""Convert the backbone of an OpenMMLab checkpoint into a file for Detectron2's MODEL.WEIGHTS.

agssp convert swin_tiny.pth swin_tiny_d2.pth
"""

import argparse
import pickle
from collections import Counter

import torch

from detectron2_agssp.checkpoint.openmmlab import BOOKKEEPING_SUFFIXES, convert_checkpoint

# OpenMMLab's ImageNet statistics, RGB on the 0-255 scale.
RGB_MEAN = [123.675, 116.28, 103.53]
RGB_STD = [58.395, 57.12, 57.375]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="OpenMMLab checkpoint (mmdet, mmpretrain or mmcls)")
    parser.add_argument("output", help="file to write")
    parser.add_argument("--pixel-mean", type=float, nargs=3, metavar="M", help="0-255, as --format")
    parser.add_argument("--pixel-std", type=float, nargs=3, metavar="S", help="0-255, as --format")
    parser.add_argument("--format", choices=["RGB", "BGR"], default="RGB", help="channel order")
    args = parser.parse_args(argv)
    # BGR models come with statistics of their own (Caffe's divide by 1), so there is no default.
    if args.format == "BGR" and not (args.pixel_mean and args.pixel_std):
        parser.error("--format BGR needs --pixel-mean and --pixel-std, in BGR order")
    return args


def load_weights_only(path: str) -> dict:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SystemExit(
            f"{path} holds more than tensors and plain values, and is not unpickled here. If you "
            "trust the file, re-save its state dict alone, where OpenMMLab is installed: "
            'torch.save(torch.load(path, weights_only=False)["state_dict"], new_path)'
        ) from error


def label(key: str) -> str:
    """What to call a name that was left out: its module, or the kind of bookkeeping buffer."""
    parts = key.removeprefix("module.").split(".")
    return parts[-1] if key.endswith(BOOKKEEPING_SUFFIXES) else parts[0]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        conversion = convert_checkpoint(load_weights_only(args.input))
    except ValueError as error:
        raise SystemExit(f"{args.input}: {error}") from error
    checkpoint = {
        "model": conversion.weights,
        "matching_heuristics": True,  # Detectron2 then finds the backbone inside any detector
        "__author__": "detectron2_agssp",
        "agssp": {
            "pixel_mean": args.pixel_mean or RGB_MEAN,
            "pixel_std": args.pixel_std or RGB_STD,
            "format": args.format,
            "backbone": conversion.backbone,
        },
    }
    torch.save(checkpoint, args.output)
    print(f"{args.output}: {len(conversion.weights)} tensors of a {conversion.backbone} backbone")
    left_out = Counter(map(label, conversion.left_out))
    counts = ", ".join(f"{count} {name}" for name, count in left_out.items())
    print(f"Left out: {counts or 'nothing'}")


if __name__ == "__main__":
    main()
