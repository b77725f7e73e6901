"""Records what real instrumentations send: their packages, a fake model on loopback, and the OTLP bodies as they came.

    python tests/data/record_otlp_corpus.py WORK_FOLDER [DIALECT ...]

Makes two Python environments and a folder of npm packages in WORK_FOLDER (versions: ``otlp_corpus/recording/``,
``requirements.txt``, ``requirements-openllmetry.txt``, ``package.json``), drives each dialect in a process of its own,
and writes ``otlp_corpus/DIALECT/NN.pb.gz`` and ``otlp_corpus/index.json``. Needs ``uv``, ``npm`` and node 20; nothing
but package installation leaves this machine. Tests and benchmarks read the corpus, and none runs this.

The bodies are kept as sent, except that this machine's name and folders are overwritten with text of the same length.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CORPUS = Path(__file__).resolve().parent / "otlp_corpus"
RECORDING = CORPUS / "recording"
sys.path.insert(0, str(RECORDING))

from conversations import CONVERSATIONS, SYSTEM  # noqa: E402
from fake_servers import serve  # noqa: E402

# Where each dialect runs, and the packages whose versions the index names.
DIALECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "otel_genai": ("python", ("opentelemetry-sdk",)),
    "otel_genai_events": ("python", ("opentelemetry-sdk",)),
    "openinference_langchain": (
        "python",
        ("openinference-instrumentation-langchain", "langchain", "langgraph", "langchain-openai"),
    ),
    "openinference_openai_agents": ("python", ("openinference-instrumentation-openai-agents", "openai-agents")),
    "openllmetry_langchain": (
        "openllmetry",
        ("opentelemetry-instrumentation-langchain", "traceloop-sdk", "langchain", "langchain-openai"),
    ),
    "openllmetry_openai": ("openllmetry", ("opentelemetry-instrumentation-openai", "traceloop-sdk", "openai")),
    "langfuse": ("python", ("langfuse", "openai")),
    "pydantic_ai": ("python", ("pydantic-ai-slim",)),
    "logfire": ("python", ("logfire", "pydantic-ai-slim", "openai")),
    "vercel_ai": ("node", ("ai", "@ai-sdk/otel", "@ai-sdk/openai")),
    "vercel_ai_5": ("node", ("ai5", "openai2")),
}
REQUIREMENTS = {"python": "requirements.txt", "openllmetry": "requirements-openllmetry.txt"}


def install(work: Path) -> None:
    """Make the environments, unless they are there."""
    for name, requirements in REQUIREMENTS.items():
        if not (work / name).exists():
            subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, work / name], check=True)
            python = work / name / "bin" / "python"
            subprocess.run(
                ["uv", "pip", "install", "--quiet", "--python", python, "-r", RECORDING / requirements], check=True
            )
    node = work / "node"
    if not node.exists():
        node.mkdir()
        shutil.copy(RECORDING / "package.json", node)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=node, check=True)
    shutil.copy(RECORDING / "vercel_ai.mjs", node)


def record(dialect: str, work: Path) -> list[bytes]:
    """Drive ``dialect``; the bodies it sent."""
    place, _ = DIALECTS[dialect]
    conversations = [{"system": SYSTEM, **asdict(one)} for one in CONVERSATIONS]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "CONVERSATIONS": json.dumps(conversations),
        "OPENAI_AGENTS_DISABLE_TRACING": "0",
        "OTEL_PYTHON_LOG_LEVEL": "error",
    }
    with serve() as (url, bodies):
        command = (
            ["node", work / "node" / "vercel_ai.mjs"]
            if place == "node"
            else [work / place / "bin" / "python", RECORDING / "scenarios.py"]
        )
        subprocess.run([*command, dialect, url], check=True, cwd=work, env=environment, timeout=120)
    return [scrub(body, work) for body in bodies]


def scrub(body: bytes, work: Path) -> bytes:
    """Overwrite what tells of this machine, length by length, so that nothing else of the body changes."""
    python = Path(sys.base_prefix).resolve()
    for told, instead in (
        (work, b"/srv/app"),
        (RECORDING, b"/srv/app"),
        (python, b"/usr"),
        (socket.gethostname(), b"host"),
    ):
        name = str(told).encode()
        padded = instead[: len(name)] + b"_" * (len(name) - len(instead))
        body = re.sub(rb"(?<![\w.-])" + re.escape(name) + rb"(?![\w-])", padded, body)
    return body


def versions(dialect: str, work: Path) -> dict[str, str]:
    """The installed versions of the packages that ``dialect`` is about."""
    place, packages = DIALECTS[dialect]
    if place == "node":
        folders = {name: work / "node" / "node_modules" / name / "package.json" for name in packages}
        read = {name: json.loads(path.read_text()) for name, path in folders.items()}
        return {package["name"]: package["version"] for package in read.values()}
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    python = work / place / "bin" / "python"
    result = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True)
    return dict(json.loads(result.stdout))


def keep(dialect: str, bodies: list[bytes], packages: dict[str, str]) -> dict[str, object]:
    """Write the bodies; the dialect's entry in the index."""
    folder = CORPUS / dialect
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    spans = 0
    for number, body in enumerate(bodies):
        (folder / f"{number:02}.pb.gz").write_bytes(gzip.compress(body, mtime=0))
        message = ExportTraceServiceRequest.FromString(body)
        spans += sum(len(scope.spans) for block in message.resource_spans for scope in block.scope_spans)
    return {"packages": packages, "requests": len(bodies), "spans": spans, "bytes": sum(map(len, bodies))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path, help="folder for the environments, kept for the next time")
    parser.add_argument("dialects", nargs="*", default=list(DIALECTS), help="default: all")
    chosen = parser.parse_args()
    work = chosen.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    install(work)
    path = CORPUS / "index.json"
    index = json.loads(path.read_text()) if path.exists() else {}
    for dialect in chosen.dialects:
        index[dialect] = keep(dialect, record(dialect, work), versions(dialect, work))
        print(dialect, index[dialect], flush=True)
        path.write_text(json.dumps({name: index[name] for name in DIALECTS if name in index}, indent=2) + "\n")


if __name__ == "__main__":
    main()
