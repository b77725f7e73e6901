"""The command line. It imports the file of a command, and with it the stores' clients, only when that command runs."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from tracebility import __version__
from tracebility.commands.options import AsJson
from tracebility.errors import ConfigurationError, TracebilityError

# In the order of `tracebility --help`, which prints these lines. Each name is a file of `tracebility.commands`.
COMMANDS = {
    "migrate": "Bring the schemas of both stores up to date.",
    "demo": "Send traces of made-up agents.",
    "status": "Show services, stores, queue, alerts, rows and rates.",
    "doctor": "Check an installation and say what to do.",
    "orgs": "List, show, make, change or delete organisations.",
    "projects": "List an organisation's projects; delete a project or one of its runs.",
    "plans": "List plans, make or replace one.",
    "keys": "List, make, rotate or revoke keys: of a project, or of operators.",
    "quota": "Show what an organisation has used of its plan, and settle it.",
    "ledger": "Show what became of every item that was accepted.",
    "shards": "Show how even the shards are; move or split organisations.",
    "dlq": "List, show, replay or drop envelopes that could not be stored.",
    "audit": "List, verify and reconcile the audit log.",
    "deletions": "List deletions, or show one with its certificate.",
    "retention": "Say how long a project keeps its data; remove what is older now.",
}


class Commands(typer.core.TyperGroup):
    """The commands of this file, and those of `COMMANDS`, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, in the order of the help."""
        return [*self.commands, *COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, None when there is none."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        found: Any = typer.main.get_command(import_module(f"tracebility.commands.{cmd_name}").app)
        found.name = cmd_name
        if isinstance(found, typer.core.TyperGroup):
            found.help = COMMANDS[cmd_name]
        return found

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of the help, without importing what it lists."""
        own = [(name, command.get_short_help_str(limit=88)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*own, *COMMANDS.items()])


app = typer.Typer(
    name="tracebility",
    cls=Commands,
    help="Multi-tenant observability for LLM applications. Start with: tracebility up",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tracebility {__version__}")
        raise typer.Exit


@app.callback()
def _tracebility(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where all data lives.", show_default="~/.tracebility")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The one port; 0 takes a free one.")] = 7080,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "localhost",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=16, help="Worker processes.", show_default="one for every two cores, 4 at most"
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Also write the ready file here (it holds secrets; mode 0600).")
    ] = None,
    no_web: Annotated[bool, typer.Option("--no-web", help="Serve the API without the web pages.")] = False,
    only_stores: Annotated[
        bool, typer.Option("--only-stores", help="Start, migrate and watch the stores, but none of the services.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the stores say while they start.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine: the three stores and all services; Ctrl-C ends it, the data stays.

    A store whose DSN is set (TRACEBILITY_PG_DSN, TRACEBILITY_REDIS_URL, TRACEBILITY_CLICKHOUSE_URL) is used where it is
    and not started. The ready file (DATA_DIR/ready.json) is written when all is ready.

    Examples:

      tracebility up

      tracebility up --data-dir /var/lib/tracebility --port 8000

      TRACEBILITY_PG_DSN=postgresql://me:secret@db/tracebility tracebility up
    """
    from tracebility.embedded.console import Console
    from tracebility.embedded.installation import default_data_dir
    from tracebility.embedded.supervisor import UpOptions, default_workers
    from tracebility.embedded.supervisor import up as run_up

    options = UpOptions(
        data_dir or default_data_dir(), host, port, ready_file, not no_web, only_stores, workers or default_workers()
    )
    raise typer.Exit(run_up(options, Console(as_json=as_json, verbose=verbose)))


@app.command()
def serve(
    target: Annotated[str, typer.Option("--target", help="ingest-api, ingest-worker, api, operator, or all at once.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Take DSNs that the environment lacks from this installation.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run one service, configured by the environment (docs/configuration.md); logs are JSON lines either way.

    Examples:

      tracebility serve --target ingest-worker

      TRACEBILITY_PORT=8080 tracebility serve --target all
    """
    if data_dir is not None:
        from tracebility.embedded.installation import locate

        os.environ |= locate(data_dir).environment()
    # A process of its own without the command line's modules: it runs for weeks and is counted in memory.
    os.execv(sys.executable, [sys.executable, "-m", "tracebility.targets", target])  # noqa: S606


def main() -> None:
    """Run the command line. A wrong configuration is one line on standard error, never a traceback."""
    # A shell that starts a command with `&` may make it ignore SIGINT, which Python then leaves as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except ConfigurationError as error:
        sys.stderr.write(f"tracebility: {error}\n")
        sys.exit(2)
    except TracebilityError as error:
        from tracebility.config import redact  # the settings of services, which most commands do not need

        sys.stderr.write(f"tracebility: {redact(str(error))}\n")
        sys.exit(1)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
