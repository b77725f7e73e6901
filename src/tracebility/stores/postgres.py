"""The control plane's client: a small pool, queries by name, bounded waits, errors that say whether to try again."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import asyncpg
from asyncpg import exceptions

from tracebility.config import redact
from tracebility.errors import AuditLogTampered, ConfigurationError, StoreUnavailable, TracebilityError
from tracebility.stores.queries import query
from tracebility.stores.start import START_WAIT_S, Refused, until_reachable

VARIABLE = "TRACEBILITY_PG_DSN"

MIN_CONNECTIONS = 1  # an idle connection costs the server some 5 MB, and there are several services
MAX_CONNECTIONS = 10
CONNECT_TIMEOUT_S = 2.0
ACQUIRE_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 5.0  # control-plane statements take milliseconds; one that takes longer is in trouble

# An event's number in its org's chain. The schema gives them under a lock: one is only taken where somebody else wrote.
_PLACE_IN_THE_TRAIL = "audit_log_seq"


class Conflict(TracebilityError):
    """A constraint of the schema forbids the change. ``constraint`` is its name."""

    def __init__(self, constraint: str, detail: str) -> None:
        super().__init__(detail)
        self.constraint = constraint


class Row(Protocol):
    """One row, by column name or position."""

    def __getitem__(self, key: str | int) -> Any: ...


async def connect(dsn: str, *, wait_s: float = START_WAIT_S) -> "Postgres":
    """The control plane at ``dsn``, once it has answered.

    Raises:
        ConfigurationError: when nothing answers there for ``wait_s``, or it refuses the user, password or database.
    """

    async def open_pool() -> None:
        with translated():
            opened.append(
                await asyncpg.create_pool(
                    dsn,
                    min_size=MIN_CONNECTIONS,
                    max_size=MAX_CONNECTIONS,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=STATEMENT_TIMEOUT_S,
                    init=prepare_connection,
                    server_settings={"application_name": "tracebility"},
                )
            )

    opened: list[asyncpg.Pool] = []
    await until_reachable(VARIABLE, dsn, open_pool, wait_s=wait_s)
    return Postgres(opened[0])


class Statements:
    """Running statements. ``sql`` names a query of ``stores/sql``, or is one; arguments are ``$1``, ``$2``."""

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Every row."""
        async with self._connection() as connection:
            rows: Sequence[Row] = await connection.fetch(query(sql), *args)
            return rows

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        """The first row, None when there is none."""
        async with self._connection() as connection:
            row: Row | None = await connection.fetchrow(query(sql), *args)
            return row

    async def fetchval(self, sql: str, *args: object) -> Any:
        """The first column of the first row, None when there is none."""
        async with self._connection() as connection:
            return await connection.fetchval(query(sql), *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run it; the server's command tag, such as ``UPDATE 1``."""
        async with self._connection() as connection:
            tag: str = await connection.execute(query(sql), *args)
            return tag

    def _connection(self) -> Any:
        raise NotImplementedError


class Postgres(Statements):
    """The pool. Every method raises `StoreUnavailable` when the store is away, `Conflict` when a constraint forbids,
    and `AuditLogTampered` when an event has no place in its audit trail.
    """

    def __init__(self, pool: "asyncpg.Pool") -> None:
        self._pool = pool

    async def close(self) -> None:
        """Close every connection, at once when they do not close politely."""
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def ping(self) -> None:
        """Return when the store answers."""
        await self.fetchval("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """One transaction: committed at the end of the block, rolled back when the block raises."""
        # Only the driver's own calls are translated: what the block raises is the block's.
        with translated():
            connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        try:
            transaction = connection.transaction()
            with translated():
                await transaction.start()
            try:
                yield Transaction(connection)
            except BaseException:
                if not connection.is_closed():
                    with translated():
                        await transaction.rollback()
                raise
            with translated():
                await transaction.commit()
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection


class Transaction(Statements):
    """The statements of one transaction."""

    def __init__(self, connection: Any) -> None:
        self._held = connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with translated():
            yield self._held


async def prepare_connection(connection: Any) -> None:
    """Make ``jsonb`` travel as Python values."""
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into this program's; others, as of a wrong statement, pass as they are."""
    try:
        yield
    except _REFUSALS as error:
        raise Refused("postgres", redact(str(error))) from error
    except exceptions.IntegrityConstraintViolationError as error:
        if error.constraint_name == _PLACE_IN_THE_TRAIL:
            raise AuditLogTampered(redact(str(error.detail or error))) from error
        raise Conflict(error.constraint_name or "", redact(str(error))) from error
    except _AWAY as error:
        raise StoreUnavailable("postgres", redact(str(error)) or type(error).__name__) from error
    except exceptions.ClientConfigurationError as error:
        raise ConfigurationError(
            f"{VARIABLE} is malformed. Write it as postgresql://user:password@host:5432/database."
        ) from error


_REFUSALS = (
    exceptions.InvalidAuthorizationSpecificationError,
    exceptions.InvalidPasswordError,
    exceptions.InvalidCatalogNameError,
)
# To try again is what all of these ask for; a transaction that lost to another one is among them.
_AWAY = (
    OSError,
    TimeoutError,
    exceptions.DeadlockDetectedError,
    exceptions.SerializationError,
    exceptions.PostgresConnectionError,
    exceptions.OperatorInterventionError,
    exceptions.InsufficientResourcesError,
    exceptions.PostgresSystemError,
    exceptions.InterfaceError,
    exceptions.InternalClientError,
)
