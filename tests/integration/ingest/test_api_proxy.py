"""One port for all: what is not ingest streams through to the api, and goes down alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn


class Api:
    """An application on a unix socket, or a port, that shows what reached it."""

    def __init__(self, socket: Path | None) -> None:
        self.socket = socket
        self.seen: dict[str, Any] = {}
        self.left = asyncio.Event()
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._app, uds=socket and str(socket), port=0, interface="asgi3", lifespan="off", log_config=None
            )
        )

    async def __aenter__(self) -> "Api":
        self._task = asyncio.create_task(self._server.serve())
        async with asyncio.timeout(10):
            while not self._server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)

    @property
    def url(self) -> str:
        """Where it listens on a port."""
        host, port = self._server.servers[0].sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = dict(scope)
        headers = [
            (b"content-type", b"text/plain"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x-path", scope["raw_path"]),
        ]
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status = 302 if scope["path"] == "/moved" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if scope["path"] == "/endless":
            await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
            return
        await send({"type": "http.response.body", "body": scope["method"].encode() + b" ", "more_body": True})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with Api(tmp_path / "api.sock") as running:
        yield running


@pytest.mark.parametrize("way", ["socket", "url"])
async def test_requests_and_answers_pass_unchanged(run_edge: Any, tmp_path: Path, way: str) -> None:
    async with Api(tmp_path / "api.sock" if way == "socket" else None) as api:
        settings = {"api_socket": str(api.socket)} if way == "socket" else {"api_url": f"{api.url}/"}
        await passes_unchanged(run_edge(**settings), api)


async def passes_unchanged(running: Any, api: Api) -> None:
    async with running as edge:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 100_000

        answer = await edge.client.request(
            "PUT", "/v1/a%2Fb?q=%20a&q=b", content=chunks(), headers={"authorization": "Bearer x", "te": "trailers"}
        )
        assert answer.text == "PUT " + "x" * 3_000_000
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert answer.headers["x-path"] == "/v1/a%2Fb"
        assert api.seen["query_string"] == b"q=%20a&q=b"
        headers = dict(api.seen["headers"])
        assert headers[b"authorization"] == b"Bearer x"
        assert headers[b"host"] == f"127.0.0.1:{edge.port}".encode()
        assert b"te" not in headers
        moved = await edge.client.get("/moved")
        assert (moved.status_code, moved.text) == (302, "GET ")
        assert (await edge.client.head("/")).content == b""


async def test_an_endless_answer_streams_and_ends_with_its_client(run_edge: Any, api: Api) -> None:
    async with run_edge(api_socket=str(api.socket)) as edge:
        async with edge.client.stream("GET", "/endless") as answer:
            assert await anext(answer.aiter_bytes()) == b"first\n"
        async with asyncio.timeout(10):
            await api.left.wait()


async def test_a_dead_api_takes_down_its_own_routes_only(run_edge: Any, tmp_path: Path, tenant: Any) -> None:
    socket = tmp_path / "api.sock"
    async with run_edge(api_socket=str(socket)) as edge:
        answer = await edge.client.post("/v1/projects", content=b"x" * 1_000_000)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await edge.runs(tenant, b'{"runs":[]}')).status_code == 202
        assert (await edge.client.get("/healthz")).status_code == 200
        async with Api(socket):
            assert (await edge.client.get("/v1/projects")).text == "GET "


async def test_an_api_by_url_that_is_down_takes_down_its_own_routes_only(run_edge: Any, tenant: Any) -> None:
    async with run_edge(api_url="http://127.0.0.1:9") as edge:
        answer = await edge.client.get("/v1/projects")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert (await edge.runs(tenant, b'{"runs":[]}')).status_code == 202


async def test_without_an_api_other_routes_do_not_exist(edge: Any) -> None:
    answer = await edge.client.get("/v1/projects")
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_an_application_in_the_same_process_may_stand_behind(run_edge: Any) -> None:
    async def front(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    async with run_edge(front) as edge:
        answer = await edge.client.get("/anything")
        assert (answer.status_code, answer.text) == (201, "/anything")


async def test_operators_see_health_readiness_and_metrics(edge: Any) -> None:
    assert (await edge.client.get("/healthz")).json() == {"status": "ok"}
    ready = await edge.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "missing": {}})
    metrics = await edge.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "tracebility_ingest_items_total" in metrics.text
    assert (await edge.client.post("/metrics")).status_code == 405
