"""Hosts in network namespaces of their own, where this machine lets one make them; else all on the loopback interface."""

from __future__ import annotations

import os
import subprocess

ADDRESS = "10.213.{}.{}"


class Network:
    """`address` is where servers listen; `host(i)` is what a command of host i begins with."""

    def __init__(self, n: int):
        self.name, self.n = f"ab{os.getpid() % 100000}", n
        self.address, self.is_real = "127.0.0.1", False

    def __enter__(self) -> Network:
        subnet = os.getpid() % 250
        try:
            self._ip(f"link add {self.name} type bridge")
            self._ip(f"addr add {ADDRESS.format(subnet, 1)}/24 dev {self.name}")
            self._ip(f"link set {self.name} up")
            for i in range(self.n):
                inside = f"{self.name}n{i}"
                self._ip(f"netns add {inside}")
                self._ip(f"link add {self.name}v{i} type veth peer name eth0 netns {inside}")
                self._ip(f"link set {self.name}v{i} master {self.name} up")
                self._ip(f"-n {inside} addr add {ADDRESS.format(subnet, i + 2)}/24 dev eth0")
                self._ip(f"-n {inside} link set eth0 up")
                self._ip(f"-n {inside} link set lo up")
        except (OSError, subprocess.CalledProcessError):
            self._clear()
        else:
            self.address, self.is_real = ADDRESS.format(subnet, 1), True
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def host(self, i: int) -> list[str]:
        return ["ip", "netns", "exec", f"{self.name}n{i}"] if self.is_real else []

    def connect(self, i: int, is_connected: bool) -> None:
        """Put the host's cable in, or pull it out."""
        self._ip(f"link set {self.name}v{i} {'up' if is_connected else 'down'}")

    def _clear(self) -> None:
        for command in [*(f"netns del {self.name}n{i}" for i in range(self.n)), *(f"link del {self.name}v{i}" for i in range(self.n)), f"link del {self.name}"]:
            try:
                self._ip(command)
            except (OSError, subprocess.CalledProcessError):
                pass

    def _ip(self, command: str) -> None:
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)
