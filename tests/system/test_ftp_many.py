"""Many FTP sessions that do nothing cost next to nothing."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
from ftppeer import FtpPeer, Site, client_context, serving_ftp
from torture import Tell, scale

MOST_BYTES = 25 * 1024
MOST_BOUND_BYTES = 64 * 1024
"""Under TLS, where each control connection has a context of its own (ftp.data_session)."""


def memory(site: Site) -> int:
    """Bytes that the workers share with nobody."""
    total = 0
    for worker in site.daemon.workers():
        text = Path(f"/proc/{worker['pid']}/smaps_rollup").read_text()
        total += sum(int(kib) for kib in re.findall(r"Private_Dirty:\s+(\d+)", text))
    return total * 1024


@pytest.mark.torture
@pytest.mark.parametrize(
    ("tls", "count", "most"),
    [
        ("", scale(300, 10_000), MOST_BYTES),
        ("bound", scale(100, 2500), MOST_BOUND_BYTES),
        ("unbound", scale(100, 2500), MOST_BYTES),
    ],
    ids=["plain", "tls-bound", "tls-unbound"],
)
def test_an_idle_session_is_small(
    folder: Path, tls: str, count: int, most: int, tell: Tell
) -> None:
    """Unbound: data connections need not resume, so that all sessions share one TLS context."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 1000:
        pytest.skip(f"{hard} descriptors do not suffice for {count} clients")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = {"sessions_per_user": '"unlimited"', "sessions_per_address": '"unlimited"'}
    ftp = {"data_session": '"off"' if tls == "unbound" else '"require"'}
    context = client_context()

    def enter(site: Site) -> FtpPeer:
        if not tls:
            return site.log_in()
        return site.connect(context=context).secure().log_in()

    with serving_ftp(folder, limits=many, ftp=ftp) as site:
        first = [enter(site) for _ in range(4)]  # of both workers
        first[0].stor("f", b"warm")
        before = memory(site)
        peers = [enter(site) for _ in range(count)]
        each = (memory(site) - before) / count
        tell(sessions=count, bytes_each=int(each))
        assert each < most
        assert all(peer.ask("NOOP").startswith("200") for peer in (*first, peers[0], peers[-1]))
        assert enter(site).retr("f") == b"warm"
