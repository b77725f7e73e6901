"""What every target does before it serves."""

import resource
import socket
import subprocess
import sys

import pytest

from tracebility import targets
from tracebility.errors import ConfigurationError

A_TARGET = """
import resource
from tracebility import targets
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
targets._take_all_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_target_may_open_as_many_files_as_its_user() -> None:
    done = subprocess.run([sys.executable, "-c", A_TARGET], capture_output=True, text=True, check=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert done.stdout.split() == [str(hard), str(hard)]


def addresses(listeners: list[socket.socket]) -> list[str]:
    found = [listener.getsockname() for listener in listeners]
    for listener in listeners:
        listener.close()
    assert len({name[1] for name in found}) == 1
    return [name[0] for name in found]


def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    both = ["127.0.0.1", "::1"] if targets._has_ipv6() else ["127.0.0.1"]
    assert addresses(targets.listen("localhost", 0, hint="")) == both
    assert addresses(targets.listen("127.0.0.1", 0, hint="")) == ["127.0.0.1"]


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "LOOPBACK_IPV6", "2001:db8::1")  # An address that no machine has.
    assert addresses(targets.listen("localhost", 0, hint="")) == ["127.0.0.1"]


def test_a_port_that_is_taken_on_one_loopback_address_is_refused() -> None:
    family, address = (socket.AF_INET6, "::1") if targets._has_ipv6() else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        with pytest.raises(ConfigurationError, match=rf"on {address} cannot be used.*--port"):
            targets.listen("localhost", other.getsockname()[1], hint="Choose another with --port.")
