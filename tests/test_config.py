"""The configuration: what is read, and every kind of problem with its file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd import config
from forkd.config import Command, Config, Hook
from forkd.configrules import Flaw
from forkd.errors import ConfigError
from forkd.listen import ListenAddress

EXAMPLE = Path(__file__).parent.parent / "etc" / "forkd.toml"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        config.parse(text, "f.toml")
    return refused.value.problems


def test_the_example_is_the_built_in_default() -> None:
    assert config.default_text() == EXAMPLE.read_text()
    assert msgspec.structs.replace(config.load(str(EXAMPLE)), source="") == Config()
    assert config.parse("", "") == Config()


def test_the_example_has_every_key() -> None:
    text = EXAMPLE.read_text()
    optional = {"register": {"quota", "permissions"}}
    shown = tomllib.loads(text)
    for section, value in msgspec.structs.asdict(Config()).items():
        if section in ("source", "commands", "hooks"):
            continue
        keys = set(msgspec.structs.asdict(value)) - optional.get(section, set())
        assert set(shown[section]) == keys, section


def test_what_the_example_only_mentions_is_valid_too() -> None:
    text = re.sub(
        r"^# (quota = |permissions = |\[[ch]o|exec = |users = |timeout = |max_output = "
        r"|events = |concurrency = |give_up = |url = |secret = )",
        r"\1",
        EXAMPLE.read_text(),
        flags=re.MULTILINE,
    )
    read = config.parse(text, "f.toml")
    assert read.register.quota == 100 * 1024**2
    assert read.register.permissions == config.PERMISSIONS
    assert read.commands["df"] == Command(exec=("df", "-h"), users=("alice", "bob"))
    assert read.hooks["scan"] == Hook(exec=("/usr/local/bin/scan",))
    assert read.hooks["partner"] == Hook(
        url="https://partner.example/files", secret="a long random text"
    )


def test_values_of_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(
        """
        server.workers = 3
        [server]
        graceful_timeout = "2m"
        [listen]
        native = ["127.0.0.1:0", "127.0.0.1:0", "[::1]:70", "unix:/tmp/é.sock"]
        [quota]
        default = "unlimited"
        [register]
        quota = 5
        [metrics]
        listen = ""
        [log]
        transfers = false
        [commands.df-1]
        exec = ["/bin/df", "", "-h"]
        timeout = 1.5
        """.replace("server.workers = 3\n", "").replace("[server]", "[server]\nworkers = 3"),
        encoding="utf-8",
    )
    read = config.load(str(file))
    assert (read.server.workers, read.server.graceful_timeout) == (3, 120)
    assert read.listen.native == (
        ListenAddress("inet", "127.0.0.1", 0),
        ListenAddress("inet", "127.0.0.1", 0),
        ListenAddress("inet6", "::1", 70),
        ListenAddress("unix", "/tmp/é.sock", 0),
    )
    assert read.quota.default == "unlimited"
    assert read.register.quota == 5
    assert read.log.transfers is False
    assert read.commands["df-1"] == Command(exec=("/bin/df", "", "-h"), timeout=config.Seconds(1.5))
    assert read.source == str(file)
    with pytest.raises(AttributeError):
        read.server.workers = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[serve]\n", "f.toml:1: unknown section [serve] ([server]?)"),
        ("source = 'x'\n", "f.toml:1: source: stands in no section"),
        (
            "\n[limits]\nidle_timout = 1\n",
            "f.toml:3: limits.idle_timout: unknown key (idle_timeout?)",
        ),
        ("[server]\nzzz = 1\n", "f.toml:2: server.zzz: unknown key (known: workers, "),
        (
            "[server]\n# workers = 9\nworkers = 33\n",
            "f.toml:3: server.workers: must be a whole number, 0 to 32",
        ),
        ("[server]\nworkers = true\n", "f.toml:2: server.workers: must be a whole number, 0 to 32"),
        ("[server]\nworkers = '3'\n", "f.toml:2: server.workers: must be a whole number, 0 to 32"),
        ('[server]\nuser = "a\\u0000"\n', "f.toml:2: server.user: contains a NUL character"),
        ("[server]\nstate_dir = 'x'\n", "f.toml:2: server.state_dir: must be an absolute path"),
        ("[server]\nruntime_dir = 'x'\n", "f.toml:2: server.runtime_dir: must be an absolute"),
        ("[server]\npidfile = 'x'\n", "f.toml:2: server.pidfile: must be an absolute path"),
        ("[server]\ngroup = 'x'\n", "f.toml:2: server.group: is given without server.user"),
        ("[server]\nwatchdog_timeout = 0\n", "f.toml:2: server.watchdog_timeout: must be longer"),
        (
            "[server]\ngraceful_timeout = 'x'\n",
            "f.toml:2: server.graceful_timeout: 'x' is not a du",
        ),
        ("[server]\ngraceful_timeout = []\n", "f.toml:2: server.graceful_timeout: a duration is"),
        ("server = 3\n", "f.toml:1: server: must be a table [server]"),
        ("[[server]]\n", "f.toml:1: server: must be a table [server]"),
        ("server.workers = 99\n", "f.toml:1: server.workers: must be a whole number, 0 to 32"),
        (
            "\nserver = { workers = 99 }\n",
            "f.toml:2: server.workers: must be a whole number, 0 to 32",
        ),
        (
            '["server"]\n"workers" = 99\n',
            "f.toml:2: server.workers: must be a whole number, 0 to 32",
        ),
        ("[listen]\nnative = []\n", "f.toml:2: listen.native: names no address, and neither do"),
        ("[listen]\nnative = ['a']\n", "f.toml:2: listen.native: 'a' is not host:port"),
        ("[listen]\nnative = 'a'\n", "f.toml:2: listen.native: must be a list of texts"),
        ("[listen]\nnative = [1]\n", "f.toml:2: listen.native: must be a list of texts"),
        (
            "[listen]\nnative = ['1.1.1.1:1', '1.1.1.1:1']\n",
            "f.toml:2: listen.native: names the same",
        ),
        (
            "[listen]\nnative = ['1.1.1.1:1']\nftp = ['1.1.1.1:1']\n",
            "f.toml:2: listen.native: names what another door has: 1.1.1.1:1",
        ),
        ("[listen]\nftp = ['unix:/x']\n", "f.toml:2: listen.ftp: FTP needs host:port"),
        ("[listen]\nftps = ['0.0.0.0:990']\n[tls]\nmode = 'off'\n", "f.toml:2: listen.ftps: needs"),
        (
            "[listen]\nftp = ['0.0.0.0:21']\n[tls]\nmode = 'off'\n[ftp]\ntls = 'allow'\n",
            "f.toml:6: ftp.tls: must be 'off' where tls.mode is 'off'",
        ),
        ("[ftp]\ntls = 'on'\n", "f.toml:2: ftp.tls: must be one of off, allow, require"),
        ("[ftp]\npassive_ports = '1-2'\n", "f.toml:2: ftp.passive_ports: '1-2' is not a range"),
        ("[ftp]\nmasquerade_address = ['x']\n", "f.toml:2: ftp.masquerade_address: 'x' is not"),
        ("[tls]\nmode = 'on'\n", "f.toml:2: tls.mode: must be one of auto, files, off"),
        ("workers = 3\n", "f.toml:1: workers: stands in no section ([server]?)"),
        ("[storage2]\n", "f.toml:1: unknown section [storage2] ([storage]?)"),
        ("[[nope]]\n", "f.toml:1: unknown section [nope] (known: [server], [listen], "),
        ("[log]\nlevel = 'loud'\n", "f.toml:2: log.level: must be one of debug, info, warning, "),
        ("[log]\ntransfers = 'no'\n", "f.toml:2: log.transfers: must be true or false"),
        ("[log]\nfile = 1\n", "f.toml:2: log.file: must be a text, in quotes"),
        ("[quota]\ndefault = 'x'\n", "f.toml:2: quota.default: 'x' is not a size"),
        ("[limits]\nlogin_attempts = 1.5\n", "f.toml:2: limits.login_attempts: must be a whole "),
        (
            "[limits]\nsessions_per_user = 'x'\n",
            "f.toml:2: limits.sessions_per_user: must be a whole number, 0 to 1000000, or 'unlim",
        ),
        (
            "[limits]\nuser_bandwidth_up = 1023\n",
            "f.toml:2: limits.user_bandwidth_up: must be at least 1024 bytes a second",
        ),
        ("[limits]\nban_after = 33\n", "f.toml:2: limits.ban_after: must be a whole number, 0 to"),
        ("[limits]\nban_time = 0\n", "f.toml:2: limits.ban_time: must be longer than 0"),
        ("[register]\nquota = 'no'\n", "f.toml:2: register.quota: 'no' is not a size (exam"),
        ("[register]\npermissions = ['read', 3]\n", "f.toml:2: register.permissions: must be a"),
        ("[tls]\nmode = 'files'\nkey = '/k'\n", "f.toml:1: tls.cert: must name a PEM file"),
        ("[tls]\ncert = 'c'\n", "f.toml:2: tls.cert: must be an absolute path"),
        ("[storage]\npath = 'srv'\n", "f.toml:2: storage.path: must be an absolute path"),
        (
            "[storage]\ndurability = ''\n",
            "f.toml:2: storage.durability: must be one of full, group, none",
        ),
        ("[quota]\ndefault = 'much'\n", "f.toml:2: quota.default: 'much' is not a size"),
        ("[quota]\ndefault = -1\n", "f.toml:2: quota.default: a size is at least 0"),
        ("[quota]\ndefault = 1.5\n", "f.toml:2: quota.default: a size is a number of bytes"),
        ("[quota]\ndefault = 2000-01-01\n", "f.toml:2: quota.default: a size is a number of bytes"),
        ("[register]\npermissions = ['fly']\n", "f.toml:2: register.permissions: 'fly' is none of"),
        ("[limits]\nstall_timeout = 0\n", "f.toml:2: limits.stall_timeout: must be longer than 0"),
        ("[metrics]\nlisten = 'x'\n", "f.toml:2: metrics.listen: 'x' is not host:port"),
        ("[metrics]\nlisten = 'unix:/x'\n", "f.toml:2: metrics.listen: must be host:port, or ''"),
        (
            "[metrics]\nlisten = '0.0.0.0:3675'\n",
            "f.toml:2: metrics.listen: is an address of listen",
        ),
        ("[log]\nfile = 'x.log'\n", "f.toml:2: log.file: must be an absolute path"),
        ("\ncommands = 3\n", "f.toml:2: commands: must be tables such as [commands.df]"),
        ("[commands]\ndf = 3\n", "f.toml:2: commands.df: must be a table [commands.df]"),
        ("\n[commands.df]\n", "f.toml:2: commands.df.exec: is missing"),
        (
            "[commands.df]\nexec = []\n",
            "f.toml:2: commands.df.exec: must not be empty: it is a list of texts",
        ),
        ("[commands.df]\nexec = ['']\n", "f.toml:2: commands.df.exec: must begin with a bare"),
        ("[commands.df]\nexec = ['./x']\n", "f.toml:2: commands.df.exec: must begin with a bare"),
        (
            "[commands.df]\nexec = 'df -h'\n",
            "f.toml:2: commands.df.exec: must be a list of texts, such as",
        ),
        ('[commands.df]\nexec = ["a\\u0000"]\n', "f.toml:2: commands.df.exec: contains a NUL"),
        (
            "[commands.df]\nexec = ['x']\ntimeout = 0\n",
            "f.toml:3: commands.df.timeout: must be long",
        ),
        ("[commands.'a b']\nexec = ['x']\n", "f.toml:1: commands.a b: a name is 1 to 64"),
        ("hooks = 1\n", "f.toml:1: hooks: must be tables such as [hooks.scan]"),
        ("[hooks.a]\n", "f.toml:1: hooks.a: must have either `exec` or `url`"),
        (
            "[hooks.a]\nexec = ['x']\nurl = 'http://h/'\n",
            "f.toml:1: hooks.a: must have either `exec` or `url`",
        ),
        ("[hooks.'..']\nexec = ['x']\n", "f.toml:1: hooks...: a name is 1 to 64 letters"),
        ("[hooks.a]\nexec = ['./x']\n", "f.toml:2: hooks.a.exec: must begin with a bare"),
        ("[hooks.a]\nurl = 'ftp://h/'\n", "f.toml:2: hooks.a.url: must be such as https://"),
        ("[hooks.a]\nurl = 'http://h:x/'\n", "f.toml:2: hooks.a.url: must be such as https://"),
        ("[hooks.a]\nurl = 'http:///p'\n", "f.toml:2: hooks.a.url: must be such as https://"),
        (
            "[hooks.a]\nexec = ['x']\nsecret = 's'\n",
            "f.toml:3: hooks.a.secret: signs what is posted: it needs `url`",
        ),
        (
            "[hooks.a]\nexec = ['x']\nevents = ['moved']\n",
            "f.toml:3: hooks.a.events: 'moved' is none of published, removed, renamed",
        ),
        ("[hooks.a]\nexec = ['x']\nevents = []\n", "f.toml:3: hooks.a.events: must name some of"),
        ("[hooks.a]\nexec = ['x']\nusers = []\n", "f.toml:3: hooks.a.users: must name somebody"),
        ("[hooks.a]\nexec = ['x']\ngive_up = 0\n", "f.toml:3: hooks.a.give_up: must be longer"),
        (
            "[hooks.a]\nexec = ['x']\nconcurrency = 65\n",
            "f.toml:3: hooks.a.concurrency: must be a whole number, 1 to 64",
        ),
        ("[server]\n\nworkers = \n", "f.toml:3: is not TOML: Invalid value (column 11): workers ="),
        ("[server", "f.toml: is not TOML: "),
    ],
)
def test_a_problem_names_file_line_key_and_reason(text: str, problem: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_runtime_folder_too_long_for_sockets() -> None:
    longest = "/" + "x" * (config.RUNTIME_DIR_MAX - 1)
    config.parse(f"[server]\nruntime_dir = '{longest}'\n", "f.toml")
    reason = f"is too long for sockets: at most {config.RUNTIME_DIR_MAX} bytes"
    found = problems(f"[server]\nruntime_dir = '{longest}x'\n")
    assert found == [f"f.toml:2: server.runtime_dir: {reason}"]


def test_all_problems_are_told_at_once() -> None:
    text = (
        "[server]\nworkers = -1\nwrkrs = 1\n[quota]\ndefault = ''\n[nope]\n[commands.x]\nuser = 1\n"
    )
    found = problems(text)
    assert sorted(problem.split(": ")[0:2] for problem in found) == sorted(
        [
            ["f.toml:2", "server.workers"],
            ["f.toml:3", "server.wrkrs"],
            ["f.toml:5", "quota.default"],
            ["f.toml:6", "unknown section [nope] (known"],
            ["f.toml:8", "commands.x.user"],
            ["f.toml:7", "commands.x.exec"],
        ]
    )


def test_problems_come_in_the_order_of_the_text() -> None:
    found = problems("[limits]\nidle_timeout = 0\n[server]\nworkers = 'x'\ngroup = 'g'\n")
    assert [problem.split(": ")[:2] for problem in found] == [
        ["f.toml:2", "limits.idle_timeout"],
        ["f.toml:4", "server.workers"],
        ["f.toml:5", "server.group"],
    ]


def test_every_wrong_element_of_a_list_is_told() -> None:
    found = problems("[listen]\nnative = ['a', '1.1.1.1:1', 'unix:b']\n")
    assert len(found) == 2
    assert "'a' is not host:port" in found[0]
    assert "'unix:b'" in found[1]
    assert len(problems("[register]\npermissions = ['fly', 'read', 'swim']\n")) == 2


def test_files_mode_without_files_names_both() -> None:
    found = problems("[tls]\nmode = 'files'\n[log]\nlevel = 1\n")
    assert [problem.split(": ")[1] for problem in found] == ["tls.cert", "tls.key", "log.level"]


@pytest.mark.parametrize(
    "text",
    [
        "[listen]\nnative = ['x']\n[metrics]\nlisten = '0.0.0.0:3675'\n",
        "[server]\nuser = 1\ngroup = 'g'\n",
        "[tls]\nmode = 'files'\ncert = 1\nkey = '/k'\n",
        "listen = 1\n[metrics]\nlisten = '0.0.0.0:3675'\n",
        "[commands]\ndf = 1\n",
        "[commands.df]\nexec = 1\n",
    ],
)
def test_a_wrong_value_has_no_consequences_that_are_told(text: str) -> None:
    assert len(problems(text)) == 1


def test_further_rules_are_told_with_the_rest() -> None:
    def rule(read: Config) -> Iterator[Flaw]:
        yield Flaw("log.file", f"is not liked at level {read.log.level}", ("log.level",))
        yield Flaw("storage.path", "is not liked")

    with pytest.raises(ConfigError) as refused:
        config.parse("[log]\nfile = '/x'\nlevel = 'debug'\n[quota]\ndefault = 'x'\n", "f", rule)
    assert [problem.split(": ")[1] for problem in refused.value.problems] == [
        "storage.path",
        "log.file",
        "quota.default",
    ]
    with pytest.raises(ConfigError) as refused:
        config.parse("[log]\nlevel = 'loud'\n[storage]\npath = 3\n", "f", rule)
    assert [problem.split(": ")[1] for problem in refused.value.problems] == [
        "log.level",
        "storage.path",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match=re.escape(f"{missing}: cannot be read: No such file")):
        config.load(missing)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(str(tmp_path))
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"[server]\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        config.load(str(binary))


_values = st.recursive(
    st.booleans()
    | st.integers(-5, 2**63)
    | st.floats(allow_nan=False)
    | st.sampled_from(
        ["", "1", "1 GiB", "10s", "unlimited", "auto", "/x", "127.0.0.1:80", "list", "*"]
    ),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)
_keys = st.sampled_from(
    [
        f"{section}.{key}"
        for section, value in msgspec.structs.asdict(Config()).items()
        if section not in ("source", "commands", "hooks")
        for key in msgspec.structs.asdict(value)
    ]
    + ["commands.df.exec", "commands.df.users", "commands.df.timeout", "commands", "server", "nope"]
)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | int | float) else f'"{value}"'


@given(_keys, _values)
def test_any_value_of_any_key_is_taken_or_refused(key: str, value: object) -> None:
    text = f"\n{key} = {_toml(value)}\n"
    try:
        read = config.parse(text, "f.toml")
    except ConfigError as error:
        told = error.problems
    else:
        told = []
        assert isinstance(read, Config)
    for problem in told:
        assert problem.startswith(("f.toml:1: ", "f.toml:2: "))
