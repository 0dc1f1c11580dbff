"""`forkc`: the command line.  docs/forkc.md tells what people need; `--help` too.

Here is its grammar alone.  What carries a command out is loaded once the line makes sense, so that
help and mistakes are told at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from forkd import __version__
from forkd.client import exits
from forkd.client.arguments import (
    HelpFormatter,
    add_moving,
    add_put_only,
    connection_options,
    mixed,
)

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_ADDRESSES = """\
addresses:
  forkd://user@host:port/path         TCP with TLS (port 3675 if left out)
  forkd+plain://user@host:port/path   plain TCP: can be read on the way
  forkd+unix://user@/socket:/path     a socket of this machine
The user may be left out: FORKC_USER, or the local user's name.
The password is asked for, or taken from FORKC_PASSWORD, or with --password-stdin
from the first line of standard input.

"""

_TARGETS = """\
the target:
  A target that ends in / or is . or .. takes everything under its own name;
  so does the target of several sources. Any other target is the new name: of a
  file, or with -r of the folder itself, whether it exists already (then what
  it holds is kept) or not. A single file also goes into a folder that exists.
  So the same command always means the same, and repeating it goes on.
"""


def _put(parser: argparse.ArgumentParser) -> None:
    parser.usage = "forkc put [OPTION...] FILE... URL"
    parser.epilog = _TARGETS
    parser.add_argument("what", nargs="+", metavar="FILE... URL", help="files, then where they go")
    add_moving(parser)
    add_put_only(parser)


def _get(parser: argparse.ArgumentParser) -> None:
    parser.usage = "forkc get [OPTION...] URL... DEST"
    parser.epilog = _TARGETS
    parser.add_argument("what", nargs="+", metavar="URL... DEST", help="DEST may be - for one file")
    add_moving(parser)


def _ls(parser: argparse.ArgumentParser) -> None:
    _urls(parser)
    parser.add_argument("-l", "--long", action="store_true", help="with type, size and time")


def _mkdir(parser: argparse.ArgumentParser) -> None:
    _urls(parser)
    parser.add_argument("-p", "--parents", action="store_true", help="those above too")


def _mv(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("to", metavar="TO", help="a path or address; ending in / for into a folder")
    parser.add_argument("-f", "--force", action="store_true", help="replace a file of that name")


def _rm(parser: argparse.ArgumentParser) -> None:
    _urls(parser)
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with all in them")


def _run(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="without one, lists those that one may run"
    )


def _urls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="URL")


def _url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="URL")


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "put": ("send files and folders", _put),
    "get": ("get files and folders", _get),
    "ls": ("list folders", _ls),
    "stat": ("tell about files or folders", _urls),
    "mkdir": ("make folders", _mkdir),
    "mv": ("move or rename", _mv),
    "rm": ("remove files or folders", _rm),
    "quota": ("tell what is used and free", _url),
    "passwd": ("change the password", _url),
    "register": ("make an account", _url),
    "run": ("run a command that the server's administrator named", _run),
    "shell": ("work on a server interactively", _url),
}
"""name -> what it does in few words, and what adds its own arguments to its parser"""


def build_parser() -> argparse.ArgumentParser:
    """The names of the commands; `command_parser` knows the arguments of each."""
    parser, commands = _program()
    for name, (text, _) in _COMMANDS.items():
        commands.add_parser(name, help=text, formatter_class=HelpFormatter)
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """With the arguments of all commands, for who reads the grammar itself: shells, manuals."""
    parser, commands = _program()
    for name, (text, add) in _COMMANDS.items():
        shared = [connection_options()]
        add(commands.add_parser(name, help=text, description=text, parents=shared))
    return parser


def _program() -> tuple[argparse.ArgumentParser, _Subparsers]:
    parser = argparse.ArgumentParser(
        prog="forkc",
        allow_abbrev=False,
        description="Move files to and from a forkd server.",
        epilog=_ADDRESSES + exits.EXPLAINED,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"forkc {__version__}")
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND")


def command_parser(name: str) -> argparse.ArgumentParser:
    """The arguments of one command."""
    text, add = _COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"forkc {name}",
        description=text,
        parents=[connection_options()],
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    add(parser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; options may stand anywhere.  Exits when they make no sense."""
    if not argv or argv[0] not in _COMMANDS:
        parser = build_parser()
        parser.parse_args(argv)  # help, the version, or what is wrong: that ends it
        parser.error("the command comes first")
    args = mixed(command_parser(argv[0]), argv[1:])
    args.command = argv[0]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """The command `forkc`; its exit status."""
    args = parse(sys.argv[1:] if argv is None else argv)
    from forkd.client.commands import carry_out

    return carry_out(args)


if __name__ == "__main__":
    sys.exit(main())
