"""Commands on the shared stores, run in this process."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner

from tracebility.cli import app
from tracebility.errors import TracebilityError


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command sets where logs go, to a stream that the runner closes behind it."""
    yield
    structlog.reset_defaults()


@dataclass(frozen=True)
class Commands:
    """Runs commands on the installation in ``data_dir``."""

    data_dir: Path

    def run(self, *arguments: str, text: str | None = None) -> Any:
        """What came of it. ``text`` is its standard input."""
        try:
            return CliRunner().invoke(app, [*arguments, "--data-dir", str(self.data_dir)], input=text)
        finally:  # a command sends logs to a stream that the runner closes behind it
            structlog.reset_defaults()

    def answer(self, *arguments: str, text: str | None = None) -> Any:
        """The document that it prints for programs."""
        result = self.run(*arguments, "--json", text=text)
        assert result.exit_code == 0, (result.output, result.exception)
        return json.loads(result.stdout)

    def refusal(self, *arguments: str, text: str | None = None) -> str:
        """What it says instead of doing anything."""
        result = self.run(*arguments, text=text)
        assert result.exit_code != 0
        assert isinstance(result.exception, TracebilityError | SystemExit), result.exception
        return str(result.exception) + result.output


@pytest.fixture
def commands(stores: Any) -> Commands:
    """Commands on the shared stores."""
    return Commands(stores.data_dir)
