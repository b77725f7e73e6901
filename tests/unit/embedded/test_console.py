"""Output of `tracebility up` never blocks it."""

import subprocess
import sys

CHATTER = """
from tracebility.embedded.console import Console
console = Console(verbose=True)
for number in range(20_000):
    console.line("api", f"line {number} " + "x" * 200)
"""


def test_output_that_nobody_reads_does_not_block() -> None:
    talking = subprocess.Popen([sys.executable, "-c", CHATTER], stdout=subprocess.PIPE)
    assert talking.wait(60) == 0
    said = talking.stdout.read().decode() if talking.stdout else ""
    assert said.startswith("api             line 0 ")


def test_output_whose_reader_has_gone_is_no_error() -> None:
    talking = subprocess.Popen([sys.executable, "-c", CHATTER], stdout=subprocess.PIPE)
    assert talking.stdout is not None
    talking.stdout.close()
    assert talking.wait(60) == 0
