"""Reads the schema: numbered SQL files of both stores, and the statements and directives in ClickHouse's files.

PostgreSQL runs a file as one transaction. ClickHouse has no transactions, so its files run statement by statement, and
each statement must be repeatable. Directives are comment lines:

- ``-- @unless table NAME`` ... ``-- @end``: skip these statements if the table exists when the block is reached.
- ``-- @when table NAME`` ... ``-- @end``: skip these statements if the table does not exist.
- ``-- @only server`` ... ``-- @end``: run only where the engine can store roles and row policies; the embedded engine
  has them in its configuration.
- ``-- @load postgres QUERY into TABLE``: copy the rows of a named query of PostgreSQL into a table.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tracebility.errors import ConfigurationError

Store = Literal["postgres", "clickhouse"]
STORES: tuple[Store, ...] = ("postgres", "clickhouse")

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_TOKEN = re.compile(r"--[^\n]*\n?|'(?:[^'\\]|\\.|'')*'|`[^`]*`|;|[^-;'`]+|-", re.DOTALL)
_END_OF_STATEMENT = ";"
_GUARD = re.compile(r"(unless|when) table (\w+)")
_LOAD = re.compile(r"load postgres (\w+) into (\w+)")


class SchemaError(ConfigurationError):
    """The files do not match the state of a store. The message is one line with the cause and the fix."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. Its checksum ignores differences of line endings."""

    store: Store
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256, hexadecimal."""
        return sha256(self.text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """The file's path, for messages."""
        return f"schemas/{self.store}/{self.name}"


@dataclass(frozen=True, slots=True)
class Load:
    """Copy the rows of a named PostgreSQL query into a ClickHouse table."""

    query: str
    table: str


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition of a block: on a server, or unless or when a table exists. ``block`` numbers the blocks."""

    block: int
    kind: Literal["unless", "when", "server"]
    table: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One statement or load, with the guard of its block."""

    number: int
    action: str | Load
    guard: Guard | None = None


def discover(store: Store) -> tuple[Migration, ...]:
    """The store's migrations in order."""
    return tuple(_read(store, schemas().joinpath(store)))


def rollback_file(number: int) -> Migration:
    """Return the rollback file of a ClickHouse migration."""
    found = {migration.number: migration for migration in _read("clickhouse", schemas() / "clickhouse" / "rollback")}
    if number not in found:
        known = ", ".join(f"{known:04d}" for known in found)
        raise SchemaError(
            f"ClickHouse migration {number:04d} cannot be rolled back. Migrations with a rollback: {known}."
        )
    return found[number]


def schemas() -> Traversable:
    """Return the folder of the files: in the wheel, else in the checkout."""
    packaged = files("tracebility").joinpath("schemas")
    return packaged if packaged.is_dir() else Path(__file__).parents[4] / "schemas"


def steps(text: str) -> list[Step]:
    """Parse a ClickHouse file into steps, numbered from 1.

    Raises:
        ValueError: when a directive is unknown, inside a statement, or not closed.
    """
    found: list[Step] = []
    statement: list[str] = []
    guard: Guard | None = None
    blocks = 0

    def add(action: str | Load) -> None:
        found.append(Step(len(found) + 1, action, guard))

    def end_statement() -> None:
        if sql := "".join(statement).strip():
            add(sql)
        statement.clear()

    for token in _TOKEN.findall(text):
        if token == _END_OF_STATEMENT:
            end_statement()
        elif not token.startswith("--"):
            statement.append(token)
        elif token.startswith("-- @"):
            directive = token.removeprefix("-- @").strip()
            if "".join(statement).strip():
                raise ValueError(f"@{directive} stands inside a statement")
            if directive == "end" and guard is not None:
                guard = None
            elif load := _LOAD.fullmatch(directive):
                add(Load(load[1], load[2]))
            elif guard is None and (on_table := _GUARD.fullmatch(directive)):
                blocks += 1
                guard = Guard(blocks, "when" if on_table[1] == "when" else "unless", on_table[2])
            elif guard is None and directive == "only server":
                blocks += 1
                guard = Guard(blocks, "server")
            else:
                raise ValueError(f"@{directive} is not understood here")
    if guard is not None:
        raise ValueError("a block is not closed by @end")
    end_statement()
    return found


def _read(store: Store, folder: Traversable) -> Iterator[Migration]:
    numbers: set[int] = set()
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not (match := _FILE.fullmatch(file.name)):
            continue
        number = int(match[1])
        if number in numbers:
            raise SchemaError(f"schemas/{store} has two files numbered {number:04d}. Give one of them a new number.")
        numbers.add(number)
        yield Migration(store, number, file.name, file.read_text("utf-8").replace("\r\n", "\n"))
