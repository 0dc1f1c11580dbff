"""Many FTP sessions that do nothing cost next to nothing."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
from ftppeer import Site, serving_ftp
from torture import Tell, scale

MOST_BYTES = 25 * 1024


def memory(site: Site) -> int:
    """Bytes that the workers share with nobody."""
    total = 0
    for worker in site.daemon.workers():
        text = Path(f"/proc/{worker['pid']}/smaps_rollup").read_text()
        total += sum(int(kib) for kib in re.findall(r"Private_Dirty:\s+(\d+)", text))
    return total * 1024


@pytest.mark.torture
def test_an_idle_session_is_small(folder: Path, tell: Tell) -> None:
    count = scale(300, 10_000)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 1000:
        pytest.skip(f"{hard} descriptors do not suffice for {count} clients")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = {"sessions_per_user": '"unlimited"', "sessions_per_address": '"unlimited"'}
    with serving_ftp(folder, limits=many) as site:
        first = site.log_in()
        first.stor("f", b"warm")
        before = memory(site)
        peers = [site.log_in() for _ in range(count)]
        each = (memory(site) - before) / count
        tell(sessions=count, bytes_each=int(each))
        assert each < MOST_BYTES
        assert all(peer.ask("NOOP").startswith("200") for peer in (first, peers[0], peers[-1]))
