"""Loads named SQL: each query in ``<package>/sql/*.sql`` follows a line ``-- name: the_name``. Names are unique."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def query(name_or_text: str) -> str:
    """Return the text of a named query. An argument that is not an identifier is SQL text and returned unchanged.

    Raises:
        KeyError: when there is no query of this name.
    """
    return _queries()[name_or_text] if name_or_text.isidentifier() else name_or_text


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _sql_files():
        parts = _NAME.split(file.read_text("utf-8"))[1:]
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"two queries are named {name}; the second is in {file.name}")
            found[name] = text.strip()
    return found


def _sql_files() -> Iterator[Traversable]:
    """The SQL files of all packages."""
    for package in sorted(files("tracebility").iterdir(), key=lambda entry: entry.name):
        folder = package.joinpath("sql")
        if package.is_dir() and folder.is_dir():
            yield from sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
