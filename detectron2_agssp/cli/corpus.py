"""Makes one pretraining set of several folders of images, without copying any.

OUT is then a folder of images for agssp maps and agssp pretrain: a link to each folder, its source,
and a manifest. Near-duplicates are left out, and images that are nearly one of --without are
refused; OUT/left_out.jsonl names them all, OUT/report.html shows what is left. Run the same command
again to go on after an interruption, or after images were added.
"""

import argparse

from detectron2_agssp.utils.command_line import add_config_arguments, split_config_pairs

HELP = "one pretraining set of several folders of images"
EXAMPLE = "agssp corpus line1 line2 castings=old/images corpus --without test.json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="ROOT ... OUT",
        help="folders of images, the name of each its source (NAME=FOLDER gives another); the last "
        "one is to be written",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="LABELS",
        help="COCO json files, or folders, of test images: nothing like them gets in",
    )
    parser.add_argument(
        "--similarity",
        type=float,
        default=0.9,
        metavar="R",
        help="correlation of two images' textures from which on they are near-duplicates "
        "(default: 0.9; 1: the same file only)",
    )
    parser.add_argument(
        "--without-similarity",
        type=float,
        default=0.8,
        metavar="R",
        help="the same of an image and one of --without (default: 0.8)",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from detectron2_agssp.data.corpus import build_corpus
    from detectron2_agssp.io.config_reading import config_from
    from detectron2_agssp.io.images import ImageReader
    from detectron2_agssp.reports.corpus_report import write_corpus_report

    folders, pairs = split_config_pairs(args.folders)
    without, more = split_config_pairs(args.without)
    args.opts = [*args.opts, *pairs, *more]
    if len(folders) < 2:
        raise ValueError(f"Folders of images and one to write are needed, got {folders}.")
    cfg = config_from(args)
    corpus = build_corpus(
        folders[:-1],
        folders[-1],
        held_out=without,
        similarity=args.similarity,
        held_out_similarity=args.without_similarity,
        reader=ImageReader(cfg),
    )
    path = write_corpus_report(cfg, corpus)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(corpus.reasons.items()))
    print(
        f"{corpus.total} images of {len(corpus.sources)} sources in {corpus.root}; left out: "
        f"{reasons or 'none'}\nReport written to {path}"
    )
