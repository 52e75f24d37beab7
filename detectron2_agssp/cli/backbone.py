"""Exports a checkpoint's backbone for detectors, with or without this package.

    agssp backbone output/agbp/R50/model_final.pth backbone.pth \
        --config-file output/agbp/R50/config.yaml

The config is the training run's own: its pixel statistics are recorded in the export, which then
serves as MODEL.WEIGHTS of any Detectron2 detector with that backbone. tools/train_net.py does this
by itself after AGBP.
"""

import argparse
import os

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from detectron2_agssp.checkpoint import export_backbone
from detectron2_agssp.utils.command_line import add_config_arguments, config_from, readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="of AGBP, or of any detector")
    parser.add_argument("output", help="file to write, .pth")
    add_config_arguments(parser)
    args = parser.parse_intermixed_args()
    with readable_errors():
        if not os.path.isfile(args.checkpoint):
            raise FileNotFoundError(f"There is no checkpoint {args.checkpoint!r}.")
        if not args.config_file:
            raise ValueError("--config-file is missing: the config.yaml beside the checkpoint.")
        cfg = config_from(args).clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
        DetectionCheckpointer(model).load(args.checkpoint)
        print(f"Wrote {export_backbone(model, args.output)}")


if __name__ == "__main__":
    main()
