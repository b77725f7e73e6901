"""What every command has in common, and how the command line fails."""

import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tracebility.cli import app

TRACEBILITY = Path(sys.executable).parent / "tracebility"


def commands(command: object = None, path: str = "") -> Iterator[tuple[str, object]]:
    command = command or typer.main.get_command(app)
    if not isinstance(command, typer.core.TyperGroup):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), f"{path} {name}".strip())


COMMANDS = dict(commands())


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TRACEBILITY, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_examples(name: str) -> None:
    command = COMMANDS[name]
    options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
    assert "--json" in options
    assert "Examples:" in command.help  # type: ignore[attr-defined]
    assert f"tracebility {name}" in command.help.partition("Examples:")[2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["eval-orchestrator", "nonsense"])
def test_a_target_that_is_not_there_is_one_clear_line(target: str) -> None:
    done = run("serve", "--target", target)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert target in done.stderr
    assert "ingest-worker" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("TRACEBILITY_PORT", "many", "TRACEBILITY_PORT"),
        ("TRACEBILITY_PORT", "70000", "TRACEBILITY_PORT"),
        ("TRACEBILITY_PG_DSN", "", "TRACEBILITY_PG_DSN"),
        ("TRACEBILITY_PG_DSN", "mysql://u:sesame@h/d", "TRACEBILITY_PG_DSN"),
        ("TRACEBILITY_PG_DSN", "postgresql://u:sesame@h:notaport/d", "TRACEBILITY_PG_DSN"),
        ("TRACEBILITY_PG_DSN", "postgresql://u:sesame@127.0.0.1:1/d", "TRACEBILITY_PG_DSN"),
    ],
)
def test_a_wrong_setting_is_one_line_without_the_password(variable: str, value: str, named: str) -> None:
    done = run("serve", "--target", "api", **{variable: value})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert named in done.stderr
    assert "sesame" not in done.stderr


def test_no_installation_is_one_line_that_says_how_to_get_one(tmp_path: Path) -> None:
    done = run("migrate", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tracebility up" in done.stderr


def test_the_command_line_loads_no_store_before_a_command_needs_one() -> None:
    loaded = "import sys, tracebility.cli; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    modules = set(ast.literal_eval(done.stdout))
    assert "tracebility.commands.options" in modules
    assert not {"asyncpg", "redis", "aiohttp", "structlog", "tracebility.config"} & modules
    assert not [name for name in modules if name.startswith("tracebility.stores")]


OF_AN_ORG_OR_PROJECT = [
    name
    for name, command in COMMANDS.items()
    for parameter in command.params[:1]  # type: ignore[attr-defined]
    if parameter.name in ("org_id", "org", "project_id") and parameter.param_type_name == "argument"
]


@pytest.mark.parametrize(
    "name",
    [*OF_AN_ORG_OR_PROJECT, "keys revoke", "keys rotate", "dlq list --org", "shards undo --org", "audit verify --org"],
)
def test_what_is_no_id_is_never_repeated(name: str) -> None:
    """It may be a secret that was pasted into the wrong place."""
    secret = "tb_000000000000_" + "s" * 43
    command = COMMANDS[name.removesuffix(" --org")]
    others = len([one for one in command.params if one.required and one.param_type_name == "argument"]) - 1  # type: ignore[attr-defined]
    done = CliRunner().invoke(app, [*name.split(), secret, *["x"] * others])
    assert done.exit_code != 0
    assert "sss" not in done.output + str(done.exception)


def test_ids_are_looked_for_in_every_command_that_takes_one() -> None:
    assert {"orgs show", "projects delete", "keys list", "ledger", "audit gaps"} <= {*OF_AN_ORG_OR_PROJECT}


WAITING = """
import time
from tracebility import cli
cli.app = lambda: (print("here", flush=True), time.sleep(60))
cli.main()
"""


def test_a_command_ends_at_sigint_also_where_a_shell_had_it_ignored() -> None:
    """Shells without job control start a command with SIGINT ignored where it ends in `&`."""
    started = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, WAITING], stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"here\n"
    started.send_signal(signal.SIGINT)
    assert started.wait(20) == 130
