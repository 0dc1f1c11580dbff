"""Pure-FTPd with a virtual user in a PureDB.

`pure-pw useradd` would hash the password so that a log-in takes seconds; PureDB takes hashes of
crypt(3) too, as pure-pwconvert writes them.
"""

from __future__ import annotations

import subprocess

from bench.peers.ftp import UID, USER, Site, crypted, missing_programs, program


class PureFtpd:
    """See ftp.Server."""

    name = "pure-ftpd"
    durable = False

    def missing(self) -> str | None:
        return missing_programs("pure-ftpd", "pure-pw")

    def command(self, site: Site) -> list[str]:
        first, last = site.passive_ports
        options = {
            "login": f"puredb:{self._users(site)}",
            "bind": f"127.0.0.1,{site.port}",
            "passiveportrange": f"{first}:{last}",
            "tls": "1",
            "certfile": f"{site.cert},{site.key}",
            "pidfile": f"{site.folder}/pid",
            "maxclientsnumber": "2000",
            "syslogfacility": "none",
            "limitrecursion": "100000:10",
        }
        flags = ["noanonymous", "chrooteveryone", "dontresolve"]
        told = [f"--{name}={value}" for name, value in options.items()]
        return [str(program("pure-ftpd")), *told, *(f"--{flag}" for flag in flags)]

    def _users(self, site: Site) -> str:
        """The database's path."""
        text, database = site.folder / "users", site.folder / "users.pdb"
        text.write_text(f"{USER}:{crypted()}:{UID}:{UID}::{site.home}/./::::::::::::\n")
        command = [str(program("pure-pw")), "mkdb", str(database), "-f", str(text)]
        subprocess.run(command, check=True, capture_output=True)
        return str(database)

    def admit(self, site: Site) -> None:
        pass
