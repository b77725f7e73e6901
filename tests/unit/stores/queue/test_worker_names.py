import os
import subprocess
import sys

import pytest

from tracebility.stores.queue import worker_names


def test_every_consumer_has_a_name_of_its_own() -> None:
    assert worker_names.new_name() != worker_names.new_name()


def test_a_running_process_is_not_gone() -> None:
    assert not worker_names.is_gone(worker_names.new_name())


def test_an_ended_process_of_this_machine_is_gone() -> None:
    script = "from tracebility.stores.queue.worker_names import new_name; print(new_name())"
    name = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    assert worker_names.is_gone(name)


def test_a_process_that_got_an_ended_one_s_number_is_not_taken_for_it() -> None:
    host, process, start, token = worker_names.new_name().split("/")
    assert process == str(os.getpid())
    assert worker_names.is_gone(f"{host}/{process}/{int(start) - 1}/{token}")


@pytest.mark.parametrize("name", ["", "worker-1", "another.host/1/2/3", "a/b/c/d"])
def test_nothing_is_said_of_processes_elsewhere(name: str) -> None:
    assert not worker_names.is_gone(name)
