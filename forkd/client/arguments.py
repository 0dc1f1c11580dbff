"""Arguments that `forkc` and its shell share."""

from __future__ import annotations

import argparse

from forkd.client.api import JOBS
from forkd.client.operations import Moving


def moving(args: argparse.Namespace) -> Moving:
    """How files are to be moved, as the arguments say."""
    return Moving(
        recursive=args.recursive,
        follow=args.follow,
        parents=getattr(args, "parents", False),
        check=args.check,
        replace=getattr(args, "replace", True),
        again=args.again,
        jobs=args.jobs,
    )


def add_moving(parser: argparse.ArgumentParser) -> None:
    """The options that `put` and `get` share."""
    parser.add_argument("-r", "--recursive", action="store_true", help="whole folders")
    parser.add_argument("-L", "--follow", action="store_true", help="follow symbolic links")
    parser.add_argument(
        "-j", "--jobs", type=_positive, default=JOBS, metavar="N", help=f"connections ({JOBS})"
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


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)
