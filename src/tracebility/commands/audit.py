"""``tracebility audit``: the audit log, its verification, and the gaps that reconciliations found."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer

from tracebility.audit import audit_log
from tracebility.audit.audit_log import MAX_ITEMS
from tracebility.audit.metrics import AuditMetrics
from tracebility.audit.reconciler import Reconciliation
from tracebility.audit.verify import Problem, problems
from tracebility.commands.changes import OrgArgument, id_of
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.commands.stores import Stores, log_to_stderr, with_stores
from tracebility.errors import TracebilityError
from tracebility.ids import SENTINEL, OrgId
from tracebility.operator.loops import run_once
from tracebility.operator.service import audit_reconcile
from tracebility.stores.clickhouse import Engine
from tracebility.stores.postgres import Postgres
from tracebility.telemetry import Metrics

T = TypeVar("T")
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most this many, newest first.")]
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S%z"]

app = new_app()


@app.command("list")
def list_events(
    org: Annotated[
        UUID | None,
        typer.Argument(
            help="The org's id; without one, events of no org.", metavar="ORG", parser=id_of, show_default=False
        ),
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
    filters = audit_log.Filters(actor, target, event_type, _utc(since), _utc(until))

    async def read(control: Postgres, engine: Engine) -> list[dict[str, Any]]:
        of_org = OrgId(org or SENTINEL)
        await _must_be_known(control, engine, of_org)
        rows = audit_log.raw(engine)
        return await _pages(limit, lambda at, most: audit_log.events(control, rows, of_org, filters, at, most))

    items = _with_stores(data_dir, read)
    lines = [
        f"{item['event_time']}  {item['event_type']:<28}  {item['actor_type']} {item['actor_id']}  "
        f"{item['target_type']} {item['target_id']}"
        for item in items
    ]
    tell("\n".join(lines) if lines else "There are no such events.", {"items": items}, as_json=as_json)


@app.command("gaps")
def list_gaps(org: OrgArgument, limit: Limit = 100, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List what reconciliations found missing, edited or inserted in an org's audit log, newest first.

    Examples:

      tracebility audit gaps 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11
    """

    async def read(control: Postgres, engine: Engine) -> list[dict[str, Any]]:
        await _must_be_known(control, engine, org)
        rows = audit_log.raw(engine)
        return await _pages(limit, lambda at, most: audit_log.gaps(rows, OrgId(org), at, most))

    items = _with_stores(data_dir, read)
    lines = [
        f"{item['detected_at']}  {item['kind']:<9}  {item['event_type']:<28}  {item['target_type']} "
        f"{item['target_id']}  {'repaired' if item['repaired_at'] else 'NOT REPAIRED'}"
        for item in items
    ]
    tell("\n".join(lines) if lines else "There are no gaps.", {"items": items}, as_json=as_json)


@app.command("reconcile")
def reconcile(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Compare the data plane's copy of the audit log with the control plane's now, and put it right. Exit code 0.

    Examples:

      tracebility audit reconcile

      tracebility audit reconcile --json
    """

    async def run(control: Postgres, engine: Engine) -> dict[str, Any]:
        done = await run_once(audit_reconcile(control, engine, AuditMetrics(Metrics())), control)
        assert isinstance(done, Reconciliation)
        return done.document()

    document = _with_stores(data_dir, run)
    text = f"{document['gaps']} gaps found, {document['repaired']} repaired (run {document['run_id']})."
    tell(text, document, as_json=as_json)


@app.command("verify")
def verify(
    org: Annotated[
        UUID | None, typer.Option("--org", help="Only this org's chain.", parser=id_of, show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every hash of the audit log and compare both stores. Exit code 1 when something was tampered with.

    A deleted organisation keeps its audit log. For an ORG that never existed the exit code is 1 too.

    Examples:

      tracebility audit verify

      tracebility audit verify --org 0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11 --json
    """

    async def run(control: Postgres, engine: Engine) -> list[Problem]:
        found = [problem async for problem in problems(control, engine, org)]
        if org is not None and not found:
            await _must_be_known(control, engine, org)
        return found

    found = [problem.document() for problem in _with_stores(data_dir, run)]
    lines = [
        f"{problem['kind']:<23}  org {problem['org_id'] or '(none)'}  "
        f"number {problem.get('seq', 'unknown')}  event {problem.get('event_id', 'unknown')}"
        for problem in found
    ]
    text = "\n".join(lines) if lines else "The audit log is intact."
    tell(text, {"ok": not found, "problems": found}, as_json=as_json)
    if found:
        raise typer.Exit(1)


async def _must_be_known(control: Postgres, engine: Engine, org: UUID) -> None:
    """Refuse an org that never was. One that is gone has events in either store.

    Raises:
        TracebilityError: when there is nothing of it.
    """
    if org == SENTINEL or await control.fetchrow("read_org", org) is not None:
        return
    page = await audit_log.events(control, audit_log.raw(engine), OrgId(org), limit=1)
    if not page.items:
        raise TracebilityError(
            f"There is no organisation {org}, and no audit log of one. 'tracebility orgs list' shows those there are."
        )


async def _pages(limit: int, page: Callable[[Any, int], Awaitable[Any]]) -> list[dict[str, Any]]:

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

    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _with_stores(data_dir: Path | None, act: Callable[[Postgres, Engine], Awaitable[T]]) -> T:
    async def run(stores: Stores) -> T:
        return await act(await stores.control(), await stores.engine())

    log_to_stderr()
    return with_stores(data_dir, run)
