"""``make mutants``: break the product in each way of the catalogue, and say which test turns red.

    python -m tests.mutants [--only TEXT]

Exit code 1 when one stays green: a hole to close.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("src", "schemas", "tests", "pyproject.toml", "docs")
MOST_RED = 3
DEADLINE_S = 600


def broken(mutant: Mutant, folder: Path) -> None:
    """Put a broken copy of the product into ``folder``.

    Raises:
        SystemExit: when what is to be broken is not there (any more).
    """
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    file = folder / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.name}: {mutant.file} does not hold exactly one\n{mutant.old}")
    file.write_text(text.replace(mutant.old, mutant.new))


def red(mutant: Mutant, folder: Path) -> list[str]:
    """The tests that fail on the broken copy."""
    command = [sys.executable, "-m", "pytest", mutant.tests, "-q", "-p", "no:cacheprovider", f"--maxfail={MOST_RED}"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    return re.findall(r"^(?:FAILED|ERROR) \S*::(\S+)", ran.stdout, re.MULTILINE)


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="only mutants whose names hold this text")
    only = parser.parse_args().only
    chosen = [mutant for mutant in MUTANTS if only in mutant.name]
    green = 0
    for number, mutant in enumerate(chosen, 1):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tracebility-mutant-") as folder:
            broken(mutant, Path(folder))
            failed = red(mutant, Path(folder))
        green += not failed
        said = ", ".join(failed) if failed else "STAYED GREEN: a hole to close"
        print(f"{number:>3} of {len(chosen)}  {mutant.name}", flush=True)
        print(f"            {said}  ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(chosen) - green} of {len(chosen)} turned a test red.")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main())
