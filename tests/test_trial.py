from __future__ import annotations

import os
import sys

import pytest

from forkd.errors import StartError
from forkd.supervisor import trial
from forkd.supervisor.estate import VARIABLE

TRACEBACK = """\
Traceback (most recent call last):
  File "/usr/bin/forkd", line 8, in <module>
    sys.exit(main())
  File "/lib/forkd/worker.py", line 31, in main
    raise RuntimeError("no moon")
RuntimeError: no moon
"""
SYNTAX = """\
  File "/lib/forkd/worker.py", line 7
    def broken(:
               ^
SyntaxError: invalid syntax
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("\n\n", ""),
        ("forkd: cannot start: no place\n", "cannot start: no place"),
        ("forkd: f.toml:1: a\nforkd: f.toml:2: b\n", "f.toml:1: a\nf.toml:2: b"),
        (TRACEBACK, "RuntimeError: no moon (/lib/forkd/worker.py, line 31)"),
        (SYNTAX, "SyntaxError: invalid syntax (/lib/forkd/worker.py, line 7)"),
    ],
)
def test_last_words(text: str, words: str) -> None:
    assert trial.last_words(text) == words


def run(code: str) -> dict[str, str]:
    document = os.memfd_create("test")
    os.write(document, b"an estate")
    try:
        return trial.run([sys.executable, "-c", code], document)
    finally:
        os.close(document)


def test_a_program_reads_the_estate_and_tells_its_version() -> None:
    code = f"""
import os
assert os.pread(int(os.environ[{VARIABLE!r}]), 99, 0) == b"an estate"
print('{{"version": "7"}}')
"""
    assert run(code) == {"version": "7"}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(4)", "status 4"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("raise SystemExit('forkd: in use')", "in use"),
        ("print('ready')", "does not know of upgrades"),
        ("print('[1]')", "does not know of upgrades"),
        ("", "does not know of upgrades"),
    ],
)
def test_any_other_end_is_a_refusal(code: str, why: str) -> None:
    with pytest.raises(StartError, match=why):
        run(code)


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_TIMEOUT", 0.2)
    with pytest.raises(StartError, match="did not get ready"):
        run("import time; time.sleep(3600)")


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(StartError, match="No such file"):
        trial.run(["/none/forkd"], 0)
