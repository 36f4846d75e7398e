"""The command line with one start of Python and its libraries for many commands: most of what a short job costs.

``python -m dplm2 ARGUMENTS`` runs here. If `OWNER` in the environment names a process, the first command starts a
server that has imported what such commands need, and each command is a fork of the server, with this process's
environment, folder, streams and signals. A server ends with its owner, or when nothing was asked of it for a while.
Where none can be started, the command runs in this process.

At the top only light modules of the standard library are imported.
"""

import contextlib
import fcntl
import hashlib
import importlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# In the environment: id of the process that the server lives for, or NEVER; with the suffix, only shards share a start.
OWNER, ONLY_SHARDS, NEVER = "DPLM2_SHARED_START", ":shards", "no"
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
IDLE_SECONDS = 30.0
START_SECONDS = 60.0
STREAMS = (0, 1, 2)
# Heavy modules that the commands of a server import while they run.
IMPORTED = {
    "structures": ("dplm2.structures.command", "dplm2.structures.shards", "dplm2.structures.tokenized", "pandas"),
    "networks": (
        *("dplm2.tokenizer.training", "dplm2.language.stages", "dplm2.generation.run"),
        *("dplm2.evaluation.benchmarks.job", "dplm2.evaluation.designs", "dplm2.report.writing"),
    ),
}
SERVER = {"structures": "structures"} | dict.fromkeys(
    ("tokenizer", "tokens", "model", "generate", "evaluate", "rank", "report", "score", "probe", "compare-probes"),
    "networks",
)
OF_SHARDS = (("structures", "fetch"), ("structures", "clean"), ("tokens", "encode"))
GPU_DRIVER = Path("/proc/driver/nvidia/version")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = _server_for(arguments)
    connection = _connected(name) if name else None
    status = None
    if connection is not None:
        with connection, contextlib.suppress(ConnectionError):
            status = _asked(connection, arguments)
    if status is None:
        from dplm2.cli import main as run

        status = run(arguments)
    return status


def _server_for(arguments: Sequence[str]) -> str | None:
    """The server that runs a command; None if it runs in this process."""
    owner = os.environ.get(OWNER, NEVER)
    # A process that has loaded the libraries of a GPU, or of other systems, cannot be forked safely.
    if owner == NEVER or not sys.platform.startswith("linux"):
        return None
    is_of_a_shard = any(pair in OF_SHARDS for pair in itertools.pairwise(arguments))
    if not is_of_a_shard and (owner.endswith(ONLY_SHARDS) or GPU_DRIVER.exists()):
        return None
    return next((SERVER[word] for word in arguments if word in SERVER), None)


def _asked(connection: socket.socket, arguments: list[str]) -> int | None:
    """Have the server run the command and return its status; None if the command was not begun.

    Signals are passed on to the command.
    """
    request = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], list(STREAMS))
    connection.sendall(request)
    with connection.makefile("r") as answers:
        child = answers.readline()
        if not child:
            return None
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: _send(int(child), number))
        try:
            status = answers.readline()
        except ConnectionError:
            status = ""
    if not status:
        print("dplm2: the command was killed, perhaps because memory ran out", file=sys.stderr)
    return int(status or 1)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _connected(name: str) -> socket.socket | None:
    """A connection to the server of this owner and command, which is started if need be; None where that fails."""
    try:
        path = _socket_path(name)
        with (path.parent / "lock").open("a") as lock:
            # One at a time, so that only one server is started; a server that ends holds the lock, too.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                return _connection(path)
            path.unlink(missing_ok=True)
            command = [sys.executable, "-m", "dplm2.shared_start", "--serve", str(path), name]
            null = subprocess.DEVNULL
            # In a session of its own: the terminal's signals reach a command once, by the process that asked.
            server = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
            return _connection_when_ready(path, server)
    except OSError:
        return None


def _connection_when_ready(path: Path, server: subprocess.Popen) -> socket.socket:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return _connection(path)
        time.sleep(0.01)
    raise OSError("the server has not started")


def _connection(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _socket_path(name: str) -> Path:
    """In a folder that only this user can use."""
    folder = Path(tempfile.gettempdir()) / f"dplm2-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(f"{folder}: others can use this folder")
    # Libraries read the environment when they are imported.
    key = json.dumps([sys.executable, __file__, name, sorted(os.environ.items())])
    return folder / hashlib.sha256(key.encode()).hexdigest()[:16]


def serve(path: Path, name: str) -> None:
    """Fork a process for each connection, until the owner has ended or nothing was asked for a while."""
    from dplm2.cpu.process import prepare_process

    owner, children, idle_since = int(os.environ[OWNER].removesuffix(ONLY_SHARDS)), set(), time.monotonic()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1024)
        prepare_process()
        for module in IMPORTED[name]:
            importlib.import_module(module)
        if "torch" in sys.modules:
            from dplm2.cpu.torch_private import import_late_modules

            import_late_modules()
        while True:
            if select.select([listener], [], [], 0.5)[0]:
                children.add(_forked(listener))
            children -= set(_ended(children))
            if children:
                idle_since = time.monotonic()
            elif not _alive(owner) or time.monotonic() - idle_since > IDLE_SECONDS:
                with (path.parent / "lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if not select.select([listener], [], [], 0)[0]:
                        path.unlink(missing_ok=True)
                        return


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _ended(children: set[int]) -> Iterator[int]:
    for child in children:
        if os.waitpid(child, os.WNOHANG)[0]:
            yield child


def _forked(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            listener.close()
            status = _run(connection)
        finally:
            os._exit(status)
    connection.close()
    return child


def _run(connection: socket.socket) -> int:
    """The command that a connection asks for, in a process of its own."""
    header, streams, _, _ = socket.recv_fds(connection, 4, len(STREAMS))
    with connection.makefile("rb") as asked:
        arguments, folder, environment = json.loads(asked.read(int.from_bytes(header, "big")))
    for own, given in zip(STREAMS, streams, strict=True):
        os.dup2(given, own)
        os.close(given)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    connection.sendall(f"{os.getpid()}\n".encode())
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    from dplm2.cli import main as run

    try:
        status = run(arguments)
    except SystemExit as wrong_use:
        status = wrong_use.code if isinstance(wrong_use.code, int) else int(wrong_use.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(f"{status}\n".encode())
    return status


def _end_with(connection: socket.socket) -> None:
    """Do not outlive the process that asked."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())
