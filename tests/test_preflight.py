"""What a configuration needs of the machine: flaws that refuse it, warnings that do not."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from forkd.config import Config, Server
from forkd.errors import ConfigError
from forkd.serving import tlscontext
from forkd.supervisor import preflight


def write(folder: Path, text: str) -> str:
    """A configuration whose own folders can be, unless `text` says otherwise."""
    sections = {
        "server": [
            f'state_dir = "{folder}/state"',
            f'runtime_dir = "{folder}/run"',
            f'pidfile = "{folder}/run/forkd.pid"',
        ],
        "listen": ['native = ["127.0.0.1:0"]'],
        "storage": [f'path = "{folder}/files"'],
    }
    name = ""
    for line in text.format(folder).splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            continue
        lines = sections.setdefault(name, [])
        key = line.partition(" ")[0]
        sections[name] = [old for old in lines if old.partition(" ")[0] != key] + [line]
    file = folder / "forkd.toml"
    file.write_text("".join(f"[{n}]\n" + "\n".join(ls) + "\n" for n, ls in sections.items()))
    return str(file)


def refused(folder: Path, text: str, *rules: preflight.Rule) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ConfigError) as error:
        preflight.load(path, *rules)
    return [problem.removeprefix(f"{path}:") for problem in error.value.problems]


def test_what_can_be_served_has_neither(tmp_path: Path) -> None:
    text = '[log]\nfile = "{0}/log"\n[commands.list]\nexec = ["ls"]\n'
    checked = preflight.load(write(tmp_path, text), preflight.certificate)
    assert checked.warnings == []
    assert checked.config.commands["list"].exec == ("ls",)
    assert sorted(os.listdir(tmp_path)) == ["forkd.toml"]


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ('[server]\nuser = "no-such-user"\n', "server.user", "there is no user"),
        (
            '[server]\nuser = "root"\ngroup = "no-such-group"\n',
            "server.group",
            "there is no group",
        ),
        ('[log]\nfile = "{0}/no/log"\n', "log.file", "the folder "),
        ('[log]\nfile = "{0}"\n', "log.file", "is a folder"),
        ('[log]\nfile = "{0}/forkd.toml/log"\n', "log.file", "is not a folder"),
        ('[storage]\npath = "{0}/forkd.toml"\n', "storage.path", "cannot be a folder"),
        ('[storage]\npath = "{0}/forkd.toml/a/b"\n', "storage.path", "forkd.toml is none"),
        ('[server]\nstate_dir = "/dev/null/x"\n', "server.state_dir", "/dev/null is none"),
        ('[server]\nruntime_dir = "/dev/null/x"\n', "server.runtime_dir", "/dev/null is none"),
        ('[listen]\nnative = ["unix:{0}/no/x"]\n', "listen.native", "the folder "),
    ],
)
def test_what_a_start_would_be_refused_for(
    tmp_path: Path, text: str, key: str, reason: str
) -> None:
    (problem,) = refused(tmp_path, text)
    assert problem.split(": ")[1] == key
    assert reason in problem


def test_flaws_of_text_and_machine_are_told_together(tmp_path: Path) -> None:
    text = '[server]\nuser = "no-such-user"\nworkers = -1\n[log]\nfile = "{0}/no/log"\nlevel = 1\n'
    found = refused(tmp_path, text)
    assert [problem.split(": ")[1] for problem in found] == [
        "server.user",
        "server.workers",
        "log.file",
        "log.level",
    ]


def test_a_unix_listener_in_a_folder_that_will_be_made(tmp_path: Path) -> None:
    text = '[listen]\nnative = ["unix:{0}/run/forkd.sock"]\n'
    assert preflight.load(write(tmp_path, text)).warnings == []


def test_a_program_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    text = '[commands.a]\nexec = ["no-such-program"]\n[commands.b]\nexec = ["{0}/plain"]\n'
    path = write(tmp_path, text)
    one, two = preflight.load(path).warnings
    assert one.startswith(f"{path}:")
    assert "commands.a.exec: there is no program 'no-such-program'" in one
    assert "/usr/bin" in one
    assert f"commands.b.exec: there is no program '{tmp_path}/plain'" in two


def test_a_pidfile_without_a_folder_is_a_warning(tmp_path: Path) -> None:
    (warning,) = preflight.load(write(tmp_path, '[server]\npidfile = "{0}/no/pid"\n')).warnings
    assert "server.pidfile: the folder " in warning


FILES = '[tls]\nmode = "files"\ncert = "{0}/tls/cert.pem"\nkey = "{0}/tls/key.pem"\n'


def test_certificate_files_that_are_missing(tmp_path: Path) -> None:
    found = refused(tmp_path, FILES, preflight.certificate)
    assert [problem.split(": ")[1] for problem in found] == ["tls.cert", "tls.key"]
    assert all("there is no file" in problem for problem in found)


def test_certificate_files_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    tlscontext.ensure_certificate(Config(server=Server(state_dir=str(tmp_path))))
    assert preflight.load(write(tmp_path, FILES), preflight.certificate).warnings == []
    (tmp_path / "tls" / "cert.pem").write_text("nothing")
    (problem,) = refused(tmp_path, FILES, preflight.certificate)
    assert "tls.cert" in problem
    assert "not a certificate and its key" in problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_seen_is_no_flaw() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        assert warned_as_nobody(folder) == 2
    finally:
        shutil.rmtree(folder)


def warned_as_nobody(folder: Path) -> int:
    """The number of warnings that a user hears who may not look into the folder `closed`."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "cert").write_text("x")
    folder.chmod(0o755)
    text = (
        '[storage]\npath = "{0}/closed/files"\n[log]\nfile = "{0}/closed/no/log"\n'
        '[tls]\nmode = "files"\ncert = "{0}/closed/cert"\nkey = "{0}/closed/cert"\n'
    )
    path = write(folder, text)
    pid = os.fork()
    if not pid:
        code = 70
        try:
            os.setuid(65534)
            code = len(preflight.load(path, preflight.certificate).warnings)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
