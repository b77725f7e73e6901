"""Scoped access to ClickHouse and the queue, the only access that request code has.

Each query is read-only and names its tenant to ClickHouse, where row policies on every tenant table filter the rows.
The filters in the queries themselves only select the rows of a page and use the index: without them (tests/isolation
removes them) an answer still has no other tenant's row. A query that names no tenant sees no rows. The queue has no
row policies: this module passes the scope's org to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Final, Literal, get_args
from uuid import UUID

import structlog

from tracebility.errors import AnswerTooLarge, StoreUnavailable
from tracebility.ids import OrgId, ProjectId, PublicKeyId, WorkspaceId
from tracebility.stores import clickhouse
from tracebility.stores.ledger import OrgQueue
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue, connect_queue, entries
from tracebility.tenant.context import TenantContext

# The setting with which the row policies compare org_id.
TENANT_SETTING = "SQL_tracebility_org"

# Sent with every query. ClickHouse's caches of results and matching granules are not keyed by tenant, so both are off.
REQUEST_SETTINGS: Mapping[str, str] = {
    "readonly": "1",
    "use_query_cache": "0",
    "use_query_condition_cache": "0",
}
# Bounds of the memory that one answer takes here, by query. Past its bound, the result of `read_run_spans` is cut
# between two blocks, so blocks are small; every other query fails. A page of 200 runs whose texts all have the largest
# length of the query is 10 MB in ASCII and 40 MB at most.
ANSWER_BOUNDS: Mapping[str, Mapping[str, str]] = {
    "read_run_spans": {
        "max_result_bytes": str(256 << 20),
        "result_overflow_mode": "break",
        "max_block_size": "512",
    },
    "read_runs_newest": {"max_result_bytes": str(64 << 20), "result_overflow_mode": "throw"},
    "read_runs_versions": {"max_result_bytes": str(16 << 20), "result_overflow_mode": "throw"},
    "read_run": {"max_result_bytes": str(64 << 20), "result_overflow_mode": "throw"},
}
ANSWER_WAIT_S = 15.0  # answers take milliseconds; people do not wait longer for a page

ReadQuery = Literal["read_runs_newest", "read_runs_versions", "read_run", "read_run_spans"]
OrgQuery = Literal[
    "outcomes_of_org", "outcomes_among", "distinct_of_org", "usage_by_hour", "read_audit_log", "read_audit_gaps"
]
READ_QUERIES: frozenset[str] = frozenset(get_args(ReadQuery))

# A result by column: the values of each column, in the order of the rows.
Columns = Mapping[str, Sequence[Any]]

_log = structlog.get_logger()
_SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantScope:
    """Permission to read the rows of one project, by one key. Only `api.scope.resolve_project_scope` makes one."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    key_id: PublicKeyId
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a TenantScope is made by resolve_project_scope, which checks the key")


