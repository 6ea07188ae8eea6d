"""A PostgreSQL server of the test's own, in a temporary folder, on a free port of the loopback interface."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from itertools import count
from pathlib import Path

PASSWORD = "s3cret-%40-word"  # as it stands in a URL
SETTINGS = "fsync=off synchronous_commit=off full_page_writes=off shared_buffers=32MB"  # nothing here must outlive a power cut


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None if there is none, or no user to run them (they refuse root)."""
    found = shutil.which("initdb")
    folders = (
        [Path(found).resolve().parent]
        if found
        else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    folder = next(
        (
            folder
            for folder in folders
            if (folder / "initdb").exists() and (folder / "postgres").exists()
        ),
        None,
    )
    return folder if folder and (os.getuid() != 0 or _user()) else None


class Cluster:
    """Runs a server. Its superuser has a password, and no connection goes without."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host, self._numbers = host, count()

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if os.getuid() == 0:
            os.chown(self.folder, _user().pw_uid, _user().pw_gid)
        self._run(
            "initdb",
            "-D",
            str(self.folder / "data"),
            "-U",
            "ablate",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        )
        self.port = free_port(self.host)
        options = [
            f"-c{setting}"
            for setting in [
                *SETTINGS.split(),
                f"listen_addresses={self.host}",
                f"unix_socket_directories={self.folder}",
            ]
        ]
        self.options = ["-D", str(self.folder / "data"), "-p", str(self.port), *options]
        self.start()
        self.execute(f"ALTER USER ablate PASSWORD '{PASSWORD.replace('%40', '@')}'")
        (self.folder / "data" / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\n"
        )
        self.execute("SELECT pg_reload_conf()")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        options = " ".join(self.options[2:])
        self._run(
            "pg_ctl",
            "-D",
            str(self.folder / "data"),
            "-w",
            "-l",
            str(self.folder / "log"),
            "-o",
            options,
            "start",
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def execute(self, statement: str, database: str = "postgres") -> list[list[str]]:
        """Rows of what psql prints, through the socket."""
        command = [
            "-h",
            str(self.folder),
            "-p",
            str(self.port),
            "-U",
            "ablate",
            "-d",
            database,
            "-At",
            "-c",
            statement,
        ]
        done = self._run("psql", *command)
        return [line.split("|") for line in done.splitlines()]

    def database(self) -> str:
        """The URL of a new database, with the password in it."""
        name = f"study{next(self._numbers)}{secrets.token_hex(2)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://ablate:{PASSWORD}@{self.host}:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> str:
        user = (
            {"user": _user().pw_uid, "group": _user().pw_gid, "extra_groups": []}
            if os.getuid() == 0
            else {}
        )
        command = [str(programs() / program), *arguments]
        done = subprocess.run(command, cwd="/", env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **user)  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None
