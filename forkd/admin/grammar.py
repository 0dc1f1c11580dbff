"""The command line of forkctl: commands, their options, and what carries each out."""

from __future__ import annotations

import argparse

from forkd import __version__
from forkd.accounts import DEFAULT
from forkd.admin import arguments, bans, check, completion, daemon, draining, quota, sessions, users
from forkd.admin import top as topping
from forkd.admin.exits import EXPLAINED, CtlError, Exit
from forkd.admin.looks import SORTS, STATES
from forkd.admin.site import CONFIG_VARIABLE, Site
from forkd.config import DEFAULT_PATH, PERMISSIONS, UNLIMITED

LEVELS = ("debug", "info", "warning", "error")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = argparse.ArgumentParser(
        prog="forkctl",
        description="Look at a running forkd, steer it, and manage its accounts.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"forkctl {__version__}")
    _add_global(top, config=None, socket=None, json=False)
    commands = _Commands(top)
    _looking(commands)
    _steering(commands)
    _users(commands)
    _quota(commands)
    _bans(commands)
    _completion(commands)
    return top


class _Commands:
    """Adds commands that also accept the global options behind their name."""

    def __init__(self, above: argparse.ArgumentParser) -> None:
        self._commands = above.add_subparsers(metavar="COMMAND", required=True)

    def add(self, name: str, run: object, summary: str, more: str = "") -> argparse.ArgumentParser:
        """`summary` stands in the list of commands, `more` in the command's own help too."""
        command = self._commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{'  ' if more else ''}{more}",
            allow_abbrev=False,
        )
        _add_global(command, **dict.fromkeys(("config", "socket", "json"), argparse.SUPPRESS))
        command.set_defaults(run=run)
        return command


def _add_global(
    to: argparse.ArgumentParser, *, config: object, socket: object, json: object
) -> None:
    to.add_argument(
        *("-c", "--config"),
        metavar="FILE",
        default=config,
        help=f"the daemon's configuration (else ${CONFIG_VARIABLE}, else {DEFAULT_PATH})",
    )
    to.add_argument(
        "--socket",
        metavar="PATH",
        default=socket,
        help="the control socket, or the folder it is in",
    )
    to.add_argument(
        "--json",
        action="store_true",
        default=json,
        help="results for programs (docs/forkctl-json.md)",
    )


def _looking(commands: _Commands) -> None:
    commands.add(
        *("status", daemon.status, "what runs, on one screen"),
        "The exit code tells whether all is well.",
    )
    top = commands.add(
        *("top", topping.top, "who moves how much, again and again; q ends it"),
        "Into a pipe, and with --batch, one look follows the other.",
    )
    top.add_argument("-b", "--batch", action="store_true", help="one look after the other, as text")
    top.add_argument(
        *("-n", "--frames"), type=arguments.positive, metavar="N", help="end after so many looks"
    )
    top.add_argument(
        *("-d", "--interval"),
        type=arguments.pause,
        default=2.0,
        metavar="SECONDS",
        help="between two looks (default: %(default)s)",
    )
    top.add_argument(
        "--rows",
        type=arguments.positive,
        default=20,
        metavar="N",
        help="sessions in a look of --batch or --json (default: %(default)s)",
    )
    _choosing(top, "rate")
    found = commands.add(
        *("sessions", sessions.sessions, "who is connected, and what they do"),
        "Rates are of the time between two looks; where nothing moves there is one.",
    )
    found.add_argument("--state", choices=STATES, help="only those in this state")
    found.add_argument("--wide", action="store_true", help="all columns")
    moving = commands.add(
        "transfers", sessions.transfers, "the files that are moving, with rates and what is left"
    )
    for command in (found, moving):
        _choosing(command, "age" if command is found else "rate")
        command.add_argument(
            "--interval",
            type=arguments.seconds,
            default=1.0,
            metavar="SECONDS",
            help="time to measure rates; 0: none (default: %(default)s)",
        )


def _choosing(to: argparse.ArgumentParser, sort: str) -> None:
    to.add_argument("--user", metavar="NAME", help="only sessions of this user")
    to.add_argument("--sort", choices=SORTS, default=sort, help="the order (default: %(default)s)")


