"""The wheel is the product: installed alone, outside the checkout, it starts everything and keeps a first trace."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pins(folder: Path) -> Path:
    """The versions of the lock for a user's `pip install -c`, with the two packages that our environment omits."""
    lock = re.sub(r" ; [^\\\n]*'never'[^\\\n]*", "", (ROOT / "requirements.lock").read_text())
    file = folder / "constraints.txt"
    file.write_text("\n".join(re.findall(r"^[\w.\[\]-]+==[^\\\n]+", lock, re.MULTILINE)))
    return file


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A clean environment that holds the wheel and what it depends on, and nothing of the checkout."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    venv.create(tmp_path / "env")
    uv, wheel = Path(sys.executable).with_name("uv"), next(tmp_path.glob("*.whl"))
    where = ("--quiet", "--python", tmp_path / "env/bin/python")
    run(uv, "pip", "install", *where, "-c", pins(tmp_path), wheel, cwd=tmp_path)
    return tmp_path / "env"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(ready: Path, process: subprocess.Popen[bytes], seconds: float) -> dict[str, str]:
    deadline = time.monotonic() + seconds
    while not ready.exists():
        assert process.poll() is None, "tracebility up ended before it was ready"
        assert time.monotonic() < deadline, "tracebility up was not ready in time"
        time.sleep(0.1)
    return json.loads(ready.read_text())


def call(url: str, key: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
        return json.load(answer)


@pytest.mark.timeout(600)
def test_the_wheel_alone_starts_everything_and_keeps_a_first_trace(installed: Path, tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("TRACEBILITY_", "PYTHON"))}
    ready = tmp_path / "ready.json"
    up = subprocess.Popen(
        [
            installed / "bin/tracebility",
            "up",
            "--data-dir",
            tmp_path / "data",
            "--port",
            str(free_port()),
            "--ready-file",
            ready,
        ],
        cwd=tmp_path,
        env=outside,
    )
    try:
        found = wait_for(ready, up, 60)
        run_id = str(uuid4())
        span = {
            "id": run_id,
            "name": "first",
            "kind": "chain",
            "start_time": "2026-11-24T10:00:00Z",
            "end_time": "2026-11-24T10:00:01Z",
        }
        assert call(f"{found['url']}/v1/runs", found["api_key"], span)["accepted"] == 1
        runs = f"{found['url']}/v1/projects/{found['project_id']}/runs?from=2026-11-01T00:00:00Z"
        deadline = time.monotonic() + 20
        while not (items := call(runs, found["api_key"])["items"]):
            assert time.monotonic() < deadline, "the run never became visible"
            time.sleep(0.1)
        assert [item["id"] for item in items] == [run_id]
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(15) == 0
