"""Migrates both stores to the schema of this release: in order, checksummed, one runner at a time, repeatable."""

from collections.abc import Mapping

from tracebility.stores.migrations import control_plane, data_plane
from tracebility.stores.migrations.control_plane import Say
from tracebility.stores.migrations.files import STORES, SchemaError, Store, discover, rollback_file
from tracebility.stores.migrations.history import Standing, compare

__all__ = ["STORES", "SchemaError", "Standing", "Store", "migrate", "pending", "roll_back", "status"]


async def migrate(
    pg_dsn: str, clickhouse_url: str, *, up_to: Mapping[Store, int] | None = None, say: Say = lambda line: None
) -> list[Standing]:
    """Apply pending migrations, PostgreSQL's first, and return them. ``up_to``: the last number to apply, by store.

    Raises:
        ConfigurationError: when a store cannot be used, or the files do not match its state (`SchemaError`).
        StoreUnavailable: when a store fails during the run. A repeated run continues.
    """
    applied: list[Standing] = []
    async with control_plane.connected(pg_dsn) as control, data_plane.connected(clickhouse_url) as data:
        await control.lock(say)
        await control.prepare()
        await data.prepare(say)
        for store in STORES:
            migrations = {migration.number: migration for migration in discover(store)}
            records = await (control.records() if store == "postgres" else data.records())
            for standing in compare(store, list(migrations.values()), records):
                if standing.state == "applied" or standing.number > (up_to or {}).get(store, standing.number):
                    continue
                migration = migrations[standing.number]
                say(f"{migration.label}: {'going on' if standing.state == 'interrupted' else 'applying'}")
                if store == "postgres":
                    await control.apply(migration)
                else:
                    await data.apply(migration, control, say)
                applied.append(standing)
    return applied


async def status(pg_dsn: str, clickhouse_url: str) -> list[Standing]:
    """Return the state of each migration in both stores. Changes nothing and does not wait for another runner."""
    async with control_plane.connected(pg_dsn) as control, data_plane.connected(clickhouse_url) as data:
        of_postgres, of_clickhouse = await control.records(), await data.records()
        steps_begun = await control.steps_begun()
    return [
        *compare("postgres", discover("postgres"), of_postgres),
        *compare("clickhouse", discover("clickhouse"), of_clickhouse, steps_begun),
    ]


async def pending(pg_dsn: str, clickhouse_url: str) -> list[Standing]:
    """Return the migrations that `migrate` would apply. Changes nothing."""
    return [standing for standing in await status(pg_dsn, clickhouse_url) if standing.state != "applied"]


async def roll_back(number: int, pg_dsn: str, clickhouse_url: str, *, say: Say = lambda line: None) -> None:
    """Undo a ClickHouse migration that has a rollback file. Stop the worker first; `migrate` applies it again.

    Raises:
        SchemaError: when it has no rollback file, or is not applied.
    """
    back = rollback_file(number)
    async with control_plane.connected(pg_dsn) as control, data_plane.connected(clickhouse_url) as data:
        await control.lock(say)
        await data.prepare(say)
        migrations = discover("clickhouse")
        standings = compare("clickhouse", migrations, await data.records())
        migration = next(found for found in migrations if found.number == number)
        if next(standing for standing in standings if standing.number == number).state == "pending":
            raise SchemaError(f"{migration.label} is not applied, so it cannot be rolled back.")
        say(f"{back.label}: going back")
        await data.undo(migration, back, control, say)
