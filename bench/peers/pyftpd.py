"""pyftpdlib at its fastest: an event loop in a process for each processor, and sendfile.

`serve_forever(worker_processes=N)` forks after the loop was made, so its workers share an epoll and
take events from each other; here each has a loop of its own and the listening socket in common.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys

from bench.peers.ftp import PASSWORD, USER, Site


class Pyftpd:
    """See ftp.Server."""

    name = "pyftpdlib"
    durable = False

    def missing(self) -> str | None:
        for module in ("pyftpdlib", "OpenSSL"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        return None

    def command(self, site: Site) -> list[str]:
        first, last = site.passive_ports
        words = [site.port, site.home, site.cert, site.key, first, last]
        return [sys.executable, "-m", "bench.peers.pyftpd", *map(str, words)]

    def admit(self, site: Site) -> None:
        pass


def _serve(port: str, home: str, cert: str, key: str, first: str, last: str) -> None:
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import TLS_FTPHandler
    from pyftpdlib.log import config_logging
    from pyftpdlib.servers import FTPServer

    class Handler(TLS_FTPHandler):  # type: ignore[misc]
        authorizer = DummyAuthorizer()
        certfile, keyfile = cert, key
        passive_ports = range(int(first), int(last) + 1)
        banner = "Ready."

    config_logging(level=30)
    Handler.authorizer.add_user(USER, PASSWORD, home, perm="elradfmwMT")
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=1024)
    for _ in range((os.cpu_count() or 1) - 1):
        if os.fork() == 0:
            break
    server = FTPServer(listener, Handler)
    server.max_cons = server.max_cons_per_ip = 0
    server.serve_forever()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
