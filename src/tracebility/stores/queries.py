"""Finds the SQL that a name stands for: ``stores/sql/*.sql``, each query under a line ``-- name: the_name``."""

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def query(name_or_text: str) -> str:
    """The text of the query of this name; anything that is not a single word is taken for the text itself.

    Raises:
        KeyError: when there is no query of this name.
    """
    return _queries()[name_or_text] if name_or_text.isidentifier() else name_or_text


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted(files("tracebility.stores").joinpath("sql").iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text("utf-8"))[1:]
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"two queries are named {name}; the second is in {file.name}")
            found[name] = text.strip()
    return found
