from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd.config import Log as LogSettings
from forkd.log import open_log
from forkd.logs.transferline import TransferLine
from forkd.logs.xferlog import xferlog_line

LINE = TransferLine(
    time="",
    level="info",
    event="transfer",
    user="alice",
    address="192.0.2.1:5000",
    session="1-7",
    direction="up",
    path="/in/a.bin",
    bytes=4096,
    seconds=1.2,
    outcome="ok",
    door="ftp",
)
AT = 1_700_000_000.0
WORDS = 18


def told(**changes: Any) -> list[str]:
    """The words of the line, with these fields changed."""
    return xferlog_line(msgspec.structs.replace(LINE, **changes), AT).decode().split()


def test_a_line_is_what_xferlog_5_says() -> None:
    text = xferlog_line(LINE, AT).decode()
    when, rest = text[:24], text[24:]
    assert re.fullmatch(r"Tue Nov 14 \d\d:13:20 2023|Wed Nov 15 \d\d:13:20 2023", when)
    assert rest == " 2 192.0.2.1 4096 /in/a.bin b _ i r alice ftp 0 * c\n"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("[2001:db8::1]:5000", "2001:db8::1"),
        ("192.0.2.1:5000", "192.0.2.1"),
        ("unix:uid=1000", "unix:uid=1000"),
    ],
)
def test_the_host_has_no_port(address: str, host: str) -> None:
    assert told(address=address)[6] == host


def test_a_failed_download_of_the_native_door() -> None:
    words = told(direction="down", outcome="io-error", door="native", seconds=0.0)
    assert (words[5], words[11], words[14], words[17]) == ("1", "o", "forkd", "i")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a b", "/a_b"),
        ("/a\nb\t", "/a\\x0ab\\x09"),
        ("/ü\u3000", "/ü_"),
        ("/\udcff\x7f", "/\\xff\\x7f"),
        ("/\x1b[31m", "/\\x1b[31m"),
    ],
)
def test_names_are_one_word(path: str, shown: str) -> None:
    assert told(path=path)[8] == shown


@given(path=st.text(min_size=1, max_size=40), user=st.text(max_size=10))
def test_no_name_changes_the_number_of_words(path: str, user: str) -> None:
    line = xferlog_line(msgspec.structs.replace(LINE, path="/" + path, user=user), AT)
    assert line.count(b"\n") == 1
    assert len(line.decode().split()) == WORDS


def test_the_log_writes_it_beside_its_own_lines(tmp_path: Path) -> None:
    own, classic = tmp_path / "log", tmp_path / "xferlog"
    settings = LogSettings(file=str(own), xferlog=str(classic), transfers=False)
    log = open_log(settings)
    log.info("started")
    fields = msgspec.structs.asdict(LINE)
    for name in ("time", "level", "event"):
        del fields[name]
    log.transfer(size=fields.pop("bytes"), **fields)
    log.close()
    assert len(own.read_text().splitlines()) == 1
    assert classic.read_text().split()[8] == "/in/a.bin"
