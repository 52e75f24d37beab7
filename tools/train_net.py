#!/usr/bin/env python3
"""`agssp train`, where Detectron2's users look for it.

tools/train_net.py --config-file configs/agbp/R50.yaml DATASETS.TRAIN "('agssp_mine',)"
"""

import sys

from detectron2_agssp.cli.main import run_command

if __name__ == "__main__":
    run_command("train", sys.argv[1:], prog="train_net.py")
