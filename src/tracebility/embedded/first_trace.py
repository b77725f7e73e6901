"""The text that ``tracebility up`` prints when it is ready: how to send a first trace and read it back."""

from collections.abc import Mapping
from typing import Any

_TEXT = """
tracebility is ready after {seconds:.1f} s: {url}

  API key       {api_key}
  Project       {project_id}
  Sign in       at {url}, with the API key

Send a first trace with curl:

  curl {url}/v1/runs -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
    -d '{{"id": "'$(cat /proc/sys/kernel/random/uuid)'", "name": "first trace", "kind": "llm", "model": "gpt-4o-mini",
         "inputs": {{"question": "Does it work?"}}, "outputs": {{"answer": "It does."}},
         "start_time": "'$(date -u +%FT%TZ)'", "end_time": "'$(date -u +%FT%TZ)'",
         "usage": {{"input_tokens": 12, "output_tokens": 5}}}}'

or from Python (pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http):

  from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
  from opentelemetry.sdk.trace import TracerProvider
  from opentelemetry.sdk.trace.export import BatchSpanProcessor

  provider = TracerProvider()
  exporter = OTLPSpanExporter("{url}/v1/traces", headers={{"x-api-key": "{api_key}"}})
  provider.add_span_processor(BatchSpanProcessor(exporter))
  with provider.get_tracer("first").start_as_current_span("chat gpt-4o-mini") as span:
      span.set_attributes({{"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini",
                           "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 5}})
  provider.shutdown()

and read it back:

  curl '{url}/v1/projects/{project_id}/runs' -H 'Authorization: Bearer {api_key}'

Ctrl-C ends everything; the data stays in {data_dir}.
"""


def first_trace(ready: Mapping[str, Any], seconds: float) -> str:
    """The text for the installation whose ready file is ``ready``."""
    if not ready["url"]:
        return f"The stores are ready after {seconds:.1f} s; {ready['data_dir']}/ready.json says how to reach them."
    return _TEXT.format(seconds=seconds, **ready)
