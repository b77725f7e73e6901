"""What `tracebility up` decides by itself."""

import os

import pytest

from tracebility.embedded.supervisor import default_workers


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (4, 2), (6, 3), (8, 4), (64, 4)])
def test_the_number_of_workers_suits_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_workers() == workers
