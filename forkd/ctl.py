"""forkctl: the command line of whoever runs the daemon.  docs/forkctl.md describes it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from forkd import __version__
from forkd.accounts import DEFAULT, OwnQuota
from forkd.admin import bans, daemon, users
from forkd.admin.exits import CtlError, Exit
from forkd.admin.output import complain
from forkd.admin.site import CONFIG_VARIABLE, Site
from forkd.config import DEFAULT_PATH, PERMISSIONS, UNLIMITED
from forkd.errors import Refusal, StartError
from forkd.units import parse_bytes

_EPILOG = """\
exit codes:
  0  done; status: forkd serves
  1  refused or failed; status: degraded; quota verify: a charge is wrong
  2  the command line is wrong
  3  forkd is not running
  4  cannot tell: no permission, no configuration, or no answer that can be understood
"""
_INTERRUPTED = 130  # 128 + SIGINT, as shells tell it


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; the exit code."""
    args = _parse(argv)
    site = Site(args.config, args.socket, args.json)
    try:
        code = int(args.run(site, args))
        sys.stdout.flush()
        return code
    except CtlError as error:
        for line in error.lines:
            complain(line)
        return error.code
    except Refusal as refusal:
        complain(refusal.message)
        return Exit.FAILED
    except StartError as error:
        complain(str(error))
        return Exit.FAILED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return Exit.FAILED
    except (KeyboardInterrupt, EOFError):
        complain("interrupted")
        return _INTERRUPTED
    except Exception as error:
        complain(f"a fault in forkctl itself, please report it: {type(error).__name__}: {error}")
        return Exit.FAILED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    grammar = parser()
    args, rest = grammar.parse_known_args(argv)
    # argparse takes all positional words in one go: in "quota verify --fix NAME" it leaves NAME.
    if rest and "words" in args and not any(word.startswith("-") for word in rest):
        args.words += rest
    elif rest:
        grammar.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="forkctl",
        description="Steer a running forkd, and manage its accounts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"forkctl {__version__}")
    _add_global(top, config=None, socket=None, json=False)
    commands = _Commands(top)
    commands.add("status", daemon.status, "what runs, on one screen")
    commands.add("reload", daemon.reload, "apply the changed configuration; waits for the outcome")
    commands.add(
        "upgrade", daemon.upgrade, "go on as the version that is installed now; waits as reload"
    )
    _stop(commands)
    commands.add("sessions", daemon.sessions, "who is connected, and what they do")
    kick = commands.add("kick", daemon.kick, "end one session")
    kick.add_argument("id", metavar="ID", help="as forkctl sessions shows it")
    workers = commands.add("workers", daemon.workers, "serve with N workers until the next reload")
    workers.add_argument("count", metavar="N", type=_count, help="0: one for each CPU")
    _users(commands)
    _quota(commands)
    _bans(commands)
    return top


class _Commands:
    """Adds commands that also accept the global options behind their name."""

    def __init__(self, above: argparse.ArgumentParser) -> None:
        self._commands = above.add_subparsers(metavar="COMMAND", required=True)

    def add(self, name: str, run: object, summary: str) -> argparse.ArgumentParser:
        command = self._commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        _add_global(command, **dict.fromkeys(("config", "socket", "json"), argparse.SUPPRESS))
        command.set_defaults(run=run)
        return command


def _add_global(
    to: argparse.ArgumentParser, *, config: object, socket: object, json: object
) -> None:
    to.add_argument(
        "-c",
        "--config",
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
    to.add_argument("--json", action="store_true", default=json, help="results for programs")


def _stop(commands: _Commands) -> None:
    stop = commands.add(
        "stop", daemon.stop, "let transfers end (server.graceful_timeout), then stop; waits"
    )
    stop.add_argument("--now", action="store_true", help="cut the transfers")


def _users(commands: _Commands) -> None:
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
    switch.add_argument("--enable", dest="enabled", action="store_true", default=None)
    switch.add_argument("--disable", dest="enabled", action="store_false", default=None)
    remove = group.add("remove", users.remove, "remove an account")
    _name(remove)
    remove.add_argument(
        "--delete-files", action="store_true", help="its folder too; else the files stay"
    )
    group.add("list", users.listing, "all accounts")
    _name(group.add("show", users.show, "one account"))


def _quota(commands: _Commands) -> None:
    quota = commands.add("quota", _quota_command, "how full the accounts are, or are charges right")
    quota.usage = "forkctl quota [NAME]\n       forkctl quota verify [--fix] [NAME]"
    quota.add_argument("words", nargs="*", metavar="[verify] [NAME]", help="one account; else all")
    quota.add_argument("--fix", action="store_true", help="with verify: charge what is on the disk")


def _quota_command(site: Site, args: argparse.Namespace) -> int:
    words: list[str] = args.words
    verify = words[:1] == ["verify"]
    names = words[1:] if verify else words
    if len(names) > 1 or (args.fix and not verify):
        raise CtlError(
            Exit.USAGE, "usage: forkctl quota [NAME], or forkctl quota verify [--fix] [NAME]"
        )
    args.name = names[0] if names else None
    return daemon.verify(site, args) if verify else users.quota(site, args)


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


def _name(to: argparse.ArgumentParser) -> None:
    to.add_argument("name", metavar="NAME")


def _settings(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--quota",
        type=_limit,
        metavar="Q",
        help=f"bytes such as 500 MiB, or {UNLIMITED!r}, or {DEFAULT!r} for quota.default",
    )
    to.add_argument(
        "--perms",
        type=_permissions,
        metavar="A,B,...",
        help=f"all, none, or some of {','.join(PERMISSIONS)}",
    )


def _password(to: argparse.ArgumentParser) -> None:
    source = to.add_mutually_exclusive_group()
    source.add_argument(
        "--password-stdin", action="store_true", help="the password is a line of standard input"
    )
    source.add_argument("--generate", action="store_true", help="make a password up and show it")


def _limit(text: str) -> OwnQuota:
    if text == DEFAULT:
        return DEFAULT
    if text == UNLIMITED:
        return "unlimited"
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor {UNLIMITED!r}, nor {DEFAULT!r}") from None


def _permissions(text: str) -> frozenset[str]:
    if text in ("all", "none"):
        return frozenset(PERMISSIONS if text == "all" else ())
    chosen = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(chosen - frozenset(PERMISSIONS))
    if unknown or not chosen:
        known = ", ".join(PERMISSIONS)
        raise argparse.ArgumentTypeError(f"{text!r} is not all, none or some of {known}")
    return chosen


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) > 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 32")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
