"""The PostgreSQL client: a small pool, named queries, timeouts, and errors that tell whether a retry can help."""

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

MIN_CONNECTIONS = 1  # an idle connection costs the server about 5 MB, and there are several services
MAX_CONNECTIONS = 10
CONNECT_TIMEOUT_S = 2.0
ACQUIRE_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 5.0  # statements normally take milliseconds

# Unique constraint on an event's seq in its chain. The schema assigns seqs under a lock, so a conflict means tampering.
_AUDIT_SEQ_CONSTRAINT = "audit_log_seq"


class Conflict(TracebilityError):
    """The change violates the schema constraint named ``constraint``."""

    def __init__(self, constraint: str, detail: str) -> None:
        super().__init__(detail)
        self.constraint = constraint


class Row(Protocol):
    """One row, indexed by column name or position."""

    def __getitem__(self, key: str | int) -> Any: ...


async def connect(dsn: str, *, wait_s: float = START_WAIT_S) -> "Postgres":
    """Connect to PostgreSQL at ``dsn`` and wait for its first answer.

    Raises:
        ConfigurationError: when nothing answers for ``wait_s``, or the user, password or database is refused.
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
    """Runs statements. ``sql`` is the name of a query in an ``sql/`` folder, or SQL text. Arguments: ``$1``, ``$2``."""

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        """Return all rows."""
        async with self._connection() as connection:
            rows: Sequence[Row] = await connection.fetch(query(sql), *args)
            return rows

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        """Return the first row, or None."""
        async with self._connection() as connection:
            row: Row | None = await connection.fetchrow(query(sql), *args)
            return row

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Return the first column of the first row, or None."""
        async with self._connection() as connection:
            return await connection.fetchval(query(sql), *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run the statement and return the server's command tag, such as ``UPDATE 1``."""
        async with self._connection() as connection:
            tag: str = await connection.execute(query(sql), *args)
            return tag

    def _connection(self) -> Any:
        raise NotImplementedError


class Postgres(Statements):
    """A connection pool. Every method raises `StoreUnavailable` when PostgreSQL is unavailable, `Conflict` when a
    constraint is violated, and `AuditLogTampered` when an event cannot be appended to its chain.
    """

    def __init__(self, pool: "asyncpg.Pool") -> None:
        self._pool = pool

    async def close(self) -> None:
        """Close every connection, by force after a timeout."""
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def ping(self) -> None:
        """Return once PostgreSQL answers."""
        await self.fetchval("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """Run the block in one transaction: commit at its end, roll back when it raises."""
        # Only the driver's own errors are translated, not errors that the block raises.
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
    """Runs statements in one transaction."""

    def __init__(self, connection: Any) -> None:
        self._pinned = connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with translated():
            yield self._pinned


async def prepare_connection(connection: Any) -> None:
    """Encode and decode ``jsonb`` as Python values."""
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


@contextmanager
def translated() -> Iterator[None]:
    """Translate the driver's errors into this program's. Others, such as invalid SQL, pass unchanged."""
    try:
        yield
    except _REFUSALS as error:
        raise Refused("postgres", redact(str(error))) from error
    except exceptions.IntegrityConstraintViolationError as error:
        if error.constraint_name == _AUDIT_SEQ_CONSTRAINT:
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
# Errors that a retry can resolve, including deadlocks and serialization failures.
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
