"""The `forkd` command.  Only this module knows python-daemon."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

import forkd
from forkd import config as configuration
from forkd.errors import ConfigError, StartError
from forkd.supervisor.estate import VARIABLE
from forkd.supervisor.pidfile import AlreadyRunningError
from forkd.units import format_count

if TYPE_CHECKING:
    from forkd.supervisor import start
    from forkd.supervisor.preflight import Checked


class Exit(IntEnum):
    """Exit codes, as --help tells them."""

    OK = 0
    CANNOT_START = 1
    USAGE = 2
    BAD_CONFIG = 3
    RUNNING_ALREADY = 4


EPILOG = """\
exit codes:
  0  served and was stopped; --daemon: it serves; check-config: the file is good, with or without
     warnings
  1  cannot start: an address in use, a folder that cannot be written, ...
  2  wrong usage of this command
  3  the configuration is refused
  4  forkd is running already with this state folder or pidfile

signals: TERM finishes transfers, then stops; INT and QUIT stop at once; HUP reloads; USR1 opens the
log files anew; USR2 goes on as the version that is installed by then.
The running daemon is steered and looked at with forkctl."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the answer is the exit code.  An error is one line that says what to do."""
    try:
        if VARIABLE in os.environ:
            return _take_over()
        options = parser().parse_args(arguments)
        return int(options.run(options))
    except ConfigError as error:
        for problem in error.problems:
            print(f"forkd: {problem}", file=sys.stderr)
        return Exit.BAD_CONFIG
    except AlreadyRunningError as error:
        print(f"forkd: {error}", file=sys.stderr)
        return Exit.RUNNING_ALREADY
    except StartError as error:
        print(f"forkd: cannot start: {error}", file=sys.stderr)
        return Exit.CANNOT_START
    except KeyboardInterrupt:
        return Exit.CANNOT_START


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog="forkd",
        description="A file-transfer server: pre-forked workers, exact quotas, durable uploads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"forkd {forkd.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    from_file = argparse.ArgumentParser(add_help=False)
    from_file.add_argument(
        *("-c", "--config"),
        default=os.environ.get("FORKD_CONFIG", configuration.DEFAULT_PATH),
        metavar="FILE",
        help="the configuration (default: $FORKD_CONFIG or %(default)s)",
    )

    serve = commands.add_parser("serve", parents=[from_file], help="run the server")
    serve.add_argument(
        "--daemon",
        dest="run",
        action="store_const",
        const=_serve_detached,
        help="detach, once it serves; without this it stays in the foreground",
    )
    serve.set_defaults(run=_serve)

    check = commands.add_parser(
        "check-config", parents=[from_file], help="say what is wrong with a configuration"
    )
    check.set_defaults(run=_check)

    demo = commands.add_parser(
        "demo", help="serve from a folder of its own, with an account made for you"
    )
    demo.add_argument("--dir", default=".demo", metavar="DIR", help="where (default: %(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _load(options: argparse.Namespace) -> tuple[Checked, float]:
    """The configuration, and when its file was written: looked at first, so no change is missed."""
    from forkd.supervisor import preflight
    from forkd.supervisor.world import file_mtime

    path = os.path.abspath(options.config)
    mtime = file_mtime(path)
    return preflight.load(path), mtime


def _check(options: argparse.Namespace) -> int:
    from forkd.supervisor import preflight

    checked = preflight.load(os.path.abspath(options.config), preflight.certificate)
    for warning in checked.warnings:
        print(f"forkd: warning: {warning}", file=sys.stderr)
    told = f", with {format_count(len(checked.warnings), 'warning')}" if checked.warnings else ""
    print(f"{options.config}: ok{told}")
    return Exit.OK


def _ground(options: argparse.Namespace, pidfile: bool) -> start.Ground:
    from forkd.supervisor import start

    checked, mtime = _load(options)
    ground = start.take_ground(checked.config, mtime, checked.text, pidfile)
    for warning in checked.warnings:
        ground.log.warning("config", warning=warning)
    return ground


def _serve(options: argparse.Namespace) -> int:
    from forkd.supervisor import start

    ground = _ground(options, pidfile=False)
    return _told(start.serve(ground, lambda: None))


def _demo(options: argparse.Namespace) -> int:
    from forkd import config as configuration
    from forkd import demo
    from forkd.supervisor import start
    from forkd.supervisor.world import file_mtime

    place = demo.settle(options.dir)
    source = place.config.source
    mtime, text = file_mtime(source), configuration.read(source)
    ground = start.take_ground(place.config, mtime, text, pidfile=False)
    demo.run_apart(lambda: demo.ensure_account(place))
    return _told(start.serve(ground, lambda: print(demo.welcome(place), flush=True)))


def _take_over() -> int:
    """Go on as the daemon whose version was another one until now."""
    from forkd.supervisor import takeover

    return _told(takeover.go_on(os.environ))


def _told(failure: str) -> int:
    if failure:
        print(f"forkd: cannot start: {failure}", file=sys.stderr)
        return Exit.CANNOT_START
    return Exit.OK


def _serve_detached(options: argparse.Namespace) -> int:
    """Start the daemon and wait until it serves, or says why it cannot."""
    ground = _ground(options, pidfile=True)
    if not ground.config.log.file:
        print("forkd: log.file is empty: a detached daemon logs nowhere", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    report, write_end = os.pipe()
    if os.fork() == 0:
        os.close(report)
        _detached(ground, write_end)
    os.close(write_end)
    with open(report, "rb") as file:
        said = file.read().decode()
    if said == _SERVING:
        return Exit.OK
    return _told(said or "it ended before it served; see its log")


_SERVING = "serving"


def _detached(ground: start.Ground, report: int) -> NoReturn:
    """The daemon's whole life, with `report` as the pipe to whoever started it; never returns."""
    import daemon

    from forkd.supervisor import start

    def on_ready() -> None:
        os.write(report, _SERVING.encode())
        os.close(report)

    status = Exit.CANNOT_START
    try:
        context = daemon.DaemonContext(
            pidfile=ground.pidfile,
            files_preserve=[*ground.descriptors, report],
            umask=start.UMASK,
            working_directory="/",
            detach_process=True,
            signal_map={},
        )
        with context:
            failure = start.serve(ground, on_ready, lambda: _close_quietly(report))
            status = Exit.CANNOT_START if failure else Exit.OK
            if failure:
                os.write(report, failure.encode())
    except StartError as error:
        os.write(report, str(error).encode())
    finally:
        os._exit(status)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
