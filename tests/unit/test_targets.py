"""What every target does before it serves."""

import resource
import subprocess
import sys

A_TARGET = """
import resource
from tracebility import targets
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
targets._take_all_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_target_may_open_as_many_files_as_its_user() -> None:
    done = subprocess.run([sys.executable, "-c", A_TARGET], capture_output=True, text=True, check=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert done.stdout.split() == [str(hard), str(hard)]
