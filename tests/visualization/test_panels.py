"""Panels: colours, overlays, rows. Maps are never on the grid of their picture."""

import cv2
import numpy as np
import pytest

from detectron2_agssp.visualization import (
    anomaly_panel,
    colorize,
    draw_boxes,
    draw_mask,
    message_tile,
    overlay,
    panel_row,
    stack_rows,
)
from detectron2_agssp.visualization.panels import NAN_COLOR


def gray(height, width, value=90):
    return np.full((height, width), value, np.uint8)


def has_color(picture, color):
    return (picture == np.array(color, np.uint8)).all(axis=-1)


def lightness(picture):
    return cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0].astype(int)


class TestColorize:
    def test_colors_get_lighter_with_the_value(self):
        ramp = np.linspace(0, 1, 64)[None].repeat(3, axis=0)
        picture = colorize(ramp, 3, 64)
        assert picture.shape == (3, 64, 3)
        assert picture.dtype == np.uint8
        steps = np.diff(lightness(picture)[1])
        assert (steps >= 0).all()
        assert lightness(picture)[1, -1] - lightness(picture)[1, 0] > 200
        red, _, blue = picture[1, 44].astype(int)
        assert red > blue + 100, "RGB, not BGR: the upper half is orange, not blue"

    def test_enlarges_bilinearly_to_a_picture_of_another_shape(self):
        anomaly_map = np.array([[0.0, 0.0, 1.0]])
        picture = colorize(anomaly_map, 20, 90)
        assert picture.shape == (20, 90, 3)
        row = lightness(picture)[10]
        assert row[0] == row[40] == row.min()
        assert row[-1] == row.max()
        assert len(np.unique(row[46:75])) > 10, "no steps between two cells"

    def test_range_is_the_maps_own_or_the_given_one(self):
        anomaly_map = np.array([[0.2, 0.4]])
        low, high = colorize(anomaly_map, 1, 2)[0]
        assert (low == colorize(np.zeros((1, 1)), 1, 1, (0, 1))[0, 0]).all()
        assert (high == colorize(np.ones((1, 1)), 1, 1, (0, 1))[0, 0]).all()
        fixed = colorize(anomaly_map, 1, 2, (0, 1))[0]
        assert not (fixed == [low, high]).any(axis=1).all()
        beyond = colorize(np.array([[-7.0, 9.0, -np.inf, np.inf]]), 1, 4, (0, 1))[0]
        assert (beyond == [low, high, low, high]).all()

    def test_constant_map_takes_the_lowest_color(self):
        with np.errstate(all="raise"):
            picture = colorize(np.full((5, 3), 0.7), 10, 12)
        assert (picture == picture[0, 0]).all()
        assert lightness(picture).max() < 10

    def test_nan_is_gray_and_does_not_spread(self):
        anomaly_map = np.ones((4, 6), np.float16)
        anomaly_map[0, 0] = np.nan
        picture = colorize(anomaly_map, 40, 60, (0, 1))
        unknown = has_color(picture, NAN_COLOR)
        assert unknown[:8, :8].all()
        assert not unknown[16:].any()
        assert not unknown[:, 16:].any()
        assert (picture[~unknown] == picture[-1, -1]).all(), "NaN mixed into its neighbours"

    def test_map_of_nothing_but_nan(self):
        assert has_color(colorize(np.full((2, 3), np.nan), 5, 7), NAN_COLOR).all()

    @pytest.mark.parametrize(
        ("bad", "error", "said"),
        [
            (np.zeros((1, 4, 4)), ValueError, r"\(1, 4, 4\)"),
            (np.zeros((0, 4)), ValueError, r"\(0, 4\)"),
            (np.array([["a"]]), TypeError, "dtype <U1"),
        ],
    )
    def test_bad_map(self, bad, error, said):
        with pytest.raises(error, match=said):
            colorize(bad, 8, 8)

    @pytest.mark.parametrize("value_range", [(1, 1), (1, 0), (0, np.nan), (0, 1, 2)])
    def test_bad_range(self, value_range):
        with pytest.raises(ValueError, match="value_range"):
            colorize(np.zeros((2, 2)), 8, 8, value_range)


class TestOverlay:
    def test_normal_and_unknown_areas_stay_as_photographed(self):
        image = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
        anomaly_map = np.zeros((3, 5))
        anomaly_map[0, 0] = np.nan
        anomaly_map[2, 4] = 1
        picture = overlay(image, anomaly_map)
        assert (picture[:, :35] == image[:, :35]).all()
        assert (picture[-4:, -4:] != image[-4:, -4:]).any()

    def test_alpha_is_the_opacity_at_the_top(self):
        image, top = gray(6, 9, 100), np.ones((2, 2))
        color = colorize(top, 6, 9, (0, 1))
        assert (overlay(image, top, alpha=1) == color).all()
        assert (overlay(image, top, alpha=0) == 100).all()
        half = np.rint(50 + color / 2)
        assert np.abs(overlay(image, top, alpha=0.5) - half).max() <= 1

    def test_input_is_left_alone(self):
        image = np.full((6, 9, 3), 100, np.uint8)
        overlay(image, np.ones((2, 2)))
        draw_boxes(image, [[0, 0, 5, 5]], ["a"])
        draw_mask(image, np.ones((2, 2)))
        assert (image == 100).all()

    def test_bad_image_and_alpha(self):
        with pytest.raises(TypeError, match=r"shape \(6, 9, 3\), dtype float64"):
            overlay(np.zeros((6, 9, 3)), np.ones((2, 2)))
        with pytest.raises(ValueError, match=r"\(3, 6, 9\)"):
            overlay(np.zeros((3, 6, 9), np.uint8), np.ones((2, 2)))
        with pytest.raises(ValueError, match=r"alpha.*1\.5"):
            overlay(gray(6, 9), np.ones((2, 2)), alpha=1.5)


class TestRows:
    def test_aspect_is_kept(self):
        row = panel_row([gray(50, 100, 10), gray(100, 100, 20)], ["a", "b"], height=80)
        assert (row[40] == 10).all(axis=-1).sum() == 160
        assert (row[40] == 20).all(axis=-1).sum() == 80

    def test_titles_stand_above_their_tiles(self):
        row = panel_row([gray(50, 50), gray(50, 50)], ["", "title"], height=100)
        above = row[: row.shape[0] - 100]
        assert (above[:, :100] == 255).all()
        assert (above[:, 106:] < 100).any()

    def test_very_wide_and_very_narrow_tiles_stay_in_bounds(self):
        row = panel_row([gray(10, 4000), gray(4000, 10)], ["wide", "narrow " * 30], height=100)
        assert row.shape[1] == 400 + 6 + 50

    def test_a_row_of_very_wide_tiles_is_as_high_as_they_are(self):
        row = panel_row([gray(20, 800, 10), gray(10, 800, 20)], ["a", "b"], height=100)
        alone = panel_row([gray(50, 50)], ["a"], height=10)
        assert row.shape == (alone.shape[0], 400 + 6 + 400, 3)
        assert (row[-1, :400] == 10).all()
        assert (row[-1, 406:] != 20).all(), "the lower one is centred"

    def test_rows_are_padded_to_one_width(self):
        sheet = stack_rows([gray(20, 50, 0), gray(30, 80, 0)])
        assert sheet.shape == (56, 80, 3)
        assert (sheet[:20, 50:] == 255).all()
        assert (sheet[26:] == 0).all()

    def test_bad_rows(self):
        with pytest.raises(ValueError, match="1 tiles and 2 titles"):
            panel_row([gray(5, 5)], ["a", "b"])
        with pytest.raises(ValueError, match="0 tiles"):
            panel_row([], [])
        with pytest.raises(ValueError, match="got none"):
            stack_rows([])


class TestAnomalyPanel:
    def test_every_input_adds_its_tile(self):
        image, boxes = gray(100, 100), np.array([[10.0, 10.0, 50.0, 60.0]])
        anomaly_map = np.random.default_rng(0).random((7, 9))
        only = anomaly_panel(image, height=60)
        assert only.shape[1] == 60
        full = anomaly_panel(
            image,
            anomaly_map,
            boxes,
            np.array([0.87]),
            {"image": anomaly_map, "energy after": anomaly_map},
            boxes,
            anomaly_map > 0.5,
            (boxes, ["scratch 0.9"]),
            height=60,
        )
        assert full.shape[1] == 8 * 60 + 7 * 6
        titled = anomaly_panel(image, height=60, title="crazing_1.jpg")
        assert titled.shape[0] > only.shape[0]

    def test_boxes_are_scaled_with_the_picture(self):
        image = gray(400, 800)
        panel = anomaly_panel(image, boxes=[[400, 0, 800, 400]], height=100)
        tile = panel[-100:, -200:]
        blue = has_color(tile, (70, 200, 255))
        assert blue[:, 100].all()
        assert blue[:, -1].all()
        assert not blue[:, :100].any()

    def test_truth_and_detections_share_a_tile(self):
        image, box = gray(100, 100), [[10, 10, 50, 60]]
        truth = anomaly_panel(image, ground_truth=box, height=60)
        both = anomaly_panel(image, ground_truth=box, detections=([], []), height=60)
        assert truth.shape == both.shape
        assert (truth[-60:] == both[-60:]).all()

    def test_wide_images_go_on_in_further_rows(self):
        image = gray(100, 400)
        panel = anomaly_panel(image, np.zeros((3, 3)), ground_truth=[], detections=([], []))
        # Four tiles, two by two.
        assert 1300 < panel.shape[1] <= 1400
        assert panel.shape[0] > 2 * panel.shape[1] / 2 / 4

    def test_no_boxes_on_a_tiny_picture(self):
        panel = anomaly_panel(gray(1, 1), np.zeros((1, 1)), np.zeros((0, 4)), np.zeros(0))
        assert panel.dtype == np.uint8

    def test_number_of_scores(self):
        with pytest.raises(ValueError, match="got 2 for 1 boxes"):
            anomaly_panel(gray(9, 9), boxes=[[0, 0, 5, 5]], scores=[0.5, 0.4])


class TestMessageTile:
    @pytest.mark.parametrize("size", [(80, 200), (200, 80), (3, 3), (1, 500), (500, 1)])
    def test_has_the_size_asked_for(self, size):
        tile = message_tile("image is not there", *size)
        assert tile.shape == (*size, 3)
        assert tile.dtype == np.uint8

    def test_text_is_in_the_middle(self):
        dark = message_tile("gone", 100, 300).min(axis=2) < 100
        rows, columns = (np.flatnonzero(dark.any(axis=axis)) for axis in (1, 0))
        assert 30 < rows.min() <= rows.max() < 70
        assert columns.min() + columns.max() == pytest.approx(300, abs=4)
