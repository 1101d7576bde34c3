from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schurgan.charts import HEIGHT, WIDTH, Line, line_chart, ticks
from schurgan.pictures import grid, picture, png, save_png


def brightness(drawn: Image.Image) -> np.ndarray:
    return np.asarray(drawn.convert("L")).astype(float)


def test_high_frequencies_are_on_top_and_loud_is_bright():
    image = torch.full((1, 8, 8), -1.0)
    image[0, 7, :4] = 1.0  # the highest row, the first half of the clip
    seen = brightness(picture(image))
    assert seen[0, :4].min() > 200
    assert seen[1:].max() < 10
    assert seen[0, 4:].max() < 10


def test_brightness_rises_with_the_level():
    ramp = torch.linspace(-1, 1, 64).expand(1, 64, 64)
    assert (np.diff(brightness(picture(ramp))[0]) >= -1).all()  # a step of rounding at most


def test_three_equal_channels_look_as_one_and_three_different_ones_as_they_are():
    level = torch.rand(1, 8, 8) * 2 - 1
    assert png(picture(level)) == png(picture(level.expand(3, -1, -1)))
    colour = torch.rand(3, 8, 8) * 2 - 1
    shown = torch.from_numpy(np.array(picture(colour))).permute(2, 0, 1)
    assert ((colour.flip(1) + 1) * 127.5 - shown).abs().max() <= 0.51


def test_each_pixel_is_as_wide_as_asked_for():
    image = torch.rand(1, 8, 8) * 2 - 1
    once, thrice = np.asarray(picture(image)), np.asarray(picture(image, 3))
    assert (thrice == once.repeat(3, 0).repeat(3, 1)).all()


def test_a_grid_holds_its_pictures_with_white_between_them_and_where_rows_are_short():
    images = [[torch.zeros(1, 8, 8)] * 3, [torch.ones(1, 8, 8)] * 2]
    sheet = np.asarray(grid(images, scale=2, gap=2))
    assert sheet.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3)
    assert (sheet[:16, 18:34] == np.asarray(picture(images[0][1], 2))).all()
    assert (sheet[16:18] == 255).all()
    assert (sheet[18:, 36:] == 255).all()


def test_a_png_reads_back_pixel_by_pixel_and_a_full_disk_leaves_none(tmp_path, full_disk):
    drawn = picture(torch.rand(1, 16, 16) * 2 - 1)
    assert (np.asarray(Image.open(io.BytesIO(png(drawn)))) == np.asarray(drawn)).all()
    save_png(drawn, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == png(drawn)
    with full_disk(), pytest.raises(OSError, match="No space left"):
        save_png(drawn, tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_neither_one_nor_a_crowd(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2


def drawing(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart[: chart.index("</svg>") + 6])


def points(chart: str) -> list[list[tuple[float, float]]]:
    lines = [line.get("points", "") for line in drawing(chart).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_a_curve_lies_inside_the_chart_with_larger_values_higher_up():
    (curve,) = points(line_chart([0, 10, 20], [Line("loss", [1.0, 5.0, 3.0], "a")], "loss"))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in curve)
    assert curve[0][0] < curve[1][0] < curve[2][0]
    assert curve[1][1] < curve[2][1] < curve[0][1]


def test_values_that_are_no_numbers_are_left_out_of_curve_and_scale():
    values = [1.0, float("nan"), 3.0, float("inf")]
    (curve,) = points(line_chart([0, 1, 2, 3], [Line("loss", values, "a")], "loss"))
    assert len(curve) == 2
    assert "nan" not in line_chart([0, 1, 2, 3], [Line("loss", values, "a")], "loss")


@pytest.mark.parametrize("values", [[2.0, 2.0], [float("nan"), float("nan")], [0.0, 1e-12], [1e12, -1e12]])
def test_flat_empty_tiny_and_huge_curves_are_drawn(values):
    assert drawing(line_chart([0, 1], [Line("loss", values, "a")], "loss")).tag == "svg"


def test_a_band_is_as_tall_as_twice_its_half_width_on_the_axis_of_the_curve():
    chart = line_chart([0, 1], [Line("gap", [-2.0, 2.0], "a")], "gap", [(2.0, "ε")])
    (band,) = drawing(chart).iter("rect")
    (curve,) = points(chart)
    assert float(band.get("height", 0)) == pytest.approx(curve[0][1] - curve[1][1], abs=0.2)
    assert float(band.get("y", 0)) == pytest.approx(curve[1][1], abs=0.1)


def test_names_are_escaped():
    chart = line_chart([0, 1], [Line("<script>", [1.0, 2.0], "a")], 'a "label" & more', [(1.0, "<b>")])
    assert not re.search(r"<(script|b)>", chart)
    assert drawing(chart).get("aria-label") == 'a "label" & more over steps'
