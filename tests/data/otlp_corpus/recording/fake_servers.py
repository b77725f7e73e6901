"""One loopback server for everything that the recorded packages call: OpenAI's API, and an OTLP/HTTP collector.

The model answers by rules: it calls the first tool that it is offered, and answers in text once it has the tool's
result. Whatever is posted to a path that ends in ``/v1/traces`` is kept as it came, decompressed.
"""

import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

ANSWER = (
    "Your order left our warehouse in Zürich on Tuesday; the carrier expects to deliver it on Friday before noon. "
    'You can follow the parcel with the number in the confirmation mail. 📦 "Express" orders arrive one day earlier.'
)
_OUTPUT = "function_call_output"
USAGE = {"input": 412, "cached": 128, "output": 57, "reasoning": 16}


@contextmanager
def serve() -> Iterator[tuple[str, list[bytes]]]:
    """Run the server on a free port; its URL, and the list that the OTLP bodies go to."""
    bodies: list[bytes] = []
    handler = type("Handler", (_Handler,), {"bodies": bodies})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/v1/traces"):
            self.bodies.append(body)
            self._answer(b"", "application/x-protobuf")
        elif self.path.endswith("/chat/completions"):
            asked = json.loads(body)
            if asked.get("stream"):
                self._answer(_chat_stream(asked), "text/event-stream")
            else:
                self._answer_json(_chat(asked))
        elif self.path.endswith("/responses"):
            self._answer_json(_response(json.loads(body)))
        elif self.path.endswith("/embeddings"):
            self._answer_json(_embeddings(json.loads(body)))
        else:
            self._answer_json({})

    def do_GET(self) -> None:
        self._answer_json({})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        encoding = self.headers.get("content-encoding")
        if encoding == "gzip":
            return gzip.decompress(body)
        return zlib.decompress(body) if encoding == "deflate" else body

    def _answer_json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _answer(self, body: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _tool_call(asked: dict[str, Any]) -> dict[str, str] | None:
    """The call that the model makes: of the tool whose name the question mentions, else of the first one offered."""
    history = asked.get("messages") or asked.get("input") or []
    if not asked.get("tools") or not isinstance(history, list):
        return None
    last_question = max(place for place, one in enumerate(history) if one.get("role") == "user")
    results = [one for one in history[last_question:] if one.get("role") == "tool" or one.get("type") == _OUTPUT]
    if any('"assistant"' not in str(one) for one in results):  # what else there is are handovers to another agent
        return None
    names = [tool.get("name") or tool["function"]["name"] for tool in asked["tools"]]
    question = json.dumps(history[last_question])
    name = next((name for name in names if name.split("_")[-1] in question), names[0])
    return {
        "name": name,
        "arguments": "{}" if name.startswith("transfer_to") else '{"query": "status of order 4711", "limit": 3}',
        "call_id": f"call_{uuid4().hex[:24]}",
    }


def _chat(asked: dict[str, Any]) -> dict[str, Any]:
    call = _tool_call(asked)
    message: dict[str, Any] = {"role": "assistant", "content": None if call else ANSWER, "refusal": None}
    if call:
        function = {"name": call["name"], "arguments": call["arguments"]}
        message["tool_calls"] = [{"id": call["call_id"], "type": "function", "function": function}]
    return {
        "id": f"chatcmpl-{uuid4().hex[:29]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_07871e2ad8",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if call else "stop"}],
        "usage": _chat_usage(),
    }


def _chat_usage() -> dict[str, Any]:
    return {
        "prompt_tokens": USAGE["input"],
        "completion_tokens": USAGE["output"],
        "total_tokens": USAGE["input"] + USAGE["output"],
        "prompt_tokens_details": {"cached_tokens": USAGE["cached"]},
        "completion_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
    }


def _chat_stream(asked: dict[str, Any]) -> bytes:
    whole = _chat(asked)
    [choice] = whole["choices"]
    message = choice["message"]
    base = {key: whole[key] for key in ("id", "created", "model", "system_fingerprint")}
    base["object"] = "chat.completion.chunk"
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if message.get("tool_calls"):
        deltas.append({"tool_calls": [{"index": 0, **message["tool_calls"][0]}]})
    else:
        deltas += [{"content": word + " "} for word in ANSWER.split(" ")]
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    chunks.append({**base, "choices": [], "usage": whole["usage"]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def _response(asked: dict[str, Any]) -> dict[str, Any]:
    call = _tool_call(asked)
    item: dict[str, Any]
    if call:
        item = {"type": "function_call", "id": f"fc_{uuid4().hex}", "status": "completed", **call}
    else:
        text = {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
        item = {"type": "message", "id": f"msg_{uuid4().hex}", "status": "completed", "role": "assistant"}
        item["content"] = [text]
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "model": "gpt-4o-2024-08-06",
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": asked.get("tools", []),
        "metadata": {},
        "usage": {
            "input_tokens": USAGE["input"],
            "input_tokens_details": {"cached_tokens": USAGE["cached"], "cache_write_tokens": 0},
            "output_tokens": USAGE["output"],
            "output_tokens_details": {"reasoning_tokens": USAGE["reasoning"]},
            "total_tokens": USAGE["input"] + USAGE["output"],
        },
    }


def _embeddings(asked: dict[str, Any]) -> dict[str, Any]:
    texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    vectors = [[round(((number + place) % 7) / 7, 3) for place in range(8)] for number in range(len(texts))]
    data = [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 9 * len(texts), "total_tokens": 9 * len(texts)}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}
