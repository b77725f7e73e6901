"""The documentation is complete: every setting, route, command, metric and error code has its line."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import typer

from tracebility.audit.events import EventType
from tracebility.config import Settings
from tracebility.errors import Problem
from tracebility.wire.conventions import MESSAGE_EVENTS, SOURCES, Slot
from tracebility_engine.settings import VARIABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def anchors(file: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def problems(kind: type[Problem] = Problem) -> Iterator[type[Problem]]:
    yield kind
    for below in kind.__subclasses__():
        yield from problems(below)


def variables() -> set[str]:
    """Every variable that the source names."""
    pattern = re.compile(r"(?<![A-Z_])TRACEBILITY_[A-Z][A-Z_]*[A-Z]\b")
    return {name for file in (ROOT / "src").rglob("*.py") for name in pattern.findall(file.read_text())}


def metric_names() -> set[str]:
    """First arguments of every call that makes a counter, a gauge or a histogram."""
    names = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                first = node.args[0].value
                called = ast.unparse(node.func)
                if isinstance(first, str) and re.search(r"(counter|gauge|histogram|Counter|Gauge|Histogram)$", called):
                    names.add(first)
    return names


def commands(command: object, path: str) -> Iterator[str]:
    if not isinstance(command, typer.core.TyperGroup):
        yield path
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), f"{path} {name}")


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field: msgspec.structs.FieldInfo) -> None:
    assert f"`TRACEBILITY_{field.name.upper()}`" in page("configuration.md")
    assert any(getattr(said, "description", "") for said in field.type.__metadata__)


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_internal_variable_is_documented(variable: str) -> None:
    assert f"`{variable}`" in page("configuration.md")


def test_every_variable_in_the_source_is_documented() -> None:
    """Also one that no list of settings holds."""
    assert [name for name in sorted(variables()) if f"`{name}" not in page("configuration.md")] == []


def test_a_store_is_reached_by_its_dsn_and_nothing_else() -> None:
    of_stores = {name for name in variables() if re.match(r"TRACEBILITY_(PG|POSTGRES|CLICKHOUSE|REDIS|VALKEY)", name)}
    roles = {"TRACEBILITY_REDIS_URL", "TRACEBILITY_REDIS_STREAM_URL"}
    users = {"TRACEBILITY_CLICKHOUSE_URL", "TRACEBILITY_CLICKHOUSE_READER_URL"}
    assert of_stores == {"TRACEBILITY_PG_DSN", *users, *roles}


@pytest.mark.parametrize("code", sorted({problem.code for problem in problems()}))
def test_every_error_code_is_documented(code: str) -> None:
    assert f"`{code}`" in page("errors.md")


@pytest.mark.parametrize("event", EventType)
def test_every_audit_event_is_documented(event: EventType) -> None:
    assert f"| `{event}` |" in page("audit.md")


def test_every_metric_is_documented() -> None:
    names = metric_names()
    assert len(names) > 5, "the search for metrics finds none: has their declaration changed?"
    assert [name for name in sorted(names) if f"`{name}`" not in page("metrics.md")] == []


def test_every_loop_and_alert_is_documented() -> None:
    source = ROOT / "src" / "tracebility"
    loops = set(re.findall(r'Loop\("([\w-]+)"', (source / "operator" / "service.py").read_text()))
    alerts = {
        kind
        for file in (source / "alerts").glob("*.py")
        for kind in re.findall(r'(?:Alert|tell)\(\s*"(\w+)"', file.read_text())
    }
    assert {"alerts", "ledger-check"} <= loops
    assert {"store_away", "books", "dead_letters"} <= alerts
    assert [name for name in sorted(loops | alerts) if f"| `{name}` |" not in page("operations.md")] == []


def test_every_command_is_documented() -> None:
    from tracebility.cli import app

    names = list(commands(typer.main.get_command(app), "tracebility"))
    assert len(names) > 5
    assert [name for name in names if f"`{name}" not in page("commands.md")] == []


def test_every_route_is_documented() -> None:
    from tracebility.api.app import openapi_document

    routes = [(verb.upper(), path) for path, verbs in openapi_document()["paths"].items() for verb in verbs]
    assert ("POST", "/v1/traces") in routes
    assert [route for route in routes if f"`{route[0]} {route[1]}`" not in page("api.md")] == []


@pytest.mark.parametrize("slot", Slot)
def test_every_attribute_that_fills_a_field_is_documented_in_its_order(slot: Slot) -> None:
    names = [name.strip("()") for name in SOURCES[slot] if name != "(messages)"]
    text = page("opentelemetry.md")
    [row] = [line for line in text.splitlines() if line.startswith("| ") and f"`{names[0]}`" in line.split(" | ")[1]]
    named = re.findall(r"`([^`]+)`", row.split(" | ")[1])
    assert [name for name in named if name in names] == names


@pytest.mark.parametrize("event", MESSAGE_EVENTS)
def test_every_message_event_is_documented(event: str) -> None:
    assert f"`{event}`" in page("opentelemetry.md")


def test_every_page_is_in_the_navigation_and_on_the_overview() -> None:
    names = sorted(file.name for file in DOCS.glob("*.md"))
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(name for entry in nav for name in entry.values()) == names
    assert [name for name in names if name != "index.md" and f"({name})" not in page("index.md")] == []


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=lambda f: f.name
)
def test_every_link_leads_to_a_page_and_a_heading(file: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text()) if "://" not in target]
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        linked = file.parent / name if name else file
        if not linked.is_file() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def test_every_package_is_in_the_layout_and_in_its_picture() -> None:
    names = [path.stem for path in (ROOT / "src" / "tracebility").iterdir() if path.suffix in ("", ".py")]
    rooms = sorted(name for name in names if not name.startswith("_"))
    layout, picture = page("architecture.md"), (DOCS / "floors.svg").read_text()
    assert [name for name in rooms if not re.search(rf"\b{name}\b", layout) or f">{name}<" not in picture] == []


def test_every_test_that_a_guarantee_names_is_there() -> None:
    names = set(re.findall(r"`(test_\w+)`", page("guarantees.md")))
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", page("guarantees.md")))
    written = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 20
    assert [name for name in sorted(names) if f"def {name}(" not in written] == []
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []
