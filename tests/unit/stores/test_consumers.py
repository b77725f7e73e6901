import os
import subprocess
import sys

import pytest

from tracebility.stores import consumers


def test_every_consumer_has_a_name_of_its_own() -> None:
    assert consumers.new_name() != consumers.new_name()


def test_a_running_process_is_not_gone() -> None:
    assert not consumers.is_gone(consumers.new_name())


def test_an_ended_process_of_this_machine_is_gone() -> None:
    script = "from tracebility.stores.consumers import new_name; print(new_name())"
    name = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    assert consumers.is_gone(name)


def test_a_process_that_got_an_ended_one_s_number_is_not_taken_for_it() -> None:
    host, process, start, token = consumers.new_name().split("/")
    assert process == str(os.getpid())
    assert consumers.is_gone(f"{host}/{process}/{int(start) - 1}/{token}")


@pytest.mark.parametrize("name", ["", "worker-1", "another.host/1/2/3", "a/b/c/d"])
def test_nothing_is_said_of_processes_elsewhere(name: str) -> None:
    assert not consumers.is_gone(name)
