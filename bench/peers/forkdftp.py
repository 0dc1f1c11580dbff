"""forkd's FTP door: folders, ports, certificate and durability are told, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench import processes
from bench.peers.ftp import PASSWORD, USER, Site

_BIN = Path(sys.executable).parent
_CONFIG = """\
[server]
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
pidfile = "{folder}/run/forkd.pid"
[listen]
native = ["127.0.0.1:{native}"]
ftp = ["127.0.0.1:{port}"]
[tls]
mode = "files"
cert = "{cert}"
key = "{key}"
[ftp]
tls = "allow"
passive_ports = "{first}-{last}"
[storage]
path = "{folder}/data"
durability = "{durability}"
[metrics]
listen = ""
"""


class ForkdFtp:
    """See ftp.Server."""

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        self.name = "forkd, on the disk" if durable else "forkd"

    def missing(self) -> str | None:
        return None

    def command(self, site: Site) -> list[str]:
        first, last = site.passive_ports
        config = site.folder / "forkd.toml"
        config.write_text(
            _CONFIG.format(
                folder=site.folder,
                native=processes.free_port(),
                port=site.port,
                cert=site.cert,
                key=site.key,
                first=first,
                last=last,
                durability="group" if self.durable else "none",
            )
        )
        return [str(_BIN / "forkd"), "serve", "-c", str(config)]

    def admit(self, site: Site) -> None:
        command = ["user", "add", USER, "--password-stdin", "--quota", "unlimited"]
        subprocess.run(
            [_BIN / "forkctl", "-c", site.folder / "forkd.toml", *command],
            input=PASSWORD,
            text=True,
            check=True,
            capture_output=True,
        )
