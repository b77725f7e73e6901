"""Starts PostgreSQL as another user when the installation runs as root, because PostgreSQL refuses to run as root.

Two ways are tried in order. In a user namespace, root's files appear to belong to an ordinary user, without chown and
without extra rights. Where the kernel or a container forbids namespaces, the process changes to another user's id and
keeps one capability, which lets it enter a folder inside root's private one.
"""

import ctypes
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path

from tracebility.errors import ConfigurationError

_CLONE_NEWUSER = 0x10000000
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

Become = Callable[[], None]


def unprivileged(program: Path, folder: Path) -> Become | None:
    """The function that a child calls before it executes ``program``; None if we are not root.

    Changes the owner of ``folder``.

    Raises:
        ConfigurationError: when we are root and neither way works.
    """
    if os.geteuid() != 0:
        return None
    user = _ordinary_user()
    for owner, become in ((0, _namespace(user)), (user.pw_uid, _other_user(user))):
        if _works(become, program):
            _give(folder, owner, 0 if owner == 0 else user.pw_gid)
            return become
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this machine lets no process change its user. "
        "Run tracebility as an ordinary user, or set TRACEBILITY_PG_DSN to a server of yours."
    )


def _ordinary_user() -> pwd.struct_passwd:
    # initdb looks up the name of its user, so the user must exist on the system.
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody", *known):
        if name in known:
            return known[name]
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this machine has no other user. "
        "Set TRACEBILITY_PG_DSN to a server of yours."
    )


def _namespace(user: pwd.struct_passwd) -> Become:
    libc = ctypes.CDLL(None, use_errno=True)

    def become() -> None:
        _check(libc.unshare(_CLONE_NEWUSER))
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user.pw_uid} 0 1"), ("gid_map", f"{user.pw_gid} 0 1")):
            descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(descriptor, text.encode())
            os.close(descriptor)

    return become


def _other_user(user: pwd.struct_passwd) -> Become:
    libc = ctypes.CDLL(None, use_errno=True)
    # struct __user_cap_header_struct, then two of __user_cap_data_struct (effective, permitted, inheritable).
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    bit = 1 << _CAP_DAC_OVERRIDE
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)

    def become() -> None:
        _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        _check(libc.capset(header, data))
        _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0))

    return become


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the kernel refused")


def _works(become: Become, program: Path) -> bool:
    try:
        # The supervisor has one thread, so running Python between fork and exec is safe.
        tried = subprocess.run([program, "--version"], preexec_fn=become, capture_output=True, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return tried.returncode == 0


def _give(folder: Path, user: int, group: int) -> None:
    if folder.stat().st_uid == user:
        return
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.lchown(Path(root) / name, user, group)
    os.chown(folder, user, group)
