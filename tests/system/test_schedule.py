"""Steps of a long piece of work, and the time that is left."""

from __future__ import annotations

import pytest

from lieq_edge.system import schedule as schedules
from lieq_edge.system.progress import Event, log, reporting_to, stage, step_of
from lieq_edge.system.schedule import Schedule, Step, following, latest_schedule, present_schedule, spoken


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(schedules.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def steps(**seconds: float) -> Schedule:
    return Schedule([Step(name, f"do {name}", value) for name, value in seconds.items()])


def test_the_time_left_falls_and_follows_what_earlier_steps_took(clock: Clock) -> None:
    schedule = steps(a=10, b=30, c=60)
    assert (schedule.left(), schedule.number, schedule.count) == (100, 0, 3)
    with schedule.step("a"):
        assert schedule.left() == 100
        clock.now += 4
        assert schedule.left() == 96
        clock.now += 16
        assert schedule.left() == 90  # late, and nothing is known of the others yet
    # Twice the estimate, for a step of half the weight that counts in full.
    assert schedule.left() == pytest.approx(1.5 * 90)
    with schedule.step("b"):
        clock.now += 60
    assert schedule.left() == pytest.approx(2 * 60)
    with schedule.step("c"):
        clock.now += 60
        assert schedule.left() == pytest.approx(60)
    assert schedule.left() == 0
    assert [step.name for step in schedule.finished] == ["a", "b", "c"]


def test_a_step_that_is_skipped_counts_as_done(clock: Clock) -> None:
    schedule = steps(a=10, b=30, c=60)
    with schedule.step("c"):
        assert (schedule.number, [step.name for step in schedule.finished]) == (3, ["a", "b"])
        clock.now += 60
    assert schedule.left() == 0


def test_work_that_is_no_step_counts_for_the_present_one(clock: Clock) -> None:
    schedule = steps(a=10, b=30)
    with schedule.step("unknown") as step:
        assert step is None
    with schedule.step("a"), schedule.step("b") as inner:
        assert inner is None
        assert schedule.number == 1
    assert schedule.number == 1


def test_a_step_that_fails_is_not_done(clock: Clock) -> None:
    schedule = steps(a=10, b=30)
    with pytest.raises(ValueError, match="no"), schedule.step("a"):
        raise ValueError("no")
    assert schedule.finished == ()
    assert schedule.present is not None


def test_steps_of_one_name_are_done_in_turn(clock: Clock) -> None:
    schedule = Schedule([Step("a", "first", 1), Step("b", "second", 1), Step("a", "third", 1)])
    titles = []
    for name in ("a", "b", "a"):
        with schedule.step(name) as step:
            assert step is not None
            titles.append(step.title)
    assert titles == ["first", "second", "third"]


def test_events_carry_the_step_and_the_time_left(clock: Clock) -> None:
    schedule = steps(a=10, b=30)
    events: list[Event] = []
    with reporting_to(events.append), following(schedule):
        assert present_schedule() is schedule
        with step_of(schedule, "a"), stage("Working", 2) as advance:
            clock.now += 5
            advance()
        log("a note")
    assert [(event.step, event.steps, event.seconds_left) for event in events[:2]] == [(1, 2, 40), (1, 2, 35)]
    assert (events[-1].message, events[-1].step) == ("a note", 1)
    assert present_schedule() is None
    assert latest_schedule() is schedule


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (8.4, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (150, "2 min 30 s"),
        (594, "9 min 50 s"),
        (596, "10 min"),
        (3000, "50 min"),
        (3590, "1 h"),
        (4800, "1 h 20 min"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
