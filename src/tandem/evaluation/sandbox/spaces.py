"""Namespaces, mounts and privileges of one process, by the C library's own calls. Linux only.

A process that has run `enter` and then, in its child, `confine` has a process tree, a network
(without any device) and a file system of its own, in which the interpreter's libraries can be read
and a small folder in memory can be written; it has no privilege and can gain none. Standard library
only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

# <linux/sched.h>
_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
# <linux/mount.h>
_NO_SETUID, _NO_DEVICES, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_CWD, _AT_RECURSIVE = 442, -100, 0x8000
_READ_ONLY = 0x1 | _NO_SETUID | _NO_DEVICES
_DETACH = 2
# <linux/prctl.h>
_DEATH_SIGNAL, _KEEP_CAPABILITIES, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 8, 36, 38
# <linux/capability.h>
_CAPABILITIES_V3 = 0x20080522
_READ_ANYTHING, _SETGID, _SETUID, _SYS_ADMIN = 2, 6, 7, 21
# Whom a privileged caller's programs run as.
NOBODY = 65534
WORK = "/work"
_MIB = 1024 * 1024
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library[name](*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def privileges() -> int:
    """The set of this process's effective capabilities."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise ValueError("/proc/self/status names no capabilities: mount /proc as Linux writes it")


def _holds(privileges: int, *wanted: int) -> bool:
    return all(privileges >> bit & 1 for bit in wanted)


def ask_signal_at_parents_end(number: int) -> None:
    _call("prctl", _DEATH_SIGNAL, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent has ended become this process's children."""
    _call("prctl", _SUBREAPER, 1, 0, 0, 0)


def enter(*, libraries: list[str], memory_mib: int, privileges: int) -> int:
    """Leave the caller's namespaces; the next child has process number 1 in its own.

    libraries: folders and files that stay readable. memory_mib: what may be written in all.
    Returns a descriptor of the /proc that is left, for `confine`. Raises OSError that names the
    call that the kernel refused.
    """
    before = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    root = _holds(privileges, _SETGID, _SETUID, _SYS_ADMIN)
    spaces = _NEW_MOUNTS | _NEW_UTS | _NEW_IPC | _NEW_PROCESSES | _NEW_NETWORK
    user, group = os.geteuid(), os.getegid()
    _call("unshare", spaces if root else spaces | _NEW_USER)
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _change_root(libraries, memory_mib=memory_mib)
    return before


def _mount(source: str, target: str, kind: bytes, flags: int, options: str = "") -> None:
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def _change_root(libraries: list[str], *, memory_mib: int) -> None:
    """Make a file system in memory the root, with the libraries read-only and nothing else."""
    # Resolved here: a link on the way may name a place that is not there afterwards.
    resolved = [(os.path.realpath(path), path) for path in libraries]
    _mount("none", "/", b"", _RECURSIVE | _PRIVATE)
    options = f"size={memory_mib}m,nr_inodes=4096,mode=755"
    _mount("tmpfs", "/tmp", b"tmpfs", _NO_SETUID | _NO_DEVICES, options)
    os.mkdir("/tmp/before")
    _call("pivot_root", b"/tmp", b"/tmp/before")
    os.chdir("/")
    for real, path in resolved:
        _show("/before" + real, path)
        _read_only(path)
    for path in _DEVICES:
        _show("/before" + path, path)
    for path in (WORK, "/tmp"):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o1777)
    _call("umount2", b"/before", _DETACH)
    os.rmdir("/before")
    os.chdir(WORK)


def _show(before: str, path: str) -> None:
    if os.path.isdir(before):
        os.makedirs(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch()
    _mount(before, path, b"", _BIND | _RECURSIVE)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def _read_only(path: str) -> None:
    attributes = _MountAttributes(set=_READ_ONLY)
    _call(
        "syscall",
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_CWD),
        path.encode(),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def be_killed_first() -> None:
    """Where memory runs out, the kernel takes it from this process and its children."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def confine(limits: dict[str, int], *, proc: int | None, privileges: int) -> None:
    """Give up every privilege and set the limits, in the process that will run the program.

    limits: the fields of `Limits` by name. proc: what `enter` returned; None without isolation,
    where the limits hold all the same, and the program of a caller who may change users runs as
    nobody, who may read what the caller may.
    """
    isolated = proc is not None
    os.setsid()
    kept = 0
    if _holds(privileges, _SETGID, _SETUID):
        _call("prctl", _KEEP_CAPABILITIES, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kept = 0 if isolated else privileges & 1 << _READ_ANYTHING
    if isolated and _holds(privileges, _SETGID, _SETUID, _SYS_ADMIN):
        _call("unshare", _NEW_USER)
    if proc is not None:
        # In a user namespace of its own making a program would be privileged again.
        most = os.open("sys/user/max_user_namespaces", os.O_WRONLY, dir_fd=proc)
        os.write(most, b"0")
        os.close(most)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    # Effective, permitted and inheritable ones, the lower half of each first.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _call("capset", ctypes.byref(header), ctypes.byref(sets))
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # A change of user forgets what was asked before it.
    ask_signal_at_parents_end(signal.SIGKILL)
    for name, amount in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, 64 * _MIB),
        (resource.RLIMIT_FSIZE, limits["file_mib"] * _MIB),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        # In a user namespace of its own a program's processes are counted apart from all others.
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_AS, limits["memory_mib"] * _MIB),
    ):
        already = resource.getrlimit(name)[1]
        bound = amount if already == resource.RLIM_INFINITY else min(amount, already)
        resource.setrlimit(name, (bound, bound))
