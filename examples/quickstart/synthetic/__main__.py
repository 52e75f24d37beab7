"""Make a synthetic set of metal-surface defects to try the pipeline on, without a download.

python -m examples.quickstart.synthetic datasets/sample --num-train 160 --num-test 60
"""

import argparse

from detectron2_agssp.utils.command_line import CommandParser, readable_errors
from examples.quickstart.synthetic import generate_sample_dataset

REGISTRATION = """\
Register it with Detectron2:

from detectron2.data.datasets import register_coco_instances
register_coco_instances("sample_train", {{}}, {train[annotations]!r}, {train[image_root]!r})
register_coco_instances("sample_test", {{}}, {test[annotations]!r}, {test[image_root]!r})

SYNTHETIC data: good for trying things out, not for reporting results."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("python -m examples.quickstart.synthetic", __doc__)
    parser.add_argument("output_dir", help="new folder, or one that an interrupted run left behind")
    parser.add_argument("--num-train", type=int, default=160, help="default: %(default)s")
    parser.add_argument("--num-test", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with readable_errors():
        summary = generate_sample_dataset(
            args.output_dir, num_train=args.num_train, num_test=args.num_test, seed=args.seed
        )
    for split, counts in summary["splits"].items():
        print(
            f"{split}: {counts['images']} images ({counts['normal_images']} without defects), "
            f"{counts['instances']} defects"
        )
        for name in ("instances_per_class", "images_per_surface"):
            print("  " + ", ".join(f"{key} {count}" for key, count in counts[name].items()))
    print()
    print(REGISTRATION.format(**summary["splits"]))


if __name__ == "__main__":
    main()