def _steering(commands: _Commands) -> None:
    kick = commands.add("kick", sessions.kick, "end one session, or all of a user")
    whom = kick.add_mutually_exclusive_group(required=True)
    whom.add_argument("id", metavar="ID", nargs="?", help="as forkctl sessions shows it")
    whom.add_argument("--user", metavar="NAME", help="all sessions of this user")
    commands.add(
        *("reload", daemon.reload, "apply the changed configuration; waits for the outcome"),
        "Refused, nothing changes, and every problem is told.",
    )
    commands.add(
        *("upgrade", daemon.upgrade, "go on as the version that is installed now; waits as reload"),
        "The installed version is tried first.  No transfer is cut, no connection refused.",
    )
    commands.add(
        *("check", check.check, "would the configuration be accepted; changes nothing"),
        "A running daemon says what a reload would change, and tries the addresses.",
    )
    drain = commands.add(
        *("drain", draining.drain, "take no new sessions; waits until the last one has ended"),
        "Idle sessions end at once, transfers when they are done.  Newcomers are told to come "
        "again later, until forkctl undrain.",
    )
    drain.add_argument(
        "--timeout",
        type=arguments.duration,
        metavar="D",
        help="how long that may take, such as 10m; then what is left is cut",
    )
    drain.add_argument(
        "--slot",
        type=arguments.positive,
        metavar="N",
        help="only the worker in this slot; another one takes its place at once",
    )
    commands.add("undrain", draining.undrain, "take sessions again")
    workers = commands.add("workers", daemon.workers, "serve with N workers until the next reload")
    workers.add_argument("count", metavar="N", type=arguments.workers, help="0: one for each CPU")
    level = commands.add(
        *("loglevel", daemon.loglevel, "log more or less, in all processes, until the next reload"),
    )
    level.add_argument("level", choices=LEVELS, help="what is less is not logged")
    stop = commands.add(
        "stop", daemon.stop, "let transfers end (server.graceful_timeout), then stop; waits"
    )
    stop.add_argument("--now", action="store_true", help="cut the transfers")


def _users(commands: _Commands) -> None:
    commands.add("users", users.users, "accounts: who is here, how full, failed log-ins")
    group = _Commands(commands.add("user", None, "manage the accounts; works with forkd down too"))
    add = group.add("add", users.add, "make an account")
    _name(add)
    add.add_argument("--home", help="its folder below storage.path (default: its name)")
    _settings(add)
    add.add_argument("--disabled", action="store_true", help="it cannot log in yet")
    _password(add)
    passwd = group.add("passwd", users.passwd, "change a password")
    _name(passwd)
    _password(passwd)
    change = group.add("set", users.change, "change an account")
    _name(change)
    _settings(change)
    switch = change.add_mutually_exclusive_group()
    switch.add_argument(
        "--enable", dest="enabled", action="store_true", default=None, help="it may log in"
    )
    switch.add_argument(
        "--disable",
        dest="enabled",
        action="store_false",
        default=None,
        help="it may not log in; its sessions end",
    )
    remove = group.add("remove", users.remove, "remove an account")
    _name(remove)
    remove.add_argument(
        "--delete-files", action="store_true", help="its folder too; else the files stay"
    )
    group.add("list", users.listing, "all accounts")
    _name(group.add("show", users.show, "one account"))


def _quota(commands: _Commands) -> None:
    command = commands.add(
        "quota", _quota_command, "how full the accounts are, or are charges right"
    )
    command.usage = "forkctl quota [NAME]\n       forkctl quota verify [--fix] [NAME]"
    command.add_argument(
        "words", nargs="*", metavar="[verify] [NAME]", help="one account; else all"
    )
    command.add_argument(
        "--fix", action="store_true", help="with verify: charge what is on the disk"
    )


def _quota_command(site: Site, args: argparse.Namespace) -> int:
    words: list[str] = args.words
    verify = words[:1] == ["verify"]
    names = words[1:] if verify else words
    if len(names) > 1 or (args.fix and not verify):
        raise CtlError(
            Exit.USAGE, "usage: forkctl quota [NAME], or forkctl quota verify [--fix] [NAME]"
        )
    args.name = names[0] if names else None
    return quota.verify(site, args) if verify else quota.quota(site, args)


def _bans(commands: _Commands) -> None:
    command = commands.add("bans", _bans_command, "addresses whose log-ins failed, and bans")
    command.usage = "forkctl bans\n       forkctl bans lift ADDRESS"
    command.add_argument("words", nargs="*", metavar="[lift ADDRESS]", help="let it log in again")


def _bans_command(site: Site, args: argparse.Namespace) -> int:
    match args.words:
        case []:
            return bans.bans(site, args)
        case ["lift", address]:
            return bans.lift(site, address)
    raise CtlError(Exit.USAGE, "usage: forkctl bans, or forkctl bans lift ADDRESS")


def _completion(commands: _Commands) -> None:
    command = commands.add(
        *("completion", completion.completion, "a script that lets a shell complete the commands"),
        "For bash: forkctl completion bash > /etc/bash_completion.d/forkctl",
    )
    command.add_argument("shell", choices=completion.SHELLS, help="whose script")
    command.add_argument(
        "program",
        nargs="?",
        choices=completion.PROGRAMS,
        default="forkctl",
        help="whose commands (default: %(default)s)",
    )


def _name(to: argparse.ArgumentParser) -> None:
    to.add_argument("name", metavar="NAME", help="of the account")


def _settings(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--quota",
        type=arguments.quota,
        metavar="Q",
        help=f"bytes such as 500 MiB, or {UNLIMITED!r}, or {DEFAULT!r} for quota.default",
    )
    to.add_argument(
        "--perms",
        type=arguments.permissions,
        metavar="A,B,...",
        help=f"all, none, or some of {','.join(PERMISSIONS)}",
    )


def _password(to: argparse.ArgumentParser) -> None:
    source = to.add_mutually_exclusive_group()
    source.add_argument(
        "--password-stdin", action="store_true", help="the password is a line of standard input"
    )
    source.add_argument("--generate", action="store_true", help="make a password up and show it")
