from __future__ import annotations

import msgspec

from forkd.config import Config, parse
from forkd.supervisor.reload import (
    RESTART_ONLY,
    WORKERS_MAX,
    effective,
    spec_of,
    summary,
    worker_count,
)

OTHER = """
[server]
workers = 3
state_dir = "/elsewhere"
watchdog_timeout = "9s"
[listen]
native = ["127.0.0.1:1"]
[storage]
path = "/elsewhere"
durability = "full"
[accounts]
max = 7
[register]
enabled = true
[commands.df]
exec = ["df"]
"""


def test_what_is_shared_by_generations_stays() -> None:
    old, new = Config(), parse(OTHER, "x.toml")
    mixed = effective(old, new)
    for key in RESTART_ONLY:
        section, name = key.split(".")
        assert getattr(getattr(mixed, section), name) == getattr(getattr(old, section), name)
    assert mixed.server.workers == 3
    assert mixed.storage.durability == "full"
    assert mixed.commands == new.commands
    assert mixed.source == "x.toml"


def test_the_summary_names_every_change_and_when_it_comes() -> None:
    old = Config()
    changed, later = summary(old, parse(OTHER, "x.toml"))
    assert changed == (
        "changed: server.workers 0 -> 3, server.watchdog_timeout 30s -> 9s, "
        "listen.native [0.0.0.0:3675, [::]:3675, unix:/run/forkd/forkd.sock] -> [127.0.0.1:1], "
        "storage.durability group -> full, register.enabled false -> true, commands.df added"
    )
    assert later == (
        "needs a restart (unchanged until then): server.state_dir /var/lib/forkd -> /elsewhere, "
        "storage.path /srv/forkd -> /elsewhere, accounts.max 10000 -> 7"
    )


def test_sizes_are_shown_as_people_write_them() -> None:
    new = parse('[quota]\ndefault = "unlimited"\n[log]\nfile = "/x"\n', "")
    assert summary(Config(), new) == [
        'changed: quota.default 1.0 GiB -> unlimited, log.file "" -> /x'
    ]


def test_a_secret_that_changed_is_not_shown() -> None:
    text = '[hooks.a]\nurl="http://h/"\nsecret="{}"\n'
    old, new = parse(text.format("first"), ""), parse(text.format("second"), "")
    assert summary(old, new) == ["changed: hooks.a.secret changed"]
    assert summary(parse("", ""), new) == ["changed: hooks.a added"]


def test_commands_are_compared_one_by_one() -> None:
    old = parse('[commands.a]\nexec=["x"]\n[commands.b]\nexec=["x"]\n', "")
    new = parse('[commands.b]\nexec=["x"]\ntimeout=5\n', "")
    assert summary(old, new) == ["changed: commands.a removed, commands.b.timeout 30s -> 5s"]


def test_no_change_is_said_too() -> None:
    assert summary(Config(), Config()) == ["changed: nothing"]


def test_who_should_run() -> None:
    full = spec_of(parse(OTHER, ""))
    assert full.workers == 3
    assert set(full.helpers) == {"runner", "exporter"}
    quiet = msgspec.structs.replace(Config(), metrics=Config().metrics.__class__(listen=""))
    assert spec_of(quiet).helpers == ()
    assert 1 <= worker_count(0) <= WORKERS_MAX
