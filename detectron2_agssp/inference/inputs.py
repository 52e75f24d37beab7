"""What to predict on: a folder, a file, a list of them, or the frames of a video, by names that
come in the same order in every run."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from detectron2_agssp.io.files import escaped_name, read_text, user_path
from detectron2_agssp.io.images import ImageReader, UnreadableImageError, list_images
from detectron2_agssp.maps.image_stream import file_state, is_same_file

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv",
))
# fmt: on
# An image (H, W, 3) uint8, RGB, and by what a later run tells whether its file is the same.
Reading = tuple[np.ndarray, dict]


class ImageFiles:
    """Images by name.

    Args:
        place: where they are, absolute; "" of a list.
        paths: name -> file.
        reader: how they are read.
    """

    def __init__(self, place: str, paths: dict[str, str], reader: ImageReader):
        self.place = place
        self.paths = paths
        self.reader = reader

    def __len__(self) -> int:
        return len(self.paths)

    def readings(self) -> Iterator[tuple[str, Callable[[], Reading]]]:
        """Yields each name and what reads the image, in any thread. That raises ValueError or
        OSError where it cannot be read."""
        for name, path in self.paths.items():
            yield escaped_name(name), partial(self._read, name, path)

    def is_unchanged(self, name: str, state: dict) -> bool:
        """Whether an image is that of which a reading gave ``state``."""
        return name in self.paths and is_same_file(self.paths[name], state)

    def _read(self, name: str, path: str) -> Reading:
        if escaped_name(name) != name:
            raise UnreadableImageError("its name is not UTF-8: rename it")
        # Before it is read: what is written meanwhile shows in the next run.
        state = file_state(path)
        return self.reader(path), state


class Video:
    """The frames of a video, named "clip.mp4/000000" and so on.

    Args:
        path: of its file.
        max_pixels: of a frame.

    Raises:
        ValueError: OpenCV cannot open it, or its frames are too large.
    """

    def __init__(self, path: Path, max_pixels: int):
        self.place = str(path.resolve())
        self.state = file_state(self.place)
        capture = cv2.VideoCapture(self.place)
        width, height, self.count = (
            max(int(capture.get(key)), 0)
            for key in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FRAME_COUNT,
            )
        )
        if not capture.isOpened():
            raise ValueError(f"{path} is no video that OpenCV can open, or it is damaged.")
        if width * height > max_pixels:
            raise ValueError(
                f"{path} has frames of {width} x {height} pixels, more than AGSSP.INPUT.MAX_PIXELS "
                f"({max_pixels}). Raise it, if the memory is there."
            )

    def __len__(self) -> int:
        """As the file says; 0 where it does not."""
        return self.count

    def readings(self) -> Iterator[tuple[str, Callable[[], Reading]]]:
        """As :meth:`ImageFiles.readings`; where the video ends early, what reads the first frame
        that is missing raises."""
        capture, number = cv2.VideoCapture(self.place), 0
        while True:
            is_read, frame = capture.read()
            name = f"{os.path.basename(self.place)}/{number:06d}"
            if not is_read:
                break
            yield name, partial(self._frame, frame)
            number += 1
        if number < self.count:
            yield name, partial(self._missing, number)

    def is_unchanged(self, name: str, state: dict) -> bool:
        """As :meth:`ImageFiles.is_unchanged`."""
        return state.get("digest") == self.state["digest"]

    def _frame(self, frame: np.ndarray) -> Reading:
        return np.ascontiguousarray(frame[:, :, ::-1]), self.state

    def _missing(self, number: int) -> Reading:
        raise UnreadableImageError(
            f"the video ends early: {number} of the {self.count} frames that it should have can be "
            "read"
        )


def open_inputs(
    images: str | Path | Sequence[str | Path], reader: ImageReader
) -> ImageFiles | Video:
    """The images of a folder (recursive), a file or a list (also a .txt file with a path per line,
    as seen from its folder or from the working folder), or the frames of a video.

    Args:
        images: a path; or several, of images.
        reader: how images are read.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: there are no images in it, or it is no video that can be read.
    """
    if not isinstance(images, str | os.PathLike):
        return _checked(ImageFiles("", {str(path): _file(path) for path in images}, reader))
    if "://" in str(images):
        root = str(images).rstrip("/")
        paths = {name: f"{root}/{name}" for name in list_images(root)}
        return _checked(ImageFiles(root, paths, reader))
    path = user_path(images)
    if path.is_dir():
        paths = {name: os.path.join(path, name) for name in list_images(path)}
        return _checked(ImageFiles(str(path.resolve()), paths, reader))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file or folder {path} to predict on.")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return Video(path, reader.max_pixels)
    if path.suffix.lower() == ".txt":
        lines = filter(None, map(str.strip, read_text(path).splitlines()))
        beside = {line: os.path.join(path.parent, _file(line)) for line in lines}
        paths = {
            line: full if os.path.exists(full) else _file(line) for line, full in beside.items()
        }
        return _checked(ImageFiles(str(path.resolve()), paths, reader))
    return ImageFiles(str(path.resolve()), {path.name: str(path)}, reader)


def _file(path: str | Path) -> str:
    return os.fspath(path) if "://" in str(path) else os.fspath(user_path(path))


def _checked(files: ImageFiles) -> ImageFiles:
    if not files.paths:
        where = files.place or "The list"
        raise ValueError(
            f"{where} holds no images (searched recursively, by suffix). A video is named by its "
            "file."
        )
    return files
