"""Compares the version table of a store with the migration files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tracebility.stores.migrations.files import Migration, SchemaError, Store

State = Literal["applied", "interrupted", "pending"]


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the version table: a file that was applied or begun."""

    number: int
    name: str
    checksum: str
    finished: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one migration in a store. ``step``: the statement at which it was interrupted, if known."""

    store: Store
    number: int
    name: str
    state: State
    at: datetime | None
    step: int | None = None


def compare(
    store: Store,
    migrations: Sequence[Migration],
    records: Iterable[Record],
    steps_begun: Mapping[int, int] | None = None,
) -> list[Standing]:
    """Return the state of each migration in the store.

    Raises:
        SchemaError: when an applied file was changed, or the store was migrated by a later release.
    """
    recorded = {record.number: record for record in records}
    later = sorted(recorded.keys() - {migration.number for migration in migrations})
    if later:
        record = recorded[later[0]]
        raise SchemaError(
            f"The {store} store has migration {record.name}, which this release does not know. "
            "Run a release at least as new as the one that applied it."
        )
    begun = steps_begun or {}
    return [
        _standing(migration, recorded.get(migration.number), begun.get(migration.number)) for migration in migrations
    ]


def _standing(migration: Migration, record: Record | None, step: int | None) -> Standing:
    place = (migration.store, migration.number, migration.name)
    if record is None:
        return Standing(*place, "pending", None)
    if not record.finished:
        # A changed text is allowed here, because all statements of an unfinished file run again.
        return Standing(*place, "interrupted", record.at, step)
    if record.checksum != migration.checksum:
        raise SchemaError(
            f"{migration.label} was changed after it was applied at {record.at:%Y-%m-%d %H:%M} UTC "
            f"(checksum then {record.checksum[:12]}, now {migration.checksum[:12]}). "
            "Restore the file as it was released, and write the change as a new migration."
        )
    return Standing(*place, "applied", record.at)
