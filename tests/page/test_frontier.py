"""The picture of size against divergence."""

from __future__ import annotations

from lieq_edge.page.frontier import Point, frontier


def test_points_lie_by_size_and_by_the_logarithm_of_the_divergence() -> None:
    chart = frontier(
        [Point("b", 200.0, 0.01, True), Point("a", 100.0, 0.1, True), Point("c", 150.0, 0.001, False)], 800, 400
    )
    assert [mark.point.name for mark in chart.marks] == ["a", "c", "b"]
    a, c, b = chart.marks
    assert a.x < c.x < b.x
    assert round((a.x + b.x) / 2, 0) == round(c.x, 0)
    assert abs((b.y - a.y) - (c.y - b.y)) < 0.3  # a tenth each
    assert chart.lines == ((0, f"{a.x},{a.y} {b.x},{b.y}"),)
    for mark in chart.marks:
        assert chart.left < mark.x < chart.right
        assert chart.top < mark.y < chart.bottom
    assert "a: 100.0 MB, 0.100 nats" in chart.description


def test_each_series_has_a_line() -> None:
    points = [Point(f"{series} {size}", size, 1 / size, True, series) for size in (100.0, 120.0) for series in (0, 1)]
    chart = frontier([*points, Point("alone", 110.0, 0.5, True, 2)], 800, 400)
    assert [number for number, _ in chart.lines] == [0, 1]
    of_second = [mark for mark in chart.marks if mark.point.series == 1]
    assert chart.lines[1][1] == " ".join(f"{mark.x},{mark.y}" for mark in of_second)


def test_ticks_are_inside_and_round() -> None:
    chart = frontier([Point("a", 88.5, 0.0042, True), Point("b", 105.1, 0.052, False)], 860, 400)
    assert len(chart.across) >= 3
    assert len(chart.up) >= 3
    assert {"0.01", "0.05"} <= {tick.text for tick in chart.up}
    assert all(chart.left <= tick.place <= chart.right for tick in chart.across)
    assert all(chart.top <= tick.place <= chart.bottom for tick in chart.up)
    assert chart.lines == ()


def test_equal_files_have_a_place_too() -> None:
    chart = frontier([Point("a", 100.0, 0.01, True), Point("b", 100.0, 0.01, False)], 360, 340)
    assert all(chart.left < mark.x < chart.right and chart.top < mark.y < chart.bottom for mark in chart.marks)


def test_names_do_not_cover_each_other() -> None:
    points = [Point(f"model-{i}.gguf", 100.0 + 2 * i, 0.01 + 0.0003 * i, True) for i in range(6)]
    chart = frontier(points, 860, 400)
    boxes = []
    for mark in chart.marks:
        length = 6.4 * len(mark.label)
        left = {"start": mark.label_x, "end": mark.label_x - length, "middle": mark.label_x - length / 2}[mark.anchor]
        assert left >= chart.left
        assert left + length <= chart.right
        boxes.append((left, mark.label_y, left + length))
    for i, (left, y, right) in enumerate(boxes):
        for other_left, other_y, other_right in boxes[:i]:
            assert right <= other_left or other_right <= left or abs(y - other_y) >= 10


def test_a_long_name_is_cut() -> None:
    chart = frontier([Point("n" * 200, 100.0, 0.01, True), Point("b", 110.0, 0.02, True)], 360, 340)
    assert chart.marks[0].label.endswith("n…")
    assert len(chart.marks[0].label) < 30
