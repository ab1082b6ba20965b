"""Tests of the step timer."""

import time

import pytest

from pyannote_weighter.timing import StepTimer


def test_time_goes_to_the_step_that_ends(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 3.5, 10.0])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    timer = StepTimer()
    timer("segmentation", None, completed=1, total=2)
    timer("segmentation", "result", file={})
    timer("clustering", "result")
    timer.finish("rest")
    assert timer.seconds == pytest.approx({"segmentation": 3.0, "clustering": 0.5, "rest": 6.5})
