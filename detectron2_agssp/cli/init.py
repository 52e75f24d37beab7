"""Writes the yaml that fine-tunes a detector on your own COCO labels.

Pixel statistics, channel order, backbone and pyramid are those that the weights of --from were
trained with; the number of classes is that of the labels; the data come along: checked copies of
the labels lie beside the yaml, and AGSSP.DATA.COCO in it registers them in any train_net.py that
imports detectron2_agssp. Run it again, for another file, when the labels change.
"""

import argparse
import shlex

HELP = "write a fine-tuning config for your own COCO labels"
EXAMPLE = "agssp init --labels own.json --from out finetune.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="OUT.yaml", help="the config to write")
    parser.add_argument("--labels", required=True, metavar="FILE.json", help="COCO json")
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder that the labels' file names begin in (default: that of the labels, the one "
        "above, images in them, or the image_root of the json's info)",
    )
    parser.add_argument(
        "--from",
        dest="run",
        metavar="RUN",
        help="folder of agssp pretrain or of a training, or a weight file, also agssp://zoo/...: "
        "what to start from (default: the ImageNet weights of the detector's config)",
    )
    parser.add_argument(
        "--val",
        metavar="FILE.json",
        help="COCO json to validate on (default: a fifth of the images, drawn by class)",
    )
    parser.add_argument(
        "--detector",
        default="",
        metavar="NAME",
        help="a config of configs/finetune (default: that of RUN, or faster_rcnn_lite0_fpn)",
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from detectron2_agssp.engine.scaffold import write_finetuning_config
    from detectron2_agssp.io.config_reading import read_config

    made = write_finetuning_config(
        args.config,
        args.labels,
        images=args.images,
        run=args.run,
        validation=args.val,
        detector=args.detector,
    )
    for note in made.notes:
        print(f"warning: {note}")
    if made.loaded:
        print(made.loaded)
    needs_gpu = read_config(made.config_file).MODEL.DEVICE != "cpu"
    on_cpu = " MODEL.DEVICE cpu" if needs_gpu and not torch.cuda.is_available() else ""
    config = shlex.quote(str(made.config_file))
    print(
        f"{made.config_file} fine-tunes {made.detector} on {made.images['train']} images, to be "
        f"validated on {made.images.get('val', 0)}; {len(made.classes)} classes: "
        f"{', '.join(made.classes)}.\n"
        "Train it:\n"
        f"  agssp train --config-file {config}\n"
        "or, with `import detectron2_agssp` in your train_net.py:\n"
        f"  python train_net.py --config-file {config}{on_cpu}"
    )
