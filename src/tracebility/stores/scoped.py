"""Scoped access to ClickHouse and the queue: the only access that request code has, limited to one tenant.

Each ClickHouse request is read-only and names its tenant; row policies on every tenant table filter the rows. A request
without a tenant sees no rows. The filters in the queries themselves only select rows and index ranges: without them
(tests/isolation removes them) an answer still contains no other tenant's rows. The queue has no row policies, so this
module passes the scope's org with every call.
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

# Sent with every request. Both query caches are off, because their keys do not include the tenant.
REQUEST_SETTINGS: Mapping[str, str] = {
    "readonly": "1",
    "use_query_cache": "0",
    "use_query_condition_cache": "0",
}
# Bounds on the memory of one answer, by query. `break` truncates a run's spans at a block boundary (hence the small
# blocks); `throw` fails the other queries. A page of 200 runs with texts of maximum length is 10 MB in ASCII, at most
# 40 MB.
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
ANSWER_WAIT_S = 15.0  # answers normally take milliseconds

ReadQuery = Literal["read_runs_newest", "read_runs_versions", "read_run", "read_run_spans"]
OrgQuery = Literal[
    "outcomes_of_org", "outcomes_among", "distinct_of_org", "usage_by_hour", "read_audit_log", "read_audit_gaps"
]
READ_QUERIES: frozenset[str] = frozenset(get_args(ReadQuery))

# A query result: column name -> values in row order.
Columns = Mapping[str, Sequence[Any]]

_log = structlog.get_logger()
_SEAL: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantScope:
    """Permission to read one project's rows. Only `tracebility.api.scope.resolve_project_scope` creates it."""

    org_id: OrgId
    workspace_id: WorkspaceId
    project_id: ProjectId
    key_id: PublicKeyId
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only resolve_project_scope may create a TenantScope, after it has checked the key")


def sealed_scope(context: TenantContext, workspace_id: WorkspaceId, project_id: ProjectId) -> TenantScope:
    """Create the scope of a project. The caller must have checked that the project belongs to the context's org."""
    return TenantScope(
        org_id=context.org_id,
        workspace_id=workspace_id,
        project_id=project_id,
        key_id=context.key_id,
        seal=_SEAL,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgScope:
    """Permission to read one org's ledger and audit log. Only `tracebility.api.scope` creates it."""

    org_id: OrgId
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only tracebility.api.scope may create an OrgScope, after it has checked the key")


def sealed_org_scope(org_id: OrgId) -> OrgScope:
    """Create the scope of an org. The caller must have checked that the requester may read it."""
    return OrgScope(org_id=org_id, seal=_SEAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationScope:
    """Permission to read all orgs, for operators. Only `tracebility.api.scope` creates it."""

    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only tracebility.api.scope may create an InstallationScope, after it has checked the key")


def sealed_installation_scope() -> InstallationScope:
    """Create the scope of the installation. The caller must have checked that the requester is an operator."""
    return InstallationScope(seal=_SEAL)


class OrgClickHouse:
    """Runs named queries within an org's scope."""

    def __init__(self, engine: clickhouse.Engine, scope: OrgScope) -> None:
        self._engine = engine
        self.scope = scope

    async def rows(self, name: OrgQuery, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of the named query. ``{org}`` is always the scope's org.

        Raises:
            AnswerTooLarge, StoreUnavailable: as `ScopedClickHouse.rows`.
        """
        return (await _found(self._engine, self.scope.org_id, name, parameters)).dicts()


class ScopedClickHouse:
    """Runs named queries within a tenant's scope."""

    def __init__(self, engine: clickhouse.Engine, scope: TenantScope) -> None:
        self._engine = engine
        self.scope = scope

    async def rows(self, name: ReadQuery, **parameters: object) -> list[dict[str, Any]]:
        """Return the rows of the named query. ``{org}`` and ``{project}`` are always the scope's.

        Raises:
            AnswerTooLarge: when the result exceeds the bounds of an answer or the engine's memory limit for a query.
            StoreUnavailable: when the engine is unavailable, busy, or not migrated yet.
        """
        return (await self._result(name, parameters)).dicts()

    async def columns(self, name: ReadQuery, **parameters: object) -> Columns:
        """Like `rows`, but as columns, which is cheaper for many rows. Empty when there are no rows."""
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
    """ClickHouse for services that answer requests: it offers a ping, and queries within a scope."""

    def __init__(self, engine: clickhouse.Engine) -> None:
        self.__engine = engine

    def within(self, scope: TenantScope) -> ScopedClickHouse:
        """Return query access within ``scope``.

        Raises:
            TypeError: when ``scope`` is not a `TenantScope`; ids give no access.
        """
        _must_be(scope, TenantScope)
        return ScopedClickHouse(self.__engine, scope)

    def within_org(self, scope: OrgScope) -> OrgClickHouse:
        """Return query access within an org's scope.

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
        """Return once the engine answers.

        Raises:
            StoreUnavailable: when it does not.
        """
        await self.__engine.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.__engine.close()


class AllShards:
    """Counts of entries per shard and org, for operators. Gives no access to the entries."""

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
    """The queue for services that answer requests: counts of one org, or of all orgs for operators."""

    def __init__(self, queue: Queue) -> None:
        self.__queue = queue

    def within_org(self, scope: OrgScope) -> OrgQueue:
        """Return the Redis part of an org's ledger.

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
    """Connect to the engine at ``url``, the value of ``variable``, whose user should be read-only.

    Raises:
        ConfigurationError: when nothing answers, or the user, password or database is refused.
    """
    return ScopedEngine(await clickhouse.connect(url, variable=variable, operation_timeout_s=ANSWER_WAIT_S))


def _exceeded_query_memory(unavailable: StoreUnavailable) -> bool:
    """Whether the query exceeded its own memory limit, which a retry would do again. Exceeding the server's total
    memory is temporary.
    """
    code = getattr(unavailable.__cause__, "code", None)
    return code == _MEMORY_LIMIT_EXCEEDED and _MEMORY_OF_ALL not in unavailable.detail


def _too_large() -> AnswerTooLarge:
    return AnswerTooLarge(
        "The result is larger than one response may be.",
        hint="Request less: a smaller limit, or a smaller run. Retrying the same request does not help.",
    )


_MEMORY_LIMIT_EXCEEDED = 241
_MEMORY_OF_ALL = "(total)"  # part of the engine's message when the server's total memory is exhausted
_RESULT_TOO_LARGE = 396  # TOO_MANY_ROWS_OR_BYTES
_NOT_MIGRATED = frozenset(
    {
        16,  # NO_SUCH_COLUMN_IN_TABLE
        47,  # UNKNOWN_IDENTIFIER
        60,  # UNKNOWN_TABLE
    }
)
