"""A server that speaks FTP alone."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from ftppeer import serving_ftp
from rig import PASSWORD


def test_no_native_listener_is_needed(folder: Path) -> None:
    with serving_ftp(folder, listen={"native": "[]"}) as site:
        peer = site.log_in()
        peer.stor("f", b"content")
        assert peer.retr("f") == b"content"
        status = site.daemon.ctl("status")
        assert status.returncode == 0, status.stderr
        assert f"127.0.0.1:{site.port}" in status.stdout
        assert "alice" in site.daemon.ctl("sessions").stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_client_can_check_the_certificate_that_was_made(folder: Path) -> None:
    with serving_ftp(folder, ftp={"tls": '"require"'}) as site:
        (folder / "f").write_bytes(b"content")
        name = socket.gethostname()
        command = ["curl", "-sS", "-m", "30", "--ssl-reqd", "-u", f"alice:{PASSWORD}"]
        command += ["--resolve", f"{name}:{site.port}:127.0.0.1"]
        certificate = ["--cacert", str(site.daemon.state / "tls" / "cert.pem")]
        url = ["-T", str(folder / "f"), f"ftp://{name}:{site.port}/f"]
        subprocess.run([*command, *certificate, *url], check=True)
        assert (site.daemon.home() / "f").read_bytes() == b"content"
        unchecked = subprocess.run([*command, *url], capture_output=True, text=True)
        assert "certificate" in unchecked.stderr
