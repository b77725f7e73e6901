"""The ClickHouse client, over HTTP: for a server, a cluster or the embedded engine.

Requests are stateless, because a session id would allow only one query at a time. Every setting that changes the
meaning of an insert is sent with it, because the defaults differ between versions.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import lz4.frame
import zstandard
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, Error

from tracebility.config import redact
from tracebility.errors import ConfigurationError, StoreUnavailable, TracebilityError
from tracebility.stores.start import START_WAIT_S, Refused, until_reachable

VARIABLE = "TRACEBILITY_CLICKHOUSE_URL"

CONNECT_TIMEOUT_S = 2.0
OPERATION_TIMEOUT_S = 60.0  # inserting a full batch takes under a second; heavy merges may delay it
LONGEST_TIMEOUT_S = 600.0  # for statements that are known to be slow
MAX_CONNECTIONS = 32
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
COMPRESSIONS = ("none", "lz4", "zstd")

# The meaning of an insert must not depend on the server's version or profile: these defaults changed between versions.
# Block deduplication is off, because rows are deduplicated by key, and a false match would silently drop new rows. The
# insert quorum is left to the cluster's operator, who weighs a lost replica against a stopped worker.
INSERT_SETTINGS: Mapping[str, str] = {
    "async_insert": "0",
    "wait_for_async_insert": "1",
    "insert_deduplicate": "0",
    "deduplicate_insert": "disable",
    "deduplicate_insert_select": "disable",
    "deduplicate_blocks_in_dependent_materialized_views": "0",
    "input_format_native_allow_types_conversion": "1",  # plain columns are accepted for LowCardinality ones
    "input_format_null_as_default": "0",
    "max_insert_threads": "1",  # one part per partition and insert
    # Duplicate keys within an insert are removed by the next merge, and by every read until then. Removing them in each
    # block costs a third of the insert's CPU: 14 us per 2 KB span instead of 9.
    "optimize_on_insert": "0",
    "wait_end_of_query": "1",  # answer once the rows are written, with their number
}

_CLICKHOUSE = "clickhouse"


class EngineRejected(TracebilityError):
    """ClickHouse rejects the statement or its data as invalid. ``code`` is ClickHouse's error number."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"ClickHouse error {code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of a query, with the names and types of its columns."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    statistics: Mapping[str, str]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as mappings from column to value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


async def connect(
    url: str,
    *,
    variable: str = VARIABLE,
    wait_s: float = START_WAIT_S,
    operation_timeout_s: float = OPERATION_TIMEOUT_S,
) -> "Engine":
    """Connect to the engine at ``url`` and wait for its first answer.

    ``?compression=none|lz4|zstd`` in the URL overrides the default: none on loopback, lz4 over a network.

    Raises:
        ConfigurationError: when nothing answers for ``wait_s``, or the user, password or database is refused.
    """
    parts = urlsplit(url)
    loopback = parts.hostname in LOOPBACK
    compression = dict(parse_qsl(parts.query)).get("compression", "none" if loopback else "lz4")
    if compression not in COMPRESSIONS:
        raise ConfigurationError(f"{variable}: compression must be one of {', '.join(COMPRESSIONS)}.")
    client = AsyncClient(
        interface=parts.scheme,
        host=parts.hostname or "localhost",
        port=parts.port or (8443 if parts.scheme == "https" else 8123),
        username=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.strip("/")) or "tracebility",
        compress=False if compression == "none" else compression,
        connect_timeout=CONNECT_TIMEOUT_S,
        send_receive_timeout=LONGEST_TIMEOUT_S,  # each call has its own, shorter timeout
        connector_limit=MAX_CONNECTIONS,
        connector_limit_per_host=MAX_CONNECTIONS,
        autogenerate_session_id=False,
        query_retries=0,
        # Parameters may hold thousands of ids, but many servers and proxies limit URLs to 64 KiB.
        form_encode_query_params=True,
        tz_mode="aware",
        show_clickhouse_errors="scrub",
        client_name="tracebility",
    )
    if loopback:
        client._backend.proxy_url = None  # a proxy from the environment cannot reach this machine's loopback
    engine = Engine(client, compression, operation_timeout_s)
    try:
        await until_reachable(variable, url, engine.open, wait_s=wait_s)
    except BaseException:
        await engine.close()
        raise
    return engine


class Engine:
    """The client without tenant scope. Code that answers requests must use `ScopedClickHouse` instead.

    Every method raises `StoreUnavailable` when ClickHouse is unavailable, busy or not ready for the statement, and
    `EngineRejected` when it rejects the statement or its data.
    """

    def __init__(self, client: AsyncClient, compression: str, operation_timeout_s: float) -> None:
        self._client = client
        self._compression = compression
        self._operation_timeout_s = operation_timeout_s
        self._insert_settings: dict[str, str] = {}

    async def open(self) -> None:
        """Read the engine's version and settings, and check that the database exists."""
        async with self._translated():
            await self._client._initialize()
            await self._client.command("SELECT 1")
        # Older servers have fewer settings, and refuse requests with unknown ones.
        self._insert_settings = {
            name: value
            for name, value in INSERT_SETTINGS.items()
            if name in self._client.server_settings or name in self._client.valid_transport_settings
        }

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def ping(self) -> None:
        """Return once the engine answers a query."""
        async with self._translated():
            await self._client.command("SELECT 1")

    @property
    def version(self) -> str:
        """The engine's version."""
        return str(self._client.server_version)

    @property
    def database(self) -> str:
        """The database that the URL names."""
        return str(self._client.database)

    async def insert_native(self, table: str, column_names: Sequence[str], rows: int, block: bytes) -> None:
        """Insert ``block``, which holds ``rows`` rows of ``column_names`` in Native format.

        Raises:
            EngineRejected: when the data is invalid; retrying does not help.
            StoreUnavailable: on other errors, and when the number of rows written differs. The rows may have been
                written; inserting them again creates no duplicates.
        """
        encoding = None if self._compression == "none" else self._compression
        async with self._translated(data_only=True):
            summary = await self._client.raw_insert(
                table,
                column_names,
                await asyncio.to_thread(_compressed, block, encoding) if encoding else block,
                settings=self._insert_settings,
                fmt="Native",
                compression=encoding,
            )
        if summary.written_rows != rows:
            raise StoreUnavailable(_CLICKHOUSE, f"{summary.written_rows} of {rows} rows were written to {table}")

    async def insert_rows(self, table: str, column_names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert Python rows, for small and rare inserts. Raises the same errors as `insert_native`."""
        if not rows:
            return
        # JSON lines, because the driver's row encoder imports pandas if it is installed: a second of CPU.
        lines = "\n".join(json.dumps(dict(zip(column_names, row, strict=True)), default=str) for row in rows)
        async with self._translated():
            summary = await self._client.raw_insert(
                table, column_names, lines, settings=self._insert_settings, fmt="JSONEachRow"
            )
        if summary.written_rows != len(rows):
            raise StoreUnavailable(_CLICKHOUSE, f"{summary.written_rows} of {len(rows)} rows were written to {table}")

    async def execute(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Run a statement that returns no rows. ``timeout_s`` overrides the default timeout.

        The engine binds ``parameters["name"]`` to ``{name:Type}`` in ``sql``.
        """
        async with self._translated(timeout_s=timeout_s):
            # The driver's `command` would put the parameters into the URL despite form_encode_query_params.
            await self._client.raw_query(
                sql, parameters=dict(parameters or {}), settings=self._insert_settings | dict(settings or {})
            )

    async def query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Result:
        """Run a query and return its rows. Parameters as for `execute`; times are timezone-aware."""
        async with self._translated():
            answer = await self._client.query(sql, parameters=dict(parameters or {}), settings=dict(settings or {}))
            return Result(
                tuple(answer.column_names),
                tuple(kind.name for kind in answer.column_types),
                answer.result_rows,
                dict(answer.summary or {}),
            )

    async def query_raw(
        self,
        sql: str,
        format_name: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> bytes:
        """As `query`, but the answer as the engine writes it in one of its formats."""
        async with self._translated():
            answer: bytes = await self._client.raw_query(
                sql, parameters=dict(parameters or {}), settings=dict(settings or {}), fmt=format_name
            )
            return answer

    @asynccontextmanager
    async def _translated(self, *, data_only: bool = False, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Apply the timeout, and translate the driver's errors into this program's."""
        bound_s = self._operation_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(bound_s):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(_CLICKHOUSE, f"no answer within {bound_s:.0f} s") from error
        except Error as error:
            raise _translation(error, data_only=data_only) from error
        except (ClickHouseError, OSError) as error:
            raise StoreUnavailable(_CLICKHOUSE, redact(str(error))) from error


def _translation(error: Error, *, data_only: bool) -> TracebilityError:
    detail = redact(str(error))
    if error.code is None:
        return StoreUnavailable(_CLICKHOUSE, detail)
    if error.code in REFUSALS:
        return Refused(_CLICKHOUSE, detail)
    if error.code in BUSY or (data_only and error.code not in BAD_DATA):
        return StoreUnavailable(_CLICKHOUSE, detail)
    return EngineRejected(error.code, detail)


def _compressed(block: bytes, encoding: str) -> bytes:
    if encoding == "lz4":
        framed: bytes = lz4.frame.compress(block)
        return framed
    return zstandard.compress(block, 1)


# ClickHouse's error numbers, grouped by their meaning for the caller. Only BAD_DATA makes an insert fail for good.
# Other errors are retried, because a retry loses nothing, while a dead letter needs an operator.
REFUSALS = frozenset(
    {
        81,  # UNKNOWN_DATABASE
        192,  # UNKNOWN_USER
        193,  # WRONG_PASSWORD
        194,  # REQUIRED_PASSWORD
        195,  # IP_ADDRESS_NOT_ALLOWED
        516,  # AUTHENTICATION_FAILED
    }
)
BUSY = frozenset(
    {
        159,  # TIMEOUT_EXCEEDED
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        319,  # UNKNOWN_STATUS_OF_INSERT
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        473,  # DEADLOCK_AVOIDED
        722,  # ASYNC_LOAD_WAIT_FAILED
        745,  # SERVER_OVERLOADED
        999,  # KEEPER_EXCEPTION
    }
)
BAD_DATA = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        9,  # SIZES_OF_COLUMNS_DOESNT_MATCH
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        33,  # CANNOT_READ_ALL_DATA
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        43,  # ILLEGAL_TYPE_OF_ARGUMENT
        50,  # UNKNOWN_TYPE
        53,  # TYPE_MISMATCH
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        128,  # TOO_LARGE_ARRAY_SIZE
        131,  # TOO_LARGE_STRING_SIZE
        190,  # SIZES_OF_ARRAYS_DONT_MATCH
        261,  # UNKNOWN_BLOCK_INFO_FIELD
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        376,  # CANNOT_PARSE_UUID
        407,  # DECIMAL_OVERFLOW
        434,  # CANNOT_PARSE_DECIMAL
        467,  # CANNOT_PARSE_BOOL
    }
)
