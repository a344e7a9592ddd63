"""Programs that attack: each is a wrong answer, and the harm did not happen."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from sandbox_attacks import CHECKS, PATIENT, RIGHT, SECONDS, WRONG, gone, judged, named, printed

import tandem
from tandem.evaluation.sandbox import Limits, Outcome, Program, Sandbox
from tandem.evaluation.sandbox.sandbox import _run

FORKS = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"


def test_a_fork_bomb_is_bounded_and_leaves_no_process() -> None:
    bomb = """
import os
started = 0
def answer():
    global started
    while True:
        try:
            if os.fork() == 0:
                while True: pass
            started += 1
        except OSError:
            raise ValueError(started)
"""
    assert judged(named("forkbomb") + bomb) == Outcome(False, "error: ValueError")
    assert gone("forkbomb")
    count = """
import os, time
while True:
    try:
        if os.fork() == 0: time.sleep(9)
        print("x", flush=True)
    except OSError: break
"""
    assert 1 <= printed(count).stdout.count("x") < Limits().processes
    assert judged(named("forkbomb") + FORKS, seconds=SECONDS) == Outcome(False, "timeout")
    assert gone("forkbomb")


IGNORES = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import time\ntime.sleep(1e6)",
        IGNORES,
        "try:\n    while True: pass\nfinally:\n    while True: pass",
    ],
    ids=["spins", "sleeps", "ignores every signal", "goes on in finally"],
)
def test_an_endless_program_ends_at_its_time(loop: str) -> None:
    start = time.monotonic()
    assert judged(named("endless") + loop, seconds=SECONDS) == Outcome(False, "timeout")
    assert time.monotonic() - start < SECONDS + 15.0
    assert gone("endless")


def test_a_program_that_uses_its_processor_time_up_ends_before_the_clock() -> None:
    start = time.monotonic()
    assert not judged("while True: pass", seconds=60.0, cpu_seconds=1).passed
    assert time.monotonic() - start < 30.0


def test_ten_gigabytes_are_not_had() -> None:
    source = "def answer():\n    x = bytearray(10 * 2**30)\n    return 42"
    assert judged(source) == Outcome(False, "error: MemoryError")
    grows = "def answer():\n    x = []\n    while True: x.append(bytearray(2**20))"
    assert judged(grows).reason in ("error: MemoryError", "the program ended")


FILLS = """
try:
    for number in range({files}):
        with open(str(number), "wb") as file:
            for _ in range({mebibytes}): file.write(bytes(2**20))
except OSError as error: print(error.strerror)
"""


def test_the_disk_is_not_filled() -> None:
    assert printed(FILLS.format(files=1, mebibytes=100)).stdout == "File too large\n"
    outcome = printed(FILLS.format(files=20, mebibytes=15))
    assert outcome.stdout == "No space left on device\n"


def test_the_network_is_out_of_reach() -> None:
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.0)

        def listen() -> None:
            try:
                heard.append(server.accept())
            except TimeoutError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        port = server.getsockname()[1]
        source = f"""
import socket
for place in (("127.0.0.1", {port}), ("8.8.8.8", 53)):
    try:
        socket.create_connection(place, timeout=1)
        print("connected")
    except OSError as error: print(error.strerror)
print(socket.if_nameindex())
"""
        outcome = printed(source)
        listener.join()
    lines = outcome.stdout.splitlines()
    assert lines[:2] == ["Network is unreachable"] * 2 and "eth" not in lines[2]
    assert heard == []


def test_nothing_outside_is_written(tmp_path: Path) -> None:
    places = [
        *(
            Path.home(),
            Path("/tmp"),
            Path(tempfile.gettempdir()),
            Path("/var/tmp"),
            Path("/dev/shm"),
        ),
        *(Path("/etc"), Path("/"), tmp_path, Path.cwd(), Path(tandem.__file__).parent),
    ]
    word = f"written-by-a-program-{os.getpid()}"
    source = f"""
import os
for place in {[str(place / word) for place in places]!r}:
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        open(place, "w").write("x")
    except OSError: pass
{RIGHT}"""
    judged(source)
    assert not [place for place in places if (place / word).exists()]


def test_the_libraries_that_can_be_read_cannot_be_changed() -> None:
    source = """
import json, os
for act in (lambda: open(json.__file__, "a"), lambda: os.remove(os.__file__),
            lambda: os.rename(os.path.dirname(json.__file__), "/work/json")):
    try:
        act()
        print("changed")
    except OSError as error: print(error.strerror)
