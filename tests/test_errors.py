from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from forkd.errors import (
    CODE_INDEX,
    CODES,
    ConfigError,
    Fault,
    FrameError,
    Refusal,
    from_oserror,
)
from forkd.protocol import META_MAX

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"


def test_the_codes_are_those_of_the_document() -> None:
    table = PAGE.read_text().partition("\n## Errors")[2].partition("\n## Notices")[0]
    documented = {}
    for codes, retry in re.findall(r"^\| ([a-z, -]+) \| (yes|no) \|", table, re.MULTILINE):
        documented |= dict.fromkeys(codes.split(", "), retry == "yes")
    assert documented == {code: retry for code, (_, retry) in CODES.items()}


@pytest.mark.parametrize("code", CODES)
def test_a_refusal_knows_its_fault(code: str) -> None:
    refusal = Refusal(code, "no")
    assert (refusal.fault, refusal.retry) == CODES[code]
    assert isinstance(refusal.fault, Fault)
    assert (refusal.code, refusal.message, str(refusal)) == (code, "no", "no")


def test_a_code_nobody_defined_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        Refusal("no-such-code", "x")


def test_order_of_the_counters() -> None:
    assert list(CODE_INDEX) == list(CODES)
    assert list(CODE_INDEX.values()) == list(range(len(CODES)))


def test_other_errors() -> None:
    assert FrameError("x").code == "bad-frame"
    error = ConfigError(["a:1: b", "a:2: c"])
    assert str(error) == "a:1: b\na:2: c"
    assert error.problems == ["a:1: b", "a:2: c"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "not-found"),
        (errno.ENOSPC, "no-space"),
        (errno.EXDEV, "outside"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "io-error"),
        (0, "io-error"),
    ],
)
def test_errors_of_the_machine(number: int, code: str) -> None:
    refusal = from_oserror(OSError(number, "x"), "a/{b}")
    assert refusal.code == code
    assert "{what}" not in refusal.message


def test_real_errors_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        os.open(tmp_path / "x", os.O_RDONLY)
    refusal = from_oserror(missing.value, "x")
    assert (refusal.code, refusal.message) == ("not-found", "there is no 'x'")
    with pytest.raises(NotADirectoryError) as no_folder:
        os.open("/dev/null/x", os.O_RDONLY)
    assert from_oserror(no_folder.value, "").code == "not-a-folder"
    assert "the account's folder" in from_oserror(no_folder.value, "").message


def test_a_long_name_does_not_burst_the_answer() -> None:
    refusal = from_oserror(FileNotFoundError(errno.ENOENT, "x"), "\U000e0001" * 4096)
    assert len(refusal.message.encode()) < META_MAX / 2
