"""What status makes of what it sees."""

import os
import subprocess
import sys

from tracebility.commands.status import Status, _rate, look_at_service


def accepted(count: int | None) -> Status:
    return Status("", accepted_spans=count)


def test_the_rate_is_what_was_accepted_meanwhile() -> None:
    assert _rate(accepted(100), accepted(400), 2.0) == 150.0
    assert _rate(accepted(100), accepted(7), 2.0) == 0.0, "the edge was started again, and counts from nothing"
    assert _rate(accepted(None), accepted(7), 2.0) is None


def test_a_process_that_nobody_has_waited_for_yet_is_not_alive() -> None:
    assert look_at_service("me", os.getpid()).alive
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not look_at_service("zombie", process.pid).alive
    assert not look_at_service("gone", process.pid).alive
