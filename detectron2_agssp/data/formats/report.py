"""What preparing a data set found: printed as a short table, and written to ``report.json``."""

from collections.abc import Sequence

from detectron2_agssp.utils.naming import some_of

PROBLEMS = {
    "folder_left_out": "folders left out",
    "image_without_annotation": "images left out: no annotation of that name",
    "image_without_label": "images without labels (taken as free of defects)",
    "annotation_without_image": "annotations left out: no image of that name",
    "same_name_twice": "files left out: another one has the same name",
    "class_twice": "classes that are named twice (taken as one)",
    "found_elsewhere": "images found by the end of the path that their annotation gives",
    "unreadable_image": "images left out: they cannot be decoded",
    "unreadable_annotation": "images left out: their annotation cannot be read",
    "mask_size_differs": "images left out: their mask has another size",
    "mask_values": "images left out: their mask has values that may be classes",
    "size_differs": "images left out: their annotation is of another size",
    "size_missing": "annotations that give no size (the image's counts)",
    "boxes_turned": "annotations of the image before EXIF turned it (boxes were turned along)",
    "filename_differs": "annotations that name another image (the annotation's own name counts)",
    "unknown_class": "boxes or folders left out: class unknown",
    "unreadable_box": "boxes left out: their lines cannot be read",
    "box_clipped": "boxes cut to their image",
    "box_dropped": "boxes left out: no area inside the image, or no numbers",
    "segmentation_dropped": "segmentations left out (their boxes are kept)",
    "small_component": "mask components left out: below the minimal area",
    "defect_without_box": "images of a defect class left with no box",
    "mask_on_defect_free": "defect-free images with a mask that marks something (ignored)",
    "split_stem_missing": "stems of the splits that have no usable image",
    "image_in_no_split": "images left out: in no split",
    "duplicate_across_splits": "images of a split that are pixel for pixel in another",
    "duplicate_within_split": "images that are twice in the same split",
    "coco_problem": "problems check_coco_json sees in what was written",
}


class Report:
    """Collects problems and counts while a data set is prepared.

    ``problems`` maps every kind of :data:`PROBLEMS` to one text per case; ``notes`` holds plain
    remarks; ``splits`` the counts of every split.
    """

    def __init__(self, dataset: str, source: str) -> None:
        self.dataset = dataset
        self.source = source
        self.problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
        self.notes: list[str] = []
        self.splits: dict[str, dict] = {}

    def add(self, kind: str, text: str) -> None:
        """One more case of the problem ``kind``, a key of :data:`PROBLEMS`."""
        self.problems[kind].append(text)

    def count_split(
        self, split: str, images: Sequence[Sequence[str]], classes: Sequence[str]
    ) -> None:
        """Counts one split; ``images`` holds for every image the classes of its boxes."""
        boxes = [category for categories in images for category in categories]
        self.splits[split] = {
            "images": len(images),
            "images_without_boxes": sum(not categories for categories in images),
            "boxes": {name: boxes.count(name) for name in classes},
        }

    def to_json(self) -> dict:
        """The whole report as plain lists and dicts."""
        return {
            "dataset": self.dataset,
            "source": self.source,
            "notes": self.notes,
            "splits": self.splits,
            "problems": self.problems,
        }

    def table(self) -> str:
        """The counts of every split and the problems there were, to print."""
        lines = [f"{self.dataset} from {self.source}", *self.notes, ""]
        for number, (split, counts) in enumerate(self.splits.items()):
            boxes = counts["boxes"]
            columns = {
                "images": counts["images"],
                "without boxes": counts["images_without_boxes"],
                "boxes": sum(boxes.values()),
                **boxes,
            }
            if number == 0:
                lines.append(" " * 18 + "".join(f"  {title}" for title in columns))
            row = (f"  {value:>{len(title)}}" for title, value in columns.items())
            lines.append(f"{split:<18}" + "".join(row))
        return "\n".join([*lines, "", *(self.problem_lines() or ["no problems found"])])

    def problem_lines(self) -> list[str]:
        """One line for each kind of problem there was, with the first three cases."""
        lines = []
        for kind, cases in self.problems.items():
            if cases:
                lines.append(f"{len(cases)} {PROBLEMS[kind]}: {some_of(cases, 3)}")
        return lines
