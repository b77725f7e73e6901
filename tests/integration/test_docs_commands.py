"""Every block of commands of every page runs, in the order of the page, on an installation as `make up` starts it.

A block of commands is fenced as ``sh``. One that cannot run here has a comment above it that says why:
``<!-- not run: it listens until Ctrl-C -->``.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.conftest import running
from tests.harness import command_server

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^\n]+) -->\n+$")
PAGE_DEADLINE_S = 200


@dataclass(frozen=True)
class Block:
    """What stands between two fences, and why it is not run, if it is not."""

    language: str
    text: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        marked = NOT_RUN.search(text[: fence.start()])
        found.append(Block(fence["language"], fence["text"], marked["why"] if marked else ""))
    return found


PAGES = {
    str(page.relative_to(ROOT)): blocks(page) for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}


def test_every_block_says_what_it_is_and_few_cannot_run() -> None:
    assert [name for name, found in PAGES.items() for block in found if not block.language] == []
    assert len([block for found in PAGES.values() for block in found if block.not_run]) <= 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The home of a user who has run `make up`; curl fails there when the answer is an error."""
    home = tmp_path_factory.mktemp("home")
    (home / "bin").mkdir()
    curl = home / "bin" / "curl"
    curl.write_text('#!/bin/sh\nexec "$REAL_CURL" --fail-with-body --show-error "$@"\n')
    curl.chmod(0o755)
    with command_server.install(home / "bin"), running("--port", "0", data_dir=home / ".tracebility") as ready:
        yield home, ready


@pytest.mark.parametrize("name", [name for name, found in PAGES.items() if any(one.language == "sh" for one in found)])
def test_every_block_of_a_page_runs(home: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, ready = home
    address = urlsplit(ready["url"]).netloc
    lines = ["set -euo pipefail"]
    for number, block in enumerate(PAGES[name], 1):
        if block.language == "sh" and not block.not_run:
            text = re.sub(r"(127\.0\.0\.1|localhost):7080", address, block.text)
            lines += [f"echo '--- block {number}' >&2", "set -x", text.rstrip(), "{ set +x; } 2>/dev/null"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TRACEBILITY_") and name != "HOME"
    }
    binaries = Path(sys.executable).parent
    environment |= {
        "HOME": str(folder),
        "REAL_CURL": subprocess.check_output(["which", "curl"], text=True).strip(),
        "PATH": f"{folder / 'bin'}:{binaries}:{environment['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder, env=environment, text=True, timeout=PAGE_DEADLINE_S, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
