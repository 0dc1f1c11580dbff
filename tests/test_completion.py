"""Completion, asked of real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forkd.admin.completion import PROGRAMS, SHELLS, script

BASH = shutil.which("bash")
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
complete -p "$1" | grep -q -- -F || exit 9
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function "$1" "${!#}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def completed(tmp_path: Path, *words: str, path: str = "") -> list[str]:
    """What bash offers for the last word."""
    file = tmp_path / words[0]
    file.write_text(script("bash", words[0]))
    assert BASH is not None
    asked = subprocess.run(
        [BASH, "--norc", "-i", "-c", ASK, "bash", str(file), *words],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{path or Path(sys.executable).parent}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.split()


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("forkctl", "ki"), {"kick"}),
        (("forkctl", "un"), {"undrain"}),
        (("forkctl", "loglevel", ""), {"debug", "info", "warning", "error"}),
        (("forkctl", "sessions", "--sort", ""), {"rate", "user", "age", "done"}),
        (("forkctl", "sessions", "--st"), {"--state"}),
        (("forkctl", "user", "pa"), {"passwd"}),
        (("forkctl", "completion", "f"), {"fish"}),
        (("forkd", "check"), {"check-config"}),
        (("forkd", "serve", "--d"), {"--daemon"}),
        (("forkc", "mk"), {"mkdir"}),
        (("forkc", "put", "--rec"), {"--recursive"}),
    ],
)
def test_bash_offers_what_the_grammar_knows(
    tmp_path: Path, words: tuple[str, ...], offered: set[str]
) -> None:
    assert set(completed(tmp_path, *words)) == offered


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
def test_bash_offers_files_sessions_and_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    ctl = fake / "forkctl"
    ctl.write_text(
        "#!/bin/sh\ncase $1 in\n"
        "sessions) echo ID USER; echo 3-73bb-1 alice; echo 4-73bc-9 bob; echo 2 sessions, 0;;\n"
        "user) echo NAME ID; echo alice 1; echo bob 2;;\nesac\n".replace("\\\n", "\n")
    )
    ctl.chmod(0o755)
    (tmp_path / "site.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert completed(tmp_path, "forkctl", "kick", "3-", path=str(fake)) == ["3-73bb-1"]
    assert completed(tmp_path, "forkctl", "user", "show", "", path=str(fake)) == ["alice", "bob"]
    assert completed(tmp_path, "forkctl", "top", "--user", "b", path=str(fake)) == ["bob"]
    assert "site.toml" in completed(tmp_path, "forkctl", "-c", "si", path=str(fake))


FISH = shutil.which("fish")


@pytest.mark.skipif(FISH is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("forkctl ki", ["kick"]),
        ("forkctl loglevel d", ["debug"]),
        ("forkctl sessions --wi", ["--wide"]),
        ("forkd check", ["check-config"]),
        ("forkc mk", ["mkdir"]),
    ],
)
def test_fish_offers_the_same(tmp_path: Path, line: str, offered: list[str]) -> None:
    program = line.split()[0]
    file = tmp_path / "script"
    file.write_text(script("fish", program))
    assert FISH is not None
    asked = subprocess.run(
        [FISH, "--no-config", "-c", f"source {file}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert asked.returncode == 0, asked.stderr
    assert [word.split("\t")[0] for word in asked.stdout.splitlines()] == offered


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_other_shells_can_read_their_scripts(tmp_path: Path, shell: str, program: str) -> None:
    text = script(shell, program)
    assert program in text
    interpreter = shutil.which(shell)
    if interpreter is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(text)
    check = subprocess.run([interpreter, "-n", file], capture_output=True, text=True, timeout=60)
    assert (check.returncode, check.stderr) == (0, "")
