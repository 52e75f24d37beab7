#!/usr/bin/env python3
"""Pretrains and fine-tunes: Detectron2's train_net.py with AGSSP's trainer.

    tools/train_net.py --config-file configs/agbp/R50.yaml DATASETS.TRAIN "('agssp_mine',)"

Beyond the stock script (which works too, with ``import detectron2_agssp`` in front): AdamW, an
evaluator for maps, model_best.pth, and backbone_final.pth after AGBP.
"""

from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch

import detectron2_agssp  # noqa: F401  (registers everything)
from detectron2_agssp.checkpoint.loading import CheckedCheckpointer
from detectron2_agssp.engine import AGSSPTrainer
from detectron2_agssp.utils.cpu_memory import keep_freed_memory


def setup(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def main(args):
    cfg = setup(args)
    keep_freed_memory()
    if args.eval_only:
        model = AGSSPTrainer.build_model(cfg)
        CheckedCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return AGSSPTrainer.test(cfg, model)
    trainer = AGSSPTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
