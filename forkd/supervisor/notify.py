"""What a service manager is told over NOTIFY_SOCKET: sd_notify(3)."""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable, MutableMapping

PATIENCE = 1.0
"""Seconds in which a manager that is busy must take a message; what will be said again has none."""


class Notifier:
    """Tells the service manager how the daemon is; does nothing where there is none.

    A lost message is no reason to fail: the manager has deadlines of its own.  `watchdog` is the
    time in seconds within which the manager wants to hear `alive`; 0.0: it does not.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take NOTIFY_SOCKET and WATCHDOG_* out of the environment: no child speaks for the daemon.

        See sd_watchdog_enabled(3): the watchdog may be meant for another process.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = meant and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1e6 if wanted else 0.0)

    @property
    def heard(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload began; `ready` ends it.  MONOTONIC_USEC is CLOCK_MONOTONIC in microseconds."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, within: float) -> None:
        """The daemon stops, and may take `within` seconds for it whatever the manager allows."""
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}", 0.0)

    def alive(self) -> None:
        """To be told more often than every `watchdog` seconds."""
        self._send("WATCHDOG=1", 0.0)

    def store(self, name: str, listener: socket.socket) -> None:
        """Have the manager keep a socket open, and pass it to the next start."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))]
        text = f"FDSTORE=1\nFDNAME={name}".encode()
        self._with_socket(lambda sock: sock.sendmsg([text], rights, 0, self._address), PATIENCE)

    def forget(self, name: str) -> None:
        """Have the manager close what it stored under this name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, patience: float = PATIENCE) -> None:
        self._with_socket(lambda sock: sock.sendto(text.encode(), self._address), patience)

    def _with_socket(self, send: Callable[[socket.socket], int], patience: float) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(patience)
            try:
                send(sock)
            except OSError:
                pass
