"""ProFTPD with a virtual user in an AuthUserFile."""

from __future__ import annotations

from pathlib import Path

from bench.peers.ftp import UID, USER, Site, crypted, missing_programs, program

_CONFIG = """\
ModulePath {modules}
LoadModule mod_tls.c
LoadModule mod_tls_shmcache.c
ServerType standalone
DefaultServer on
DefaultAddress 127.0.0.1
Port {port}
User nobody
Group nogroup
UseIPv6 off
UseReverseDNS off
UseSendfile on
AuthOrder mod_auth_file.c
AuthUserFile {folder}/users
AuthGroupFile {folder}/groups
AuthPAM off
RequireValidShell off
DefaultRoot ~
AllowOverwrite on
AllowStoreRestart on
MaxInstances none
PassivePorts {first} {last}
WtmpLog off
TransferLog none
SystemLog none
ScoreboardFile {folder}/scoreboard
PidFile {folder}/pid
DelayEngine off
TLSEngine on
TLSRequired off
TLSProtocol TLSv1.2 TLSv1.3
TLSECCertificateFile {cert}
TLSECCertificateKeyFile {key}
TLSCACertificateFile {cert}
TLSSessionCache shm:/file={folder}/sessions
TLSLog none
"""


class Proftpd:
    """See ftp.Server."""

    name = "proftpd"
    durable = False

    def missing(self) -> str | None:
        reason = missing_programs("proftpd")
        if reason is None and not (_modules() / "mod_tls.so").exists():
            return "mod_tls is not installed (proftpd-mod-crypto)"
        return reason

    def command(self, site: Site) -> list[str]:
        folder = site.folder
        first, last = site.passive_ports
        files = {"folder": folder, "cert": site.cert, "key": site.key, "modules": _modules()}
        config = folder / "proftpd.conf"
        config.write_text(_CONFIG.format(port=site.port, first=first, last=last, **files))
        users, groups = folder / "users", folder / "groups"
        users.write_text(f"{USER}:{crypted()}:{UID}:{UID}::{site.home}:/bin/sh\n")
        groups.write_text(f"{USER}:x:{UID}:\n")
        for path in (users, groups):
            path.chmod(0o600)
        return [str(program("proftpd")), "--nodaemon", "--config", str(config)]

    def admit(self, site: Site) -> None:
        pass


def _modules() -> Path:
    """Beside the program: .../usr/sbin/proftpd, .../usr/lib/proftpd."""
    return Path(str(program("proftpd"))).parents[1] / "lib" / "proftpd"
