"""What can be seen without asking a store: request code has one way to the engine and the queue, through a scope."""

import ast
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

import tracebility
from tracebility.api import auth, pages, scope
from tracebility.api.app import routes
from tracebility.api.service import ApiServices
from tracebility.ids import OrgId
from tracebility.stores import clickhouse, redis_control, scoped
from tracebility.stores.queries import query
from tracebility.stores.queue import Queue
from tracebility.tenant.context import TenantContext

SOURCE = Path(tracebility.__file__).parent
API_MODULES = sorted(SOURCE.joinpath("api").rglob("*.py"))
RAW_CLIENTS = {
    *("tracebility.stores.clickhouse", "clickhouse_connect", "chdb"),
    *("tracebility.stores.queue", "tracebility.stores.redis_control", "redis"),
}
# Where the services are put together: it opens the control role, and hands on what announces changes.
OPENS = {"api/service.py": {"tracebility.stores.redis_control"}}


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(), str(module))


def imported(module: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(module: Path) -> set[str]:
    """Every name, attribute and text in the module's code."""
    found = set()
    for node in ast.walk(tree_of(module)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.add(name)
            case ast.Constant(value=str(text)):
                found.add(text)
    return found


@pytest.mark.parametrize("module", API_MODULES, ids=lambda module: str(module.relative_to(SOURCE)))
def test_request_code_cannot_name_the_raw_client(module: Path) -> None:
    raw_here = RAW_CLIENTS - OPENS.get(module.relative_to(SOURCE).as_posix(), set())
    assert not [name for name in imported(module) if any(re.match(rf"{raw}(\.|$)", name) for raw in raw_here)]
    if module.relative_to(SOURCE).as_posix() != "api/routers/__init__.py":  # it loads the files of its own folder
        assert not named(module) & {"import_module", "__import__", "eval", "exec", "modules"}


@pytest.mark.parametrize("module", API_MODULES, ids=lambda module: str(module.relative_to(SOURCE)))
def test_request_code_reaches_into_no_other_object(module: Path) -> None:
    """The clients that `ScopedEngine` and `ScopedQueue` hold are private; so is the seal of a scope."""
    for node in ast.walk(tree_of(module)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and node.attr not in ("_replace", "_make", "__name__", "__init__")
        ):
            assert isinstance(node.value, ast.Name)
            assert node.value.id == "self", f"{module.name}:{node.lineno} reads {node.attr}"
    assert not {name for name in named(module) if "_SEAL" in name or "__engine" in name}


def test_nothing_that_routers_are_given_leads_to_a_raw_client(services: ApiServices) -> None:
    """Public names only: that no other is read is what the test above sees to."""
    seen: set[int] = set()

    def walk(held: object, path: str) -> None:
        assert not isinstance(held, clickhouse.Engine | Queue | redis_control.RedisControl), path
        if id(held) in seen or not type(held).__module__.startswith("tracebility.") or path.count(".") > 5:
            return
        seen.add(id(held))
        for name in dir(held):
            if not name.startswith("_"):
                walk(getattr(held, name), f"{path}.{name}")

    org = scoped.sealed_org_scope(OrgId(uuid4()))
    walk(services, "services")
    walk(services.queue.within_installation(scoped.sealed_installation_scope()), "shards")
    for seen_through in (services.queue, services.engine):
        walk(seen_through.within_org(org), type(seen_through).__name__)


def test_an_id_in_the_place_of_a_scope_is_refused(services: ApiServices) -> None:
    class Forged:
        org_id = workspace_id = project_id = uuid4()

    org = scoped.sealed_org_scope(OrgId(uuid4()))
    for door in (services.queue.within_org, services.queue.within_installation, services.engine.within_org):
        for instead in (Forged(), Forged.org_id, None):
            with pytest.raises(TypeError, match="Scope"):
                door(instead)  # type: ignore[arg-type]
    for wider in (services.queue.within_installation, services.engine.within):
        with pytest.raises(TypeError, match="Scope"):
            wider(org)  # type: ignore[arg-type]


MAKERS = {
    "sealed_scope": ["resolve_project_scope"],
    "sealed_org_scope": ["org_rows", "org_queue"],
    "sealed_installation_scope": ["all_shards"],
}


def test_scopes_are_made_in_one_place() -> None:
    makers = {
        str(module.relative_to(SOURCE))
        for module in SOURCE.rglob("*.py")
        if named(module) & {*MAKERS, "_SEAL"} and module.name != "scoped.py"
    }
    assert makers == {"api/scope.py"}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_kind_of_scope_is_made_where_who_asks_was_looked_at(maker: str) -> None:
    calls = [
        function.name
        for function in ast.walk(tree_of(SOURCE / "api/scope.py"))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(node, ast.Call) and ast.unparse(node.func) == maker for node in ast.walk(function))
    ]
    assert calls == MAKERS[maker]


def test_whoever_sees_all_shards_runs_the_installation() -> None:
    seeing = [route for route in api_routes() if scope.all_shards in dependencies(route.dependant)]
    assert len(seeing) >= 3
    assert all(auth.operator in dependencies(route.dependant) for route in seeing)


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        (scoped.TenantScope, ("org_id", "workspace_id", "project_id", "key_id")),
        (scoped.OrgScope, ("org_id",)),
        (scoped.InstallationScope, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_scope_cannot_be_made_without_the_seal(kind: Any, ids: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="is made by"):
        kind(**dict.fromkeys(ids), seal=object())


def test_a_context_is_made_by_the_resolver_alone() -> None:
    with pytest.raises(TypeError, match="only the resolver may create"):
        TenantContext(None, None, None, "plan", frozenset(), "key")  # type: ignore[arg-type]
    makers = {
        file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if "sealed_context" in file.read_text()
    }
    assert makers == {"tenant/context.py", "tenant/resolver.py"}


def dependencies(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for below in dependant.dependencies:
        yield from dependencies(below)


def api_routes() -> list[APIRoute]:
    return [route for route in routes() if isinstance(route, APIRoute)]


NAMED = {
    "{org_id}": scope.named_org,
    "{workspace_id}": scope.named_workspace,
    "{public_id}": scope.named_key,
}


@pytest.mark.parametrize("route", api_routes(), ids=lambda route: f"{min(route.methods)} {route.path}")
def test_every_route_goes_through_the_scope(route: APIRoute) -> None:
    asked = list(dependencies(route.dependant))
    if "{project_id}" in route.path:
        named = {scope.tenant_rows, pages.page_rows, scope.named_project, scope.named_project_or_deleted}
        assert named & set(asked)
    for name, named in NAMED.items():
        if name in route.path:
            assert named in asked
    if route.path.startswith("/v1/"):
        assert {auth.reader, auth.administrator, auth.operator} & set(asked)
        assert route.body_field is None, "a body is read once the ids are known, or it tells which of them are"
        assert pages.page_principal not in asked, "the cookie is for pages"
    if {"{run_id}", "{span_id}"} & set(re.findall(r"{\w+}", route.path)):
        assert "{project_id}" in route.path


def test_there_are_routes_to_look_at() -> None:
    assert len(api_routes()) >= 8
    assert {type(route).__name__ for route in routes()} == {"Route"}


def test_rows_are_taken_in_one_place_behind_the_scope_and_the_trail() -> None:
    takers = [
        (module.relative_to(SOURCE).as_posix(), function.name, ast.unparse(function))
        for module in API_MODULES
        for function in ast.walk(tree_of(module))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and ".within(" in ast.unparse(function)
    ]
    [(module, name, text)] = takers
    assert (module, name) == ("api/scope.py", "rows_of")
    assert text.index("resolve_project_scope(") < text.index("services.access.read(") < text.index(".within(")


@pytest.mark.parametrize("name", sorted(scoped.READ_QUERIES))
def test_every_query_filters_by_the_whole_scope_at_each_table(name: str) -> None:
    text = re.sub(r"--.*", "", query(name))
    tables = re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", text)
    assert tables
    assert text.count("org_id = {org:UUID} AND project_id = {project:UUID}") == len(tables)


def test_every_read_query_is_known_to_the_door() -> None:
    written = re.findall(
        r"^-- name: (\w+)", files("tracebility.stores").joinpath("sql/read_runs.sql").read_text(), re.MULTILINE
    )
    assert set(written) == set(scoped.READ_QUERIES)