def sealed_scope(context: TenantContext, workspace_id: WorkspaceId, project_id: ProjectId) -> TenantScope:
    """The scope of a project. The caller has checked that the project belongs to the context's org."""
    return TenantScope(
        org_id=context.org_id,
        workspace_id=workspace_id,
        project_id=project_id,
        key_id=context.key_id,
        seal=_SEAL,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgScope:
    """Permission to read the ledger and the audit log of one org. Only `tracebility.api.scope` makes one."""

    org_id: OrgId
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an OrgScope is made by tracebility.api.scope, which checks the key")


def sealed_org_scope(org_id: OrgId) -> OrgScope:
    """The scope of an org. The caller has checked that the key may read it."""
    return OrgScope(org_id=org_id, seal=_SEAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationScope:
    """Permission to read all orgs. Only `tracebility.api.scope` makes one."""

    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an InstallationScope is made by tracebility.api.scope, which checks the key")


def sealed_installation_scope() -> InstallationScope:
    """The scope of the whole installation. The caller has checked that the key is an operator's."""
    return InstallationScope(seal=_SEAL)


class OrgClickHouse:
    """Named queries about one org."""

    def __init__(self, engine: clickhouse.Engine, scope: OrgScope) -> None:
        self._engine = engine
        self.scope = scope

    async def rows(self, name: OrgQuery, **parameters: object) -> list[dict[str, Any]]:
        """The rows of the query ``name`` of ``stores/sql``, by column. ``{org}`` is always the scope's.

        Raises:
            AnswerTooLarge, StoreUnavailable: as `ScopedClickHouse.rows`.
        """
        return (await _found(self._engine, self.scope.org_id, name, parameters)).dicts()


class ScopedClickHouse:
    """Named queries about one project."""

    def __init__(self, engine: clickhouse.Engine, scope: TenantScope) -> None:
        self._engine = engine
        self.scope = scope

    async def rows(self, name: ReadQuery, **parameters: object) -> list[dict[str, Any]]:
        """The rows of the query ``name`` of ``stores/sql``, by column.

        ``{org}`` and ``{project}`` are always the scope's; ``parameters`` cannot replace them.

        Raises:
            AnswerTooLarge: when the result exceeds the bound of the query, or of ClickHouse's memory for one query.
            StoreUnavailable: when ClickHouse is unavailable, busy, or not migrated yet.
        """
        return (await self._result(name, parameters)).dicts()

    async def columns(self, name: ReadQuery, **parameters: object) -> Columns:
        """As `rows`, but by column, for results with many rows. A result without rows has no columns."""
        result = await self._result(name, parameters)
        return dict(zip(result.columns, zip(*result.rows, strict=True), strict=True)) if result.rows else {}

    async def _result(self, name: ReadQuery, parameters: Mapping[str, object]) -> clickhouse.Result:
        bound = {**parameters, "project": str(self.scope.project_id)}
        return await _found(self._engine, self.scope.org_id, name, bound)


async def _found(
    engine: clickhouse.Engine, org_id: OrgId, name: str, parameters: Mapping[str, object]
) -> clickhouse.Result:
    settings = {**ANSWER_BOUNDS.get(name, {}), **REQUEST_SETTINGS, TENANT_SETTING: str(org_id)}
    try:
        return await engine.query(query(name), {**parameters, "org": str(org_id)}, settings)
    except StoreUnavailable as unavailable:
        if not _exceeded_query_memory(unavailable):
            raise
        _log.warning("answer_too_large", query=name, detail=unavailable.detail)
        raise _too_large() from unavailable
    except clickhouse.EngineRejected as rejected:
        if rejected.code == _RESULT_TOO_LARGE:
            _log.warning("answer_too_large", query=name, detail=rejected.detail)
            raise _too_large() from rejected
        if rejected.code not in _NOT_MIGRATED:
            raise
        _log.warning("engine_not_ready", query=name, code=rejected.code)
        raise StoreUnavailable("clickhouse", "the tables are not migrated yet") from rejected


class ScopedEngine:
    """ClickHouse as request code holds it: every query needs a scope."""

    def __init__(self, engine: clickhouse.Engine) -> None:
        self.__engine = engine

    def within(self, scope: TenantScope) -> ScopedClickHouse:
        """Queries about the project of ``scope``.

        Raises:
            TypeError: for anything but a scope. Ids are not enough.
        """
        _must_be(scope, TenantScope)
        return ScopedClickHouse(self.__engine, scope)

    def within_org(self, scope: OrgScope) -> OrgClickHouse:
        """Queries about the org of ``scope``.

        Raises:
            TypeError: when ``scope`` is not an `OrgScope`.
        """
        _must_be(scope, OrgScope)
        return OrgClickHouse(self.__engine, scope)

    async def is_owner(self) -> bool:
        """Whether the user may write. Row policies do not apply to such a user: without a tenant it sees every row."""
        [[readonly]] = (await self.__engine.query("SELECT getSetting('readonly')")).rows
        return int(readonly) == 0

    async def ping(self) -> None:
        """Return when ClickHouse answers.

        Raises:
            StoreUnavailable: when it does not.
        """
        await self.__engine.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.__engine.close()


class AllShards:
    """Counts of entries by shard and org, without their content."""

    def __init__(self, queue: Queue) -> None:
        self.__queue = queue

    async def depths(self, streams: Sequence[str]) -> dict[str, entries.Depth]:
        """As `Queue.depths`."""
        return await self.__queue.depths(streams)

    async def envelopes_in_flight(self, books: Sequence[tuple[str, UUID]]) -> list[int]:
        """As `Queue.envelopes_in_flight`."""
        return await self.__queue.envelopes_in_flight(books)

    async def accepted_in(self, books: Sequence[tuple[str, UUID]], hours: Iterable[int]) -> list[int]:
        """As `Queue.accepted_in`."""
        return await self.__queue.accepted_in(books, hours)


class ScopedQueue:
    """The queue as request code holds it: counts of one org, or for operators of all orgs."""

    def __init__(self, queue: Queue) -> None:
        self.__queue = queue

    def within_org(self, scope: OrgScope) -> OrgQueue:
        """The queue's part of an org's ledger.

        Raises:
            TypeError: when ``scope`` is not an `OrgScope`.
        """
        _must_be(scope, OrgScope)
        return OrgQueue(self.__queue, scope.org_id)

    def within_installation(self, scope: InstallationScope) -> AllShards:
        """Return the counts of all shards.

        Raises:
            TypeError: when ``scope`` is not an `InstallationScope`.
        """
        _must_be(scope, InstallationScope)
        return AllShards(self.__queue)

    async def ping(self) -> None:
        """Return once the queue answers.

        Raises:
            StoreUnavailable: when it does not.
        """
        await self.__queue.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.__queue.close()


def _must_be(scope: object, kind: type) -> None:
    if type(scope) is not kind:
        raise TypeError(f"needs a {kind.__name__}, not a {type(scope).__name__}")


async def connect_scoped_queue(url: str, variable: str) -> ScopedQueue:
    """Connect to the queue at ``url``, the value of ``variable``.

    Raises:
        ConfigurationError: when nothing answers, or the credentials or the database are refused.
    """
    return ScopedQueue(await connect_queue(url, variable=variable))


async def connect(url: str, variable: str = clickhouse.VARIABLE) -> ScopedEngine:
    """Connect to ClickHouse at ``url``, the value of ``variable``. The URL should name a user that may only read.

    Raises:
        ConfigurationError: when nothing answers, or the user, password or database is refused.
    """
    return ScopedEngine(await clickhouse.connect(url, variable=variable, operation_timeout_s=ANSWER_WAIT_S))


def _exceeded_query_memory(unavailable: StoreUnavailable) -> bool:
    """Whether the query exceeded the memory of one query, which it will again. When ClickHouse's total memory is
    exhausted, the cause is other queries, and a retry helps.
    """
    code = getattr(unavailable.__cause__, "code", None)
    return code == _MEMORY_LIMIT_EXCEEDED and _MEMORY_OF_ALL not in unavailable.detail


def _too_large() -> AnswerTooLarge:
    return AnswerTooLarge(
        "The result is larger than one answer may be.",
        hint="Ask for less: a smaller limit, or a smaller run. Retrying does not help.",
    )


_MEMORY_LIMIT_EXCEEDED = 241
_MEMORY_OF_ALL = "(total)"  # in the message when the total memory is exhausted
_RESULT_TOO_LARGE = 396  # TOO_MANY_ROWS_OR_BYTES
_NOT_MIGRATED = frozenset(
    {
        16,  # NO_SUCH_COLUMN_IN_TABLE
        47,  # UNKNOWN_IDENTIFIER
        60,  # UNKNOWN_TABLE
    }
)
