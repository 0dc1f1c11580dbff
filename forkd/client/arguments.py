"""Arguments that `forkc` and its shell share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from forkd.client.defaults import ATTEMPTS, JOBS, STALL
from forkd.client.fingerprint import parse_fingerprint
from forkd.units import parse_seconds


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Knows the terminal's width without shutil, which loads the compression libraries.

    argparse makes one for every argument.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):
        return 80


def add_moving(parser: argparse.ArgumentParser) -> None:
    """The options that `put` and `get` share."""
    parser.add_argument("-r", "--recursive", action="store_true", help="whole folders")
    parser.add_argument("-L", "--follow", action="store_true", help="follow symbolic links")
    parser.add_argument(
        "-j", "--jobs", type=_connections, default=JOBS, metavar="N", help=f"connections ({JOBS})"
    )
    parser.add_argument(
        "--no-check", dest="check", action="store_false", help="do without digests; faster"
    )
    parser.add_argument(
        "--all",
        dest="again",
        action="store_true",
        help="of several files, also those that are there with the same size and time",
    )


def add_put_only(parser: argparse.ArgumentParser) -> None:
    """The options that only `put` has."""
    parser.add_argument("-p", "--parents", action="store_true", help="make missing folders")
    parser.add_argument(
        "--no-replace", dest="replace", action="store_false", help="refuse if the name is taken"
    )


def connection_options() -> argparse.ArgumentParser:
    """The options of every command, as a parent of its parser."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("connection and output")
    group.add_argument("--password-stdin", action="store_true", help="first line of stdin")
    group.add_argument("--ca", metavar="FILE", help="trust these authorities; 'system': its own")
    group.add_argument(
        "--fingerprint", type=_fingerprint, metavar="SHA256", help="trust this certificate only"
    )
    group.add_argument(
        "--timeout",
        type=_seconds,
        default=STALL,
        metavar="S",
        help=f"longest silence while an answer is due ({STALL:.0f} s)",
    )
    group.add_argument(
        "--attempts",
        type=_attempts,
        default=ATTEMPTS,
        metavar="N",
        help=f"reconnects in a row without progress ({ATTEMPTS})",
    )
    group.add_argument("--json", action="store_true", help="one JSON object a line")
    group.add_argument("-q", "--quiet", action="store_true", help="results and errors only")
    return common


def mixed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse words in which options may stand anywhere before a `--`."""
    cut = words.index("--") if "--" in words else len(words)
    # parse_intermixed_args knows no "--"; behind a NUL, which is in no argument, none is an option
    plain = [*words[:cut], *(f"\0{word}" for word in words[cut + 1 :])]
    args = parser.parse_intermixed_args(plain)
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, value.removeprefix("\0"))
        elif isinstance(value, list):
            setattr(args, name, [text.removeprefix("\0") for text in value])
    return args


def _fingerprint(text: str) -> str:
    try:
        return parse_fingerprint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0 and at most a day")
    return seconds


def _attempts(text: str) -> int:
    return _number(text, 0, 1_000_000)


def _connections(text: str) -> int:
    return _number(text, 1, 64)


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
    return int(text)
