"""Writes a trained detector as ONNX, TorchScript or OpenVINO, with decoding and NMS inside.

It is run by its own runtime first, and is there only if that finds the detector's boxes (--int8:
nearly them; AP before and after is printed where the run has a validation set here). It takes
images of any size, resized as agssp.json in it says; examples/run_onnx.py shows how. A FILE.pth is
for Detectron2 without this package: all weights, and FILE.yaml, a config without AGSSP's node.
"""

import argparse

HELP = "a trained detector as ONNX, TorchScript or OpenVINO"
EXAMPLE = "agssp export output/finetune/yolo_cspdarknet_n model.onnx"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="output folder of a training, or a weight file in it"
    )
    parser.add_argument(
        "file", metavar="FILE", help="model.onnx, model.ts, model.pth, or a folder for OpenVINO"
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="to check it on (default: the run's validation images, otherwise made-up ones)",
    )
    parser.add_argument(
        "--int8",
        metavar="DIR",
        help="put the convolutions into int8, by these images without labels (ONNX, OpenVINO)",
    )
    parser.add_argument(
        "--opset", type=int, default=17, metavar="N", help="of ONNX (default: %(default)s)"
    )
    parser.add_argument(
        "opts",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="pairs that override the run's config, such as INPUT.MIN_SIZE_TEST 320",
    )


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.inference.export import export_detector
    from detectron2_agssp.inference.export_plain import export_plain

    if args.file.endswith(".pth") and not args.int8:
        config = export_plain(args.run, args.file, args.opts)
        print(f"Wrote {args.file} and {config}, for Detectron2 alone.")
        return
    agreement = export_detector(
        args.run,
        args.file,
        images=args.images,
        int8=args.int8,
        opset=args.opset,
        options=args.opts,
    )
    print(f"Wrote {args.file}. Its runtime finds {agreement}.")
