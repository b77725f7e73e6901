"""Parts of the pages: the table of runs, the spans of a run, and numbers in readable units."""

from collections.abc import Sequence
from urllib.parse import quote
from uuid import UUID

import msgspec

from tracebility import times
from tracebility.api import tree
from tracebility.api.html import Html, fill, join
from tracebility.api.routers.projects import Project
from tracebility.api.routers.runs import Run, RunDetail, Span

SPANS_SHOWN = 1000  # browsers get slow with more; the API returns all
TEXT_SHOWN = 4000
DEEPEST_INDENT = 9


def projects_bar(projects: Sequence[Project], shown: UUID) -> Html:
    """Links to the projects that the key may read."""
    links = [
        fill(
            '<a href="/?project=$id"$current>$name</a>',
            id=project.id,
            name=project.name,
            current=Html(' aria-current="page"') if project.id == shown else "",
        )
        for project in projects
    ]
    return fill('<div class="bar"><nav aria-label="Projects">$links</nav></div>', links=join(links))


def runs_table(runs: Sequence[Run], project_id: UUID, now_ns: int, *, older: str, newest: bool) -> Html:
    """A page of runs, newest first."""
    rows = [_run_row(run, project_id, now_ns) for run in runs]
    return fill(
        _RUNS,
        project=project_id,
        rows=join(rows),
        newest="" if newest else fill('<a href="/?project=$project">Newest</a>', project=project_id),
        older=fill('<a rel="next" href="$address">Older</a>', address=older) if older else "",
    )


def run_detail(run: RunDetail, project_id: UUID, now_ns: int) -> Html:
    """A run: its facts, and its spans with their position in time."""
    spans = tree.flatten(run.spans)
    starts = [times.parse(span.start_time) for span in spans]
    first_ns = min(starts, default=0)
    lengths = [start - first_ns + int((span.latency_ms or 0) * 1e6) for start, span in zip(starts, spans, strict=True)]
    whole_ns = max(max(lengths, default=0), 1)
    shown = [
        _span_row(span, (start - first_ns) / whole_ns, whole_ns)
        for span, start in zip(spans[:SPANS_SHOWN], starts, strict=False)
    ]
    facts = [
        ("Started", ago(times.parse(run.start_time), now_ns)),
        ("Latency", duration(run.latency_ms)),
        ("Tokens", f"{run.input_tokens:,} in, {run.output_tokens:,} out" if run.total_tokens else "none"),
        ("Cost", money(run.cost)),
        ("Spans", f"{run.span_count:,}" + (f", {run.error_count:,} failed" if run.error_count else "")),
        ("Models", ", ".join(run.models)),
        ("Session", run.session_id or ""),
        ("User", run.user_id or ""),
        ("Tags", ", ".join(run.tags)),
        ("Run", run.id),
    ]
    listed = join([fill("<div><dt>$name</dt><dd>$value</dd></div>", name=n, value=v) for n, v in facts if v])
    left_out = len(spans) - len(shown) + run.spans_left_out
    return fill(
        _DETAIL,
        project=project_id,
        name=run.name or "(no name)",
        status=_status(run.status),
        error=fill('<p class="refused">$text</p>', text=_cut(failure(run))) if failure(run) else "",
        facts=listed,
        spans=join(shown),
        more=f"{left_out:,} more spans are not shown here." if left_out else "",
        api=f"/v1/projects/{project_id}/runs/{run.id}",
    )


def failure(run: Run) -> str:
    """Why the run failed; empty when it did not, even if one of its spans did."""
    return run.error or "" if run.status == "error" else ""


def ago(then_ns: int, now_ns: int) -> str:
    """The age in the largest unit that fits."""
    seconds = (now_ns - then_ns) // 1_000_000_000
    if seconds < 0:
        return "in the future"
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{seconds} s ago"


