from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from schurgan.report.charts import Chart, Curve, Mark


def axes(*arguments, **options) -> Axes:
    """The drawn axes of a chart."""
    figure = Chart(*arguments, **options).draw()
    figure.draw_without_rendering()
    (ax,) = figure.axes
    return ax


def curves(ax: Axes) -> list[tuple[list[float], list[float], float]]:
    """(x, y, opacity) of every piece of a curve: they alone are drawn in coordinates of the data."""
    lines = [line for line in ax.lines if line.get_transform().contains_branch(ax.transData) and line.get_alpha()]
    return [(list(line.get_xdata()), list(line.get_ydata()), line.get_alpha()) for line in lines]


def test_a_curve_has_its_values_and_its_name_is_in_the_legend():
    ax = axes([0, 10, 20], [Curve("loss", [1.0, 5.0, 3.0], "a")], "loss")
    assert curves(ax) == [([0, 10, 20], [1.0, 5.0, 3.0], 1.0)]
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["loss"]


def test_values_that_are_no_numbers_are_left_out_of_curve_and_scale():
    values = [1.0, float("nan"), 3.0, float("inf")]
    ax = axes([0, 1, 2, 3], [Curve("loss", values, "a")], "loss")
    assert curves(ax) == [([0, 2], [1.0, 3.0], 1.0)]
    assert np.isfinite(ax.get_ylim()).all()
    assert "nan" not in Chart([0, 1, 2, 3], [Curve("loss", values, "a")], "loss").svg()


@pytest.mark.parametrize("values", [[2.0, 2.0], [float("nan"), float("nan")], [0.0, 1e-12], [1e12, -1e12]])
def test_flat_empty_tiny_and_huge_curves_are_drawn(values):
    text = Chart([0, 1], [Curve("loss", values, "a")], "loss").svg()
    assert ElementTree.fromstring(text.replace("xlink:", "")).tag == "svg"


def test_a_band_is_as_tall_as_twice_its_half_width():
    ax = axes([0, 1], [Curve("gap", [-2.0, 2.0], "a")], "gap", [(2.0, "ε")])
    (band,) = ax.patches
    assert (band.get_y(), band.get_height()) == (-2.0, 4.0)


def test_each_band_says_its_name_and_the_names_do_not_lie_on_each_other():
    ax = axes([0, 1], [Curve("gap", [-2.0, 2.0], "a")], "gap", [(1.0, "inside"), (1.05, "outside & about")])
    boxes = {text.get_text().strip(): text.get_window_extent() for text in ax.texts}
    assert boxes["inside"].y1 <= boxes["outside & about"].y0


def test_names_are_escaped_and_the_picture_says_what_it_shows():
    text = Chart([0, 1], [Curve("<script>", [1.0, 2.0], "a")], 'a "label" & more', [(1.0, "<b>")]).svg()
    assert not re.search(r"<(script|b)>", text)
    svg = ElementTree.fromstring(text.replace("xlink:", ""))
    assert (svg.get("role"), svg.get("aria-label")) == ("img", 'a "label" & more over steps')


def test_a_curve_begins_anew_where_x_falls_back_and_what_was_given_up_is_faint():
    x = [1, 2, 3, 4, 3, 4, 5]
    ax = axes(x, [Curve("loss", [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0], "a")], "loss")
    # What was given up goes on from the last point that was kept.
    assert curves(ax) == [([1, 2], [1, 2], 1.0), ([2, 3, 4], [2, 3, 4], 0.5), ([3, 4, 5], [0, 0, 0], 1.0)]
    assert len(ax.figure.legends[0].get_texts()) == 1


def test_two_rollbacks_leave_of_every_attempt_what_the_last_one_is_built_on():
    x = [10, 20, 30, 15, 25, 35, 22, 32]
    ax = axes(x, [Curve("loss", list(map(float, x)), "a")], "loss")
    assert [opacity for _, _, opacity in curves(ax)] == [1.0, 0.5, 1.0, 0.5, 1.0]


