#!/usr/bin/env python3
"""Exports an AGBP checkpoint's backbone for detectors, with or without this package.

    tools/export_backbone.py --config-file configs/agbp/R50.yaml output/agbp/R50/model_final.pth \
        backbone.pth

The result serves as MODEL.WEIGHTS of any Detectron2 detector with that backbone.
tools/train_net.py does this by itself after AGBP.
"""

import argparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from detectron2_agssp.checkpoint import export_backbone
from detectron2_agssp.utils.command_line import readable_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the training run")
    parser.add_argument("checkpoint")
    parser.add_argument("output", help="file to write, .pth")
    args = parser.parse_args()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.MODEL.DEVICE = "cpu"
    with readable_errors():
        model = build_model(cfg)
        DetectionCheckpointer(model).load(args.checkpoint)
        print(f"Wrote {export_backbone(model, args.output)}")


if __name__ == "__main__":
    main()