"""
    refused = {"Read-only file system", "Permission denied", "Invalid cross-device link"}
    assert set(printed(source).stdout.splitlines()) <= refused
    assert Path(os.__file__).exists()


def test_files_of_the_machine_are_not_there_to_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    wanted = ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/environ", "/sys/kernel"]
    wanted += [
        str(secret),
        str(Path(tandem.__file__)),
        str(Path.home() / ".bashrc"),
        str(Path.cwd()),
    ]
    source = f"import os\nprint([path for path in {wanted!r} if os.path.exists(path)])"
    assert printed(source).stdout == "[]\n"


def test_the_environment_of_the_caller_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_SECRET", "do-not-tell")
    source = f"""
import os, ctypes
print(dict(os.environ), ctypes.CDLL(None).getenv(b"TANDEM_SECRET"))
for number in ("self", "1", "{os.getpid()}", str(os.getppid())):
    try: print(open(f"/proc/{{number}}/environ").read())
    except OSError as error: print(error.strerror)
"""
    lines = printed(source).stdout.splitlines()
    assert lines == ["{} 0", *["No such file or directory"] * 4]


def test_the_caller_and_its_helpers_cannot_be_killed() -> None:
    source = f"""
import os, signal
for number in ({os.getpid()}, {os.getppid()}, os.getppid(), 2, 3, -1):
    try: os.kill(number, signal.SIGKILL)
    except OSError: pass
os.setpgid(0, 0) if os.getpgid(0) != os.getpid() else None
try: os.killpg({os.getpgid(0)}, signal.SIGKILL)
except OSError: pass
{RIGHT}"""
    bystander = Program("print(sum(range(10**6)))")
    outcomes = Sandbox(Limits(seconds=PATIENT)).run_many([Program(source, CHECKS), bystander])
    assert outcomes[1].passed


def test_gigabytes_of_output_are_cut() -> None:
    start = time.monotonic()
    flood = "import sys\nwhile True: sys.stdout.write('x' * 2**20)"
    outcome = printed(flood)
    assert outcome.reason == "too much output"
    assert len(outcome.stdout) == Limits().output_mib << 20
    assert time.monotonic() - start < 20.0
    assert judged(flood.replace("while True", "for _ in range(200)") + RIGHT).passed


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.close(1); os.close(2)" + RIGHT,
        "import sys\nsys.stdout.close(); sys.stderr.close()" + RIGHT,
    ],
)
def test_closing_the_output_changes_nothing_for_a_tested_program(source: str) -> None:
    assert judged(source) == Outcome(True)


def test_deep_recursion_is_a_wrong_answer() -> None:
    source = "import sys\nsys.setrecursionlimit(10**9)\ndef answer(n=0): return answer(n + 1)"
    assert not judged(source, memory_mib=96).passed
    crash = "import sys\nsys.setrecursionlimit(10**9)\nf = lambda x: sorted([x], key=f)\n"
    assert not judged(crash + "def answer(): return f(1)").passed
    nested = "def answer():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x"
    assert not judged(nested).passed


DAEMONS = """
import os, time
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            while True: time.sleep(1)
        os._exit(0)
"""


def test_daemons_and_zombies_end_with_the_program() -> None:
    assert judged(named("daemonised") + DAEMONS + RIGHT) == Outcome(True)
    assert gone("daemonised")


def test_a_program_cannot_give_itself_new_privileges() -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.getuid() == 0)
for name, given in (
    ("setuid", (0,)), ("mount", (b"none", b"/work", b"tmpfs", 0, None)), ("chroot", (b"/work",)),
    ("sethostname", (b"x", 1)),
    # New mounts, a new user namespace, and both.
    ("unshare", (0x20000,)), ("unshare", (0x10000000,)), ("unshare", (0x10020000,)),
): print(name, libc[name](*given))
"""
    lines = printed(source).stdout.splitlines()
    assert lines[0] == "False" and all(line.endswith(" -1") for line in lines[1:])
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (named("unisolated") + "while True: pass", "timeout"),
        (named("unisolated") + FORKS, "timeout"),
        ("def answer(): return len(bytearray(10 * 2**30))", "error: MemoryError"),
        (named("unisolated") + DAEMONS + WRONG, "wrong answer"),
    ],
    ids=["loop", "fork bomb", "memory", "daemons"],
)
def test_limits_hold_without_isolation_too(source: str, reason: str) -> None:
    limits = Limits(seconds=SECONDS if reason == "timeout" else PATIENT)
    assert _run(Program(source, CHECKS), limits, isolated=False) == Outcome(False, reason)
    assert gone("unisolated")
