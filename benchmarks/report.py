"""Prints figures. With ``--publish`` also writes them to ``docs/performance.md``, with date, machine and command."""

import argparse
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from . import ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "pictures"
PYTHON = ".venv/bin/python"
_PUBLISH = "--publish"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table. Numbers are shortened and aligned right."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(columns))]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|" + "|".join("-" * (w + 1) + (":" if right else "-") for w, right in zip(widths, numeric, strict=True)) + "|"
    )
    return "\n".join([line(columns), rule, *map(line, cells)])


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    options = argparse.ArgumentParser(prog=f"{PYTHON} -m {module}", description=description)
    options.add_argument(_PUBLISH, action="store_true", help=f"write the figures into {PAGE.relative_to(ROOT)}")
    return options


def publish(section: str, title: str, text: str, *, module: str = "benchmarks") -> None:
    """Print the figures. With ``--publish`` also replace the page's section of this name, or append it."""
    print(f"\n{title}\n\n{text}", flush=True)
    if _PUBLISH not in sys.argv:
        return
    stamp = f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {machine()}: `{command(module)}`"
    block = f"<!-- {section} -->\n\n## {title}\n\n{stamp}\n\n{text.strip()}\n\n<!-- /{section} -->"
    page = PAGE.read_text()
    pattern = re.compile(rf"<!-- {section} -->.*?<!-- /{section} -->", re.DOTALL)
    page = pattern.sub(lambda _: block, page) if pattern.search(page) else f"{page.rstrip()}\n\n{block}\n"
    PAGE.write_text(page)


def machine() -> str:
    """A short description of this machine."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        model = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}"


def command(module: str) -> str:
    """The command line of this process."""
    return shlex.join([PYTHON, "-m", module, *(word for word in sys.argv[1:] if word != _PUBLISH)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
