"""``tracebility plans``: the plans that organisations can be on."""

import json
from typing import Annotated

import typer

from tracebility.audit.events import Actor
from tracebility.commands.changes import changing, document, reading
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.orgs import plans
from tracebility.orgs.plans import Plan, every_plan
from tracebility.stores.postgres import Transaction
from tracebility.tenant.limits import Limits
from tracebility.validation import read

app = new_app()


@app.command("list")
def list_plans(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List every plan with its limits. Null is unlimited.

    Examples:

      tracebility plans list

      tracebility plans list --json
    """
    plans = reading(data_dir, every_plan)
    tell("\n".join(_line(plan) for plan in plans.items), document(plans), as_json=as_json)


@app.command("set")
def set_plan(
    name: Annotated[str, typer.Argument(help="The plan's name.")],
    limits: Annotated[typer.FileBinaryRead, typer.Argument(help="A file of JSON, or - for standard input.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make or replace a plan, all of it: null is unlimited, and so is a meter that is left out. It takes what the API
    takes.

    Examples:

      tracebility plans set team team.json

      echo '{"rate": null, "meters": {"spans": {"hard": 9000}}, "retention_days": 7, "eval_concurrency": null}' |
      tracebility plans set team -
    """

    async def put(transaction: Transaction, actor: Actor) -> Plan:
        return await plans.put_plan(transaction, actor, name, read(limits.read(), Limits))

    plan = changing(data_dir, put)
    tell(_line(plan), document(plan), as_json=as_json)


def _line(plan: Plan) -> str:
    limits = {name: value for name, value in document(plan).items() if name != "name" and value is not None}
    return f"{plan.name:<12} {json.dumps(limits) if limits else 'unlimited'}"
