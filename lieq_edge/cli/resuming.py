"""What the program says after Ctrl-C about work that can resume."""

from __future__ import annotations

import shlex
import sys

from ..system.schedule import latest_schedule


def last_words(pieces: str) -> str:
    """What is stored of interrupted work, and how to go on.

    Args:
        pieces: name of the pieces of a step that are stored one by one, e.g. ``blocks``.
    """
    schedule = latest_schedule()
    if schedule is None:
        return ""
    finished = len(schedule.finished)
    present = "" if schedule.present is None else f", with the finished {pieces} of the present step"
    command = shlex.join(["lieq-edge", *sys.argv[1:]])
    if not finished:
        return f"No step is done yet. The same command starts again{present}:\n  {command}"
    are, they = ("is", "it") if finished == 1 else ("are", "they")
    done = f"{finished} of {schedule.count} steps {are} done, and what {they} found is stored{present}"
    return f"{done}. The same command goes on from there:\n  {command}"
