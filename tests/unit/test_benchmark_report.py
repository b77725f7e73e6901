"""A benchmark leaves the docs alone unless it is told to publish."""

import sys
from pathlib import Path

import pytest
from benchmarks import report


def test_figures_get_into_the_page_only_with_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\n<!-- edge -->\n\nold\n\n<!-- /edge -->\n")
    before = page.read_text()
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "b"])
    report.publish("edge", "The edge", "new")
    assert page.read_text() == before
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "b", "--publish"])
    report.publish("edge", "The edge", "new")
    assert "old" not in page.read_text()
    assert "`.venv/bin/python -m benchmarks --only b`\n\nnew\n\n<!-- /edge -->" in page.read_text()