def test_on_a_logarithmic_axis_equal_ratios_are_equal_distances_and_what_is_not_positive_is_left_out():
    values = [1.0, 10.0, 0.0, 100.0, -3.0, 1000.0]
    ax = axes(range(6), [Curve("gradient", values, "a")], "gradient", log=True)
    ((x, y, _),) = curves(ax)
    heights = ax.transData.transform(list(zip(x, y, strict=True)))[:, 1]
    assert y == [1.0, 10.0, 100.0, 1000.0]
    assert np.diff(heights) == pytest.approx([heights[1] - heights[0]] * 3)


@settings(deadline=None, max_examples=40)
@given(st.floats(-299, 299), st.floats(0, 12))
def test_a_logarithmic_axis_has_some_levels_and_no_crowd(low, decades):
    values = [10**low, 10 ** min(low + decades, 299)]
    ax = axes([0, 1], [Curve("gradient", values, "a")], "gradient", log=True)
    bottom, top = ax.get_ylim()
    assert 1 <= sum(bottom <= level <= top for level in ax.get_yticks()) <= 13


MARKS = [
    Mark(0, "collapse", "a <note>"),
    Mark(10, "rollback", "rolled back"),
    Mark(5, "warning", "w"),
]


def test_a_mark_stands_at_its_step_and_takes_no_room_for_a_name():
    ax = axes([0, 10], [Curve("gap", [1.0, 2.0], "a")], "gap", marks=MARKS)
    stems = {line.get_gid(): line.get_xdata()[0] for line in ax.lines if line.get_gid()}
    assert stems == {"mark-0": 0, "mark-1": 10, "mark-2": 5}
    assert not ax.texts  # the page says once what each is
    assert "warning" in [text.get_text() for text in ax.figure.legends[0].get_texts()]


def test_a_mark_shows_its_note_where_the_pointer_rests_on_it():
    text = Chart([0, 10], [Curve("gap", [1.0, 2.0], "a")], "gap", marks=MARKS).svg()
    titles = re.findall(r'<g class="mark"><title>([^<]*)</title>', text)
    assert sorted(titles) == ["a &lt;note&gt;", "rolled back", "w"]


def test_a_curve_of_one_point_is_a_dot():
    ax = axes([7], [Curve("variety", [0.5], "a")], "variety")
    (line,) = ax.lines
    assert line.get_marker() == "o"
    assert ax.get_xlim()[0] < 7 < ax.get_xlim()[1]


def test_of_a_long_curve_every_peak_is_still_there_in_a_small_file():
    values = [0.0] * 100_000
    for place in (3, 50_001, 99_990):
        values[place] = 1.0
    text = Chart(range(100_000), [Curve("loss", values, "a")], "loss").svg()
    path = max(re.findall(r'<path d="([^"]*)" clip-path', text), key=len)
    heights = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]
    assert heights.count(min(heights)) == 3
    assert len(text) < 50_000


def test_letters_have_eleven_pixels_on_a_phone():
    text = Chart([0, 10], [Curve("gap", [1.0, 2.0], "a")], "gap", [(1.0, "ε")], MARKS).svg()
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', text)[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
    assert len(sizes) > 5
    assert min(sizes) * 360 * 0.88 / width >= 11  # a phone of 360 pixels, less margins


def test_the_same_numbers_give_the_same_text_in_the_colours_of_the_page():
    text, again = (Chart([0, 1], [Curve("loss", [1.0, 2.0], "a")], "loss", marks=MARKS).svg() for _ in range(2))
    assert text == again
    assert "var(--a)" in text
    assert set(re.findall(r"#[0-9a-f]{6}\b", text)) <= {"#000000", to_hex("white")}  # clip paths, never seen
    assert not re.search(r"https?:|matplotlib|metadata", text)


def test_two_charts_on_a_page_share_no_identifier():
    one, other = (Chart([0, 1], [Curve("loss", [1.0, 2.0], "a")], label).svg() for label in "xy")
    one, other = (set(re.findall(r' id="([^"]*)"', text)) for text in (one, other))
    assert one
    assert not one & other


def test_drawing_changes_no_setting_of_matplotlib():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated settings
        before = dict(mpl.rcParams)
        Chart([0, 1], [Curve("loss", [1.0, 2.0], "a")], "loss").svg()
        assert dict(mpl.rcParams) == before
