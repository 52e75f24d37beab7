#!/usr/bin/env python3
"""Weights of a training to hand on, at half the size: Detectron2 loads them as they are.

python tools/half_weights.py output/agdp/model_final.pth detector.pth
python tools/half_weights.py output/agdp/model_final.pth backbone.pth --backbone
"""

from detectron2_agssp.utils.command_line import CommandParser, readable_errors


def main() -> None:
    parser = CommandParser("half_weights.py", __doc__)
    parser.add_argument("checkpoint", metavar="CKPT", help="of a training, or a backbone's export")
    parser.add_argument("output", metavar="OUT.pth", help="file to write")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone")
    args = parser.parse()
    with readable_errors():
        from detectron2_agssp.checkpoint.half import write_half

        print(f"Wrote {write_half(args.checkpoint, args.output, backbone=args.backbone)}.")


if __name__ == "__main__":
    main()