def duration(milliseconds: float | None) -> str:
    """Milliseconds in ms, s or min."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f} min {seconds:.0f} s"


def money(dollars: float | None) -> str:
    """US dollars: cents from 1 dollar on, else four decimals."""
    if dollars is None:
        return "-"
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"


def _run_row(run: Run, project_id: UUID, now_ns: int) -> Html:
    return fill(
        _RUN,
        address=f"/projects/{project_id}/runs/{quote(run.id, safe='')}",
        name=run.name or "(no name)",
        preview=failure(run) or run.output_preview or run.input_preview,
        status=_status(run.status),
        started=run.start_time,
        ago=ago(times.parse(run.start_time), now_ns),
        latency=duration(run.latency_ms),
        tokens=f"{run.total_tokens:,}" if run.total_tokens else "-",
        cost=money(run.cost),
        spans=f"{run.span_count:,}",
    )


def _span_row(span: Span, offset: float, whole_ns: int) -> Html:
    texts = [("Error", span.error), ("Input", _text(span.inputs)), ("Output", _text(span.outputs))]
    body = [fill("<div>$name</div><pre>$text</pre>", name=name, text=_cut(text)) for name, text in texts if text]
    width = max((span.latency_ms or 0) * 1e6 / whole_ns * 100, 0.7)
    return fill(
        _SPAN,
        depth=min(span.depth, DEEPEST_INDENT),
        failed="failed" if span.status == "error" else "",
        kind=span.kind or "span",
        name=span.name or "(no name)",
        model=span.model or "",
        tokens=f"{span.total_tokens:,} tok" if span.total_tokens else "",
        latency=duration(span.latency_ms),
        offset=f"{min(offset * 100, 99.3):.2f}",
        width=f"{width:.2f}",
        body=join(body) or Html('<p class="quiet">Neither input nor output.</p>'),
    )


def _status(status: str) -> Html:
    return fill('<span class="status $status">$status</span>', status=status)


def _text(value: str | msgspec.Raw | None) -> str:
    """A value of a span as text; JSON is indented."""
    return msgspec.json.format(bytes(value)).decode() if isinstance(value, msgspec.Raw) else value or ""


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}... ({len(text) - TEXT_SHOWN:,} characters more)"


_RUNS = """
<div class="bar"><h1>Runs</h1><nav class="end" aria-label="Pages">$newest <a href="">Refresh</a></nav></div>
<div class="paper"><table>
<thead><tr>
<th scope="col">Run</th><th scope="col">Status</th><th scope="col" class="spare">Started</th>
<th scope="col" class="number">Latency</th><th scope="col" class="number spare">Tokens</th>
<th scope="col" class="number spare">Cost</th><th scope="col" class="number spare">Spans</th>
</tr></thead>
<tbody>$rows</tbody>
</table></div>
<p class="bar"><span class="end"></span>$older</p>
"""
_RUN = """<tr>
<td class="wide"><div><a href="$address">$name</a></div><div class="preview">$preview</div></td>
<td>$status</td>
<td class="spare"><time datetime="$started" title="$started">$ago</time></td>
<td class="number">$latency</td>
<td class="number spare">$tokens</td>
<td class="number spare">$cost</td>
<td class="number spare">$spans</td>
</tr>
"""
_DETAIL = """
<div class="bar"><nav><a href="/?project=$project">Runs</a></nav></div>
<div class="card"><div class="bar"><h1>$name</h1>$status</div>$error<dl class="facts">$facts</dl></div>
<h2>Spans</h2>
<div class="paper spans">$spans</div>
<p class="quiet">$more As JSON: <code>GET $api</code></p>
"""
_SPAN = """<details class="$failed">
<summary class="d$depth">
<span class="kind">$kind</span><span class="name">$name</span>
<span class="quiet spare">$model</span><span class="number spare">$tokens</span><span class="number">$latency</span>
<svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
<rect x="$offset" width="$width" height="6"/></svg>
</summary>
<div class="body">$body</div>
</details>
"""
