from __future__ import annotations

import io
import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schurgan.audio.pictures import grid, picture, png, save_png
from schurgan.report.charts import HEIGHT, WIDTH, Line, Mark, line_chart, ticks


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
    slack = 1e-6 * span + 2 * math.ulp(abs(low) + span)  # what the quotients and products of floats lose
    assert all(low - slack <= tick <= low + span + slack for tick in found)
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


def test_a_curve_begins_anew_where_x_falls_back_and_what_was_given_up_is_faint():
    x = [1, 2, 3, 4, 3, 4, 5]
    chart = line_chart(x, [Line("loss", [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0], "a")], "loss")
    pieces = [(line.get("class"), len((line.get("points") or "").split())) for line in drawing(chart).iter("polyline")]
    # What was given up goes on from the last point that was kept.
    assert pieces == [("a", 2), ("a gone", 3), ("a", 3)]
    kept, gone, _ = points(chart)
    assert kept[-1] == gone[0]


def test_two_rollbacks_leave_of_every_attempt_what_the_last_one_is_built_on():
    x = [10, 20, 30, 15, 25, 35, 22, 32]
    chart = line_chart(x, [Line("loss", list(map(float, x)), "a")], "loss")
    styles = [element.get("class") for element in drawing(chart) if element.tag in ("polyline", "circle")]
    assert styles == ["a", "a gone", "a", "a gone", "a"]


def test_on_a_logarithmic_axis_equal_ratios_are_equal_distances_and_what_is_not_positive_is_left_out():
    values = [1.0, 10.0, 0.0, 100.0, -3.0, 1000.0]
    (curve,) = points(line_chart(range(6), [Line("gradient", values, "a")], "gradient", log=True))
    heights = [y for _, y in curve]
    assert len(curve) == 4
    assert np.diff(heights) == pytest.approx([heights[1] - heights[0]] * 3, abs=0.11)
    with pytest.raises(ValueError, match="bands"):
        line_chart([0, 1], [Line("gap", [1.0, 2.0], "a")], "gap", [(1.0, "ε")], log=True)


@given(st.floats(-299, 299), st.floats(0, 12))
def test_a_logarithmic_axis_has_some_lines_and_no_crowd(low, decades):
    values = [10**low, 10 ** min(low + decades, 299)]
    chart = line_chart([0, 1], [Line("gradient", values, "a")], "gradient", log=True)
    lines = [element for element in drawing(chart).iter("line") if element.get("class") == "grid"]
    assert 1 <= len(lines) <= 13


def test_a_mark_stands_at_its_step_with_its_name_inside_the_chart():
    marks = [
        Mark(0, "initial collapse", "collapse", "a <note>"),
        Mark(10, "rolled back", "rollback"),
        Mark(5, "w", "warning"),
    ]
    chart = line_chart([0, 10], [Line("gap", [1.0, 2.0], "a")], "gap", marks=marks)
    ((left, _), (right, _)) = points(chart)[0]
    stems = {line.get("class"): float(line.get("x1", 0)) for line in drawing(chart).iter("line")}
    assert (stems["mark collapse"], stems["mark rollback"]) == pytest.approx((left, right), abs=0.1)
    names = [text for text in drawing(chart).iter("text") if text.get("class") == "mark"]
    assert [text.text for text in names] == ["initial collapse", "rolled back"]
    for text in names:
        half = len(text.text or "") * 5.8 / 2
        assert half <= float(text.get("x", 0)) <= WIDTH - half
    assert sorted(path.get("class", "") for path in drawing(chart).iter("path")) == ["mark collapse", "mark warning"]
    assert "a &lt;note&gt;" in chart


def test_names_of_marks_that_stand_close_together_do_not_lie_on_each_other_nor_on_the_curves():
    marks = [Mark(x, f"collapse {x}", "collapse") for x in (50, 52, 54)]
    chart = line_chart([0, 100], [Line("gap", [1.0, 2.0], "a")], "gap", marks=marks)
    rows = [float(text.get("y", 0)) for text in drawing(chart).iter("text") if text.get("class") == "mark"]
    assert min(abs(a - b) for a, b in itertools.pairwise(rows)) >= 12
    assert max(rows) < min(y for _, y in points(chart)[0])


def test_a_curve_of_one_point_is_a_dot():
    chart = line_chart([7], [Line("variety", [0.5], "a")], "variety")
    (dot,) = drawing(chart).iter("circle")
    assert 0 < float(dot.get("cx", 0)) < WIDTH
    assert 0 < float(dot.get("cy", 0)) < HEIGHT


def test_of_a_long_curve_every_peak_is_still_there():
    values = [0.0] * 100_000
    for place in (3, 50_001, 99_990):
        values[place] = 1.0
    (curve,) = points(line_chart(range(100_000), [Line("loss", values, "a")], "loss"))
    top, bottom = min(y for _, y in curve), max(y for _, y in curve)
    assert sum(y == top for _, y in curve) == 3
    assert sum(y == bottom for _, y in curve) > 500
    assert len(curve) < 4 * WIDTH
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)


def test_each_band_says_its_name_and_the_names_do_not_lie_on_each_other():
    bands = [(1.0, "inside"), (1.05, "outside & about")]
    chart = line_chart([0, 1], [Line("gap", [-2.0, 2.0], "a")], "gap", bands)
    places = {text.text: float(text.get("y", 0)) for text in drawing(chart).iter("text")}
    assert places["inside"] - places["outside & about"] >= 12
