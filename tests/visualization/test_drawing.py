"""Boxes, labels and masks drawn on pictures, at the border and at every size."""

import numpy as np
import pytest

from detectron2_agssp.visualization import draw_boxes, draw_mask
from detectron2_agssp.visualization.text import fit_text, printable, render_text

ORANGE = (255, 150, 40)


def gray(height, width):
    return np.full((height, width), 90, np.uint8)


def has_color(picture, color):
    return (picture == np.array(color, np.uint8)).all(axis=-1)


class TestBoxes:
    def test_frame_lies_inside_the_box(self):
        picture = draw_boxes(gray(60, 90), [[10, 20, 70, 50]], color=ORANGE, thickness=2)
        expected = np.zeros((60, 90), bool)
        expected[20:50, 10:70] = True
        expected[22:48, 12:68] = False
        assert (has_color(picture, ORANGE) == expected).all()

    def test_box_over_the_whole_picture_and_beyond_is_seen_at_the_border(self):
        for box in ([0, 0, 90, 60], [-30, -10, 400, 61]):
            drawn = has_color(draw_boxes(gray(60, 90), [box], color=ORANGE), ORANGE)
            assert drawn[0].all()
            assert drawn[-1].all()
            assert drawn[:, 0].all()
            assert drawn[:, -1].all()

    def test_frame_has_a_dark_rim_on_both_sides(self):
        inside = draw_boxes(gray(60, 90), [[10, 20, 70, 50]], thickness=2)
        assert (inside[35, [9, 12, 67, 70]] == 15).all()
        cut = draw_boxes(gray(60, 90), [[0, 0, 90, 60]], thickness=2)
        assert (cut[35, [2, 87]] == 15).all()
        assert (cut[[2, 57], 45] == 15).all()

    def test_box_outside_leaves_nothing_and_box_of_no_area_a_dot(self):
        image = gray(60, 90)
        outside = draw_boxes(image, [[90, 0, 120, 30], [-9, -9, 0, 0]], ["a", "b"])
        assert (outside == 90).all()
        assert has_color(draw_boxes(image, [[40, 30, 40, 30]], color=ORANGE), ORANGE)[30, 40]

    def test_no_boxes(self):
        for none in ([], np.zeros((0, 4)), np.zeros((0, 4), np.float32)):
            picture = draw_boxes(gray(60, 90), none, [])
            assert picture.shape == (60, 90, 3)
            assert (picture == 90).all()

    @pytest.mark.parametrize("size", [(64, 64), (2000, 4096), (20, 300), (300, 20)])
    @pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.9)])
    def test_label_is_whole_wherever_the_box_is(self, size, corner):
        height, width = size
        x, y = corner[0] * width, corner[1] * height
        box = [x, y, x + 0.1 * width, y + 0.1 * height]
        bare = draw_boxes(gray(height, width), [box], color=ORANGE)
        labeled = draw_boxes(gray(height, width), [box], ["Ag 0.5"], color=ORANGE)
        rows, columns = np.nonzero((bare != labeled).any(axis=-1))
        # In the middle, where nothing can be cut off, the same label must be no larger.
        middle = [0.4 * width, 0.45 * height, 0.5 * width, 0.55 * height]
        bare = draw_boxes(gray(height, width), [middle], color=ORANGE)
        free = draw_boxes(gray(height, width), [middle], ["Ag 0.5"], color=ORANGE)
        free_rows, free_columns = np.nonzero((bare != free).any(axis=-1))
        line = 2 * max(1, round(min(size) ** 0.5 / 7.5)) + 2
        assert np.ptp(rows) >= np.ptp(free_rows) - line
        assert np.ptp(columns) >= np.ptp(free_columns) - line

    def test_label_too_long_for_the_picture_is_cut(self):
        picture = draw_boxes(gray(64, 64), [[5, 30, 20, 60]], ["rolled-in scale " * 20])
        assert picture.shape == (64, 64, 3)
        plate = np.flatnonzero((picture[22:28] != 90).any(axis=(0, 2)))
        assert 55 <= np.ptp(plate) + 1 <= 64

    def test_labels_of_boxes_at_one_place_do_not_cover_each_other(self):
        image = gray(200, 300)
        boxes = [[100, 80, 200, 160], [100, 80, 200, 160]]
        both = draw_boxes(image, boxes, ["first", "second"])
        alone = draw_boxes(image, boxes, ["first", ""])
        bare = draw_boxes(image, boxes)
        first = (alone != bare).any(axis=-1)
        assert (both[first] == alone[first]).all()
        rows = (both != bare).any(axis=(1, 2)).sum()
        assert rows == 2 * first.any(axis=1).sum(), "the second stands elsewhere, whole"

    def test_label_of_a_small_box_at_the_border_moves_away_from_its_neighbours(self):
        image, boxes = gray(200, 200), [[19, 0, 200, 62], [0, 0, 13, 12]]
        bare = draw_boxes(image, boxes)
        places = [
            (draw_boxes(image, boxes, names) != bare).any(axis=-1)
            for names in (["1.00", ""], ["1.00", "0.50"])
        ]
        second = places[1] & ~places[0]
        # As many pixels as the first, as digits are equally wide, and none in common.
        assert second.sum() > 0.9 * places[0].sum()
        both, first = (draw_boxes(image, boxes, ["1.00", name]) for name in ("0.50", ""))
        assert (both[places[0]] == first[places[0]]).all()

    def test_lines_and_letters_grow_with_the_picture(self):
        def share(size):
            picture = draw_boxes(gray(size, size), [[0, size // 2, size, size]])
            return has_color(picture, ORANGE)[:, size // 2].sum()

        assert share(64) == 2
        assert share(2000) >= 10

    @pytest.mark.parametrize(
        ("boxes", "error", "said"),
        [
            ([1, 2, 3, 4], ValueError, r"\(4,\)"),
            ([[1, 2, 3, 4, 5]], ValueError, r"\(1, 5\)"),
            ([[1, 2, np.nan, 4]], ValueError, "nan"),
            ([[10, 2, 3, 4]], ValueError, "x1 <= x2"),
            ([["a", "b", "c", "d"]], TypeError, "<U1"),
        ],
    )
    def test_bad_boxes(self, boxes, error, said):
        with pytest.raises(error, match=said):
            draw_boxes(gray(10, 20), boxes)

    def test_number_of_labels(self):
        with pytest.raises(ValueError, match="got 2 for 1 boxes"):
            draw_boxes(gray(10, 20), [[1, 2, 3, 4]], ["a", "b"])

    def test_text_is_made_smaller_before_it_is_cut(self):
        whole = render_text("rolled-in scale", 20)
        smaller = fit_text("rolled-in scale", 20, whole.shape[1] - 20)
        assert smaller.shape[0] < 20
        assert smaller.shape[1] <= whole.shape[1] - 20
        cut = fit_text("rolled-in scale " * 20, 20, 60)
        assert cut.shape[0] == 9
        assert 45 <= cut.shape[1] <= 60
        assert fit_text("", 20, 60).max() == 0

    @pytest.mark.parametrize(
        "text", ["line \udcff1.jpg", "a\x00b\x1b[0m", "\ud83d", "\uffff划痕😀"]
    )
    def test_names_that_are_not_text(self, text):
        # A surrogate in cv2.putText ends the process, so this test itself would not survive.
        assert render_text(text, 20).max() > 0
        assert draw_boxes(gray(40, 90), [[5, 20, 60, 35]], [text]).shape == (40, 90, 3)
        assert printable(text).encode("utf-8")


class TestMask:
    def test_outline_is_around_the_mask_on_another_grid(self):
        mask = np.zeros((4, 6), bool)
        mask[1:3, 2:4] = True
        drawn = has_color(draw_mask(gray(80, 120), mask, ORANGE), ORANGE)
        assert not drawn[20:60, 40:80].any()
        assert drawn[19, 40:80].all()
        assert drawn[20:60, 80].all()
        assert not drawn[:10].any()

    def test_mask_at_the_border_is_closed(self):
        assert has_color(draw_mask(gray(40, 70), np.ones((2, 2)), ORANGE), ORANGE)[0].all()

    def test_thin_crack_survives_reduction(self):
        mask = np.zeros((1000, 1500))
        mask[501] = 1
        assert has_color(draw_mask(gray(100, 150), mask, ORANGE), ORANGE).any()
