"""``tracebility demo``: traces like those of real agents, sent as any client would send them."""

import asyncio
import os
import random
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import aiohttp
import typer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tracebility.commands.demo.stories import Storyteller
from tracebility.commands.options import AsJson, DataDir, new_app, tell
from tracebility.embedded.installation import locate
from tracebility.errors import ConfigurationError, TracebilityError

REQUEST_TIMEOUT_S = 15.0
TRIES = 6  # of one request, when the answer is 503 or 429, or none: about 20 s
FIRST_PAUSE_S = 0.5
TRACES_A_REQUEST = 10
TICK_S = 0.25


@dataclass(slots=True)
class Sent:
    """What was sent, and what came of it."""

    traces: int = 0
    spans: int = 0
    accepted_spans: int = 0
    rejected_spans: int = 0
    requests: int = 0
    tried_again: int = 0
    seconds: float = 0.0
    seed: int = 0
    interrupted: bool = False


class NotSent(TracebilityError):
    """The installation refused or did not answer."""


app = new_app()


@app.command()
def demo(
    rate: Annotated[float, typer.Option("--rate", min=0.1, max=10_000, help="Traces a second.")] = 20.0,
    duration: Annotated[float, typer.Option("--duration", min=0.1, help="For how many seconds.")] = 10.0,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed makes the same traces.")] = None,
    spread: Annotated[
        float, typer.Option("--spread", min=0, help="Let the traces start at times of the last so many hours.")
    ] = 24.0,
    url: Annotated[str | None, typer.Option("--url", help="Where to send; else as --data-dir says.")] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Else TRACEBILITY_API_KEY, else as --data-dir says.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Send traces of made-up agents: several models, tools, retries, errors, sessions, long histories.

    They go the way of every client's traces (OTLP over HTTP), in the words of OpenTelemetry GenAI and of OpenInference.
    Ctrl-C ends early and still says what was accepted.

    Examples:

      tracebility demo

      tracebility demo --rate 100 --duration 60 --spread 0

      tracebility demo --url https://traces.example.com --api-key tb_...
    """
    where, key = _destination(url, api_key, data_dir)
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    sent = Sent(seed=seed)
    began = time.monotonic()
    try:
        asyncio.run(_send_all(where, key, rate, duration, spread, sent, quiet=as_json))
    except KeyboardInterrupt:
        sent.interrupted = True
    sent.seconds = round(time.monotonic() - began, 2)
    lines = [
        f"{sent.traces:,} traces, {sent.spans:,} spans in {sent.seconds:.1f} s (seed {sent.seed}).",
        f"Accepted: {sent.accepted_spans:,} spans in {sent.requests:,} requests.",
    ]
    if sent.rejected_spans:
        lines.append(f"Rejected: {sent.rejected_spans:,} spans.")
    if sent.tried_again:
        lines.append(f"Sent again after a 429, a 503 or no answer: {sent.tried_again:,} requests.")
    lines.append(f"See them at {where}")
    tell("\n".join(lines), asdict(sent) | {"url": where}, as_json=as_json)
    if sent.interrupted:
        raise typer.Exit(130)


def _destination(url: str | None, api_key: str | None, data_dir: DataDir) -> tuple[str, str]:
    api_key = api_key or os.environ.get("TRACEBILITY_API_KEY")
    if not url or not api_key:
        ready = locate(data_dir).ready
        url, api_key = url or ready.get("url"), api_key or ready.get("api_key")
    if not url or not api_key:
        raise ConfigurationError("Where to send is not known. Give --url and --api-key.")
    return url.rstrip("/"), api_key


async def _send_all(
    url: str, key: str, rate: float, duration: float, spread_h: float, sent: Sent, *, quiet: bool
) -> None:
    """Send at ``rate`` for ``duration`` seconds; what a slow answer holds up is caught up on, not left out."""

    teller = Storyteller(sent.seed)
    spread = random.Random(sent.seed)  # noqa: S311  (chooses times of demo data)
    total = max(1, round(rate * duration))
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    began = time.monotonic()
    with progress:
        task = progress.add_task("sending traces", total=total)
        async with aiohttp.ClientSession(timeout=timeout, headers={"x-api-key": key}) as session:
            while sent.traces < total:
                due = min(total, int((time.monotonic() - began) * rate) + 1) - sent.traces
                if due <= 0:
                    await asyncio.sleep(min(TICK_S, 1 / rate))
                    continue
                batch = [
                    teller.tell(time.time_ns() - int(spread.random() ** 2 * spread_h * 3600 * 1e9))
                    for _ in range(min(due, TRACES_A_REQUEST))
                ]
                await _send(session, url, batch, sent)
                progress.update(task, completed=sent.traces)


async def _send(session: aiohttp.ClientSession, url: str, batch: list[ResourceSpans], sent: Sent) -> None:

    body = ExportTraceServiceRequest(resource_spans=batch).SerializeToString()
    spans = sum(len(scope.spans) for trace in batch for scope in trace.scope_spans)
    pause = FIRST_PAUSE_S
    for attempt in range(TRIES):
        try:
            async with session.post(
                f"{url}/v1/traces", data=body, headers={"content-type": "application/x-protobuf"}
            ) as answer:
                content = await answer.read()
                status, retry_after = answer.status, answer.headers.get("retry-after", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            status, retry_after, content = 0, "", str(error).encode()
        if status == 200:
            response = ExportTraceServiceResponse.FromString(content)
            rejected = response.partial_success.rejected_spans
            sent.requests += 1
            sent.traces += len(batch)
            sent.spans += spans
            sent.rejected_spans += rejected
            sent.accepted_spans += spans - rejected
            return
        if status not in (0, 429, 502, 503, 504):
            raise NotSent(f"{url} answers {status}: {content.decode(errors='replace')[:500]}")
        if attempt + 1 < TRIES:
            sent.tried_again += 1
            await asyncio.sleep(float(retry_after) if retry_after.isdigit() else pause)
            pause *= 2
    said = f"answers {status}" if status else f"does not answer ({content.decode(errors='replace')})"
    raise NotSent(f"{url} {said} after {TRIES} tries. 'tracebility status' shows what is wrong.")
