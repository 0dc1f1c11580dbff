"""vsftpd with a local user, whom PAM knows by a shadow file.

The user, the shadow file and the PAM service are this server's alone: it runs in a mount namespace
where they lie over those of the machine.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from bench.peers.ftp import UID, USER, Site, crypted, missing_programs, program

_CONFIG = """\
listen=YES
listen_address=127.0.0.1
listen_port={port}
background=NO
anonymous_enable=NO
local_enable=YES
write_enable=YES
chroot_local_user=YES
allow_writeable_chroot=YES
secure_chroot_dir={folder}/empty
pam_service_name=vsftpd
session_support=NO
tcp_wrappers=NO
use_sendfile=YES
xferlog_enable=NO
max_clients=0
max_per_ip=0
pasv_min_port={first}
pasv_max_port={last}
ssl_enable=YES
force_local_logins_ssl=NO
force_local_data_ssl=NO
ssl_sslv2=NO
ssl_sslv3=NO
ssl_ciphers=HIGH
rsa_cert_file={cert}
rsa_private_key_file={key}
"""
_PAM = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n"


class Vsftpd:
    """See ftp.Server."""

    name = "vsftpd"
    durable = False

    def missing(self) -> str | None:
        return missing_programs("vsftpd", "unshare")

    def command(self, site: Site) -> list[str]:
        folder = site.folder
        (folder / "empty").mkdir()
        config = folder / "vsftpd.conf"
        first, last = site.passive_ports
        values = {"port": site.port, "folder": folder, "cert": site.cert, "key": site.key}
        config.write_text(_CONFIG.format(first=first, last=last, **values))
        own = _private_etc(site)
        mounts = [f"mount --bind {shlex.quote(str(path))} /etc/{path.name}" for path in own]
        start = f"exec {program('vsftpd')} {shlex.quote(str(config))}"
        shell = " && ".join([*mounts, start])
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", shell]

    def admit(self, site: Site) -> None:
        pass


def _private_etc(site: Site) -> list[Path]:
    """What lies over the files of the same names in /etc."""
    passwd, shadow, pam = (site.folder / name for name in ("passwd", "shadow", "pam.d"))
    user = f"{USER}:x:{UID}:{UID}::{site.home}:/bin/sh\n"
    passwd.write_text(Path("/etc/passwd").read_text() + user)
    shadow.write_text(f"{USER}:{crypted()}:19000:0:99999:7:::\n")
    pam.mkdir()
    (pam / "vsftpd").write_text(_PAM)
    return [passwd, shadow, pam]
