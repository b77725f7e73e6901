"""``tracebility audit``: the trail of what was done, its proof, and what was missing from it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from tracebility.commands.options import AsJson, DataDir, log_to_stderr, tell
from tracebility.errors import TracebilityError

if TYPE_CHECKING:
    from pathlib import Path

    from tracebility.audit.verify import Problem
    from tracebility.stores.clickhouse import Engine
    from tracebility.stores.postgres import Postgres

T = TypeVar("T")
OrgArgument = Annotated[UUID, typer.Argument(help="The org's id.", metavar="ORG")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, newest first.")]
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S%z"]

group = typer.Typer(no_args_is_help=True, help="List, verify and reconcile the audit trail.")


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="audit")


@group.command("list")
def list_events(
    org: Annotated[
        UUID | None,
        typer.Argument(help="The org's id; without one, what concerns no org.", metavar="ORG", show_default=False),
    ] = None,
    actor: Annotated[str, typer.Option("--actor", help="Only what this actor did: a key's public id.")] = "",
    target: Annotated[str, typer.Option("--target", help="Only what was done to this.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="Only events of this name.")] = "",
    since: Annotated[
        datetime | None, typer.Option("--from", formats=_TIMES, help="From this time (UTC) on.", show_default=False)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=_TIMES, help="Before this time (UTC).", show_default=False)
    ] = None,
    limit: Limit = 100,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List what was done in an org, newest first: when, what, by whom, to what. Without one: to plans, for example.

    Examples:

      tracebility audit list 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11

      tracebility audit list 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11 --type api_key.revoked --from 2026-11-01 --json

      tracebility audit list --type plan.changed
    """
    from tracebility.audit import audit_log
    from tracebility.ids import SENTINEL, OrgId

    filters = audit_log.Filters(actor, target, event_type, _utc(since), _utc(until))

    async def read(control: "Postgres", engine: "Engine") -> list[dict[str, Any]]:
        rows = audit_log.raw(engine)
        return await _pages(
            limit, lambda at, most: audit_log.events(control, rows, OrgId(org or SENTINEL), filters, at, most)
        )

    items = _with_stores(data_dir, read)
    lines = [
        f"{item['event_time']}  {item['event_type']:<28}  {item['actor_type']} {item['actor_id']}  "
        f"{item['target_type']} {item['target_id']}"
        for item in items
    ]
    tell("\n".join(lines) if lines else "There are no such events.", {"items": items}, as_json=as_json)


@group.command("gaps")
def list_gaps(org: OrgArgument, limit: Limit = 100, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List what reconciliations found missing, edited or inserted in an org's trail, newest first.

    Examples:

      tracebility audit gaps 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11
    """
    from tracebility.audit import audit_log
    from tracebility.ids import OrgId

    async def read(control: "Postgres", engine: "Engine") -> list[dict[str, Any]]:
        rows = audit_log.raw(engine)
        return await _pages(limit, lambda at, most: audit_log.gaps(rows, OrgId(org), at, most))

    items = _with_stores(data_dir, read)
    lines = [
        f"{item['detected_at']}  {item['kind']:<9}  {item['event_type']:<28}  {item['target_type']} "
        f"{item['target_id']}  {'repaired' if item['repaired_at'] else 'NOT REPAIRED'}"
        for item in items
    ]
    tell("\n".join(lines) if lines else "There are no gaps.", {"items": items}, as_json=as_json)


@group.command("reconcile")
def reconcile(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Compare the data plane's copy of the trail with the control plane's now, and put it right. Exit code 0.

    Examples:

      tracebility audit reconcile

      tracebility audit reconcile --json
    """

    async def run(control: "Postgres", engine: "Engine") -> dict[str, Any]:
        from tracebility.audit.metrics import AuditMetrics
        from tracebility.audit.reconciler import Reconciliation
        from tracebility.operator.loops import run_once
        from tracebility.operator.service import audit_reconcile
        from tracebility.telemetry import Metrics

        done = await run_once(audit_reconcile(control, engine, AuditMetrics(Metrics())), control)
        assert isinstance(done, Reconciliation)
        return done.document()

    document = _with_stores(data_dir, run)
    text = f"{document['gaps']} gaps found, {document['repaired']} repaired (run {document['run_id']})."
    tell(text, document, as_json=as_json)


@group.command("verify")
def verify(
    org: Annotated[UUID | None, typer.Option("--org", help="Only this org's chain.", show_default=False)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every hash of the trail and compare both stores. Exit code 1 when something was tampered with.

    An organisation that was deleted keeps its trail; of one that never was there is nothing to verify: exit code 1 too.

    Examples:

      tracebility audit verify

      tracebility audit verify --org 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11 --json
    """

    async def run(control: "Postgres", engine: "Engine") -> "list[Problem]":
        from tracebility.audit.verify import problems

        found = [problem async for problem in problems(control, engine, org)]
        if org is not None and not found and not await _is_known(control, engine, org):
            raise TracebilityError(
                f"There is no organisation {org}, and no trail of one. 'tracebility orgs list' shows those there are."
            )
        return found

    found = [problem.document() for problem in _with_stores(data_dir, run)]
    lines = [
        f"{problem['kind']:<23}  org {problem['org_id'] or '(none)'}  "
        f"number {problem.get('seq', 'unknown')}  event {problem.get('event_id', 'unknown')}"
        for problem in found
    ]
    text = "\n".join(lines) if lines else "The audit trail is as it was written."
    tell(text, {"ok": not found, "problems": found}, as_json=as_json)
    if found:
        raise typer.Exit(1)


async def _is_known(control: "Postgres", engine: "Engine", org: UUID) -> bool:
    """Whether there is such an org, or either store has something of its trail, as of one that is gone."""
    from tracebility.audit import audit_log
    from tracebility.ids import SENTINEL, OrgId

    if org == SENTINEL or await control.fetchrow("read_org", org) is not None:
        return True
    page = await audit_log.events(control, audit_log.raw(engine), OrgId(org), limit=1)
    return bool(page.items)


async def _pages(limit: int, page: Callable[[Any, int], Awaitable[Any]]) -> list[dict[str, Any]]:
    from tracebility.audit.audit_log import MAX_ITEMS

    items: list[dict[str, Any]] = []
    at = None
    while len(items) < limit:
        got = await page(at, min(limit - len(items), MAX_ITEMS))
        items += got.items
        at = got.next
        if at is None:
            break
    return items


def _utc(at: datetime | None) -> datetime | None:
    from datetime import UTC

    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _with_stores(data_dir: "Path | None", act: "Callable[[Postgres, Engine], Awaitable[T]]") -> T:
    from tracebility.embedded.installation import locate
    from tracebility.stores import clickhouse, postgres

    async def run() -> T:
        found = locate(data_dir)
        control = await postgres.connect(found.pg_dsn, wait_s=0)
        try:
            engine = await clickhouse.connect(found.clickhouse_url, wait_s=0)
            try:
                return await act(control, engine)
            finally:
                await engine.close()
        finally:
            await control.close()

    log_to_stderr()
    return asyncio.run(run())
