"""Measure forkd beside the kernel's limits and other servers on this machine.

    python -m bench.run [--quick] [--only NAME]... [--rounds N] [--json FILE] [--markdown]

docs/benchmarks.md tells what each table means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.files import Source
from bench.ftpmoves import ftp_moves
from bench.measure import measure
from bench.moves import QUICK, Move, Scale, native_moves
from bench.peers import Peer
from bench.peers.forkd import Forkd
from bench.peers.forkdftp import ForkdFtp
from bench.peers.ftp import FtpPeer, Server
from bench.peers.passwordhash import PasswordHash
from bench.peers.proftpd import Proftpd
from bench.peers.pureftpd import PureFtpd
from bench.peers.pyftpd import Pyftpd
from bench.peers.raw import Raw
from bench.peers.rsyncd import Rsyncd
from bench.peers.vsftpd import Vsftpd
from bench.processes import BenchError
from bench.stats import Result

_ROUNDS, _QUICK_ROUNDS = 5, 3


def all_peers() -> list[Peer]:
    """In the order in which their rows stand in a table."""
    native: list[Peer] = [
        Raw(),
        PasswordHash(),
        Forkd(durable=False),
        Forkd(durable=True),
        Rsyncd(),
    ]
    others: list[Server] = [Vsftpd(), PureFtpd(), Proftpd(), Pyftpd()]
    forkd = [ForkdFtp(durable=False), ForkdFtp(durable=True)]
    return [*native, *map(FtpPeer, [*forkd, *others])]


def all_moves(scale: Scale) -> list[Move]:
    """In the order in which they are measured and shown."""
    return [*native_moves(scale), *ftp_moves(scale)]


def main() -> int:
    options = _arguments().parse_args()
    scale = QUICK if options.quick else Scale()
    if options.sessions:
        scale = replace(scale, sessions=options.sessions)
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        moves = chosen(all_moves(scale), options.only)
        with tempfile.TemporaryDirectory(
            prefix="forkd-bench-", dir=os.path.abspath(options.folder)
        ) as folder:
            results = _measure_all(Path(folder), scale, moves, rounds, markdown=options.markdown)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        Path(options.json).write_text(json.dumps(report.as_json(results, machine()), indent=1))
    return 0


def chosen(moves: list[Move], asked: list[str]) -> list[Move]:
    """Those of the names that are asked for, or that begin so; all where nothing is asked for.

    Raises BenchError.
    """
    names = [move.name for move in moves]
    wanted: set[str] = set()
    for word in asked:
        found = [word] if word in names else [name for name in names if name.startswith(word)]
        if not found:
            raise BenchError(f"no table begins with {word!r}; there are {' '.join(names)}")
        wanted.update(found)
    return [move for move in moves if move.name in wanted or not asked]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the bytes, 3 rounds")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="these moves")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {_ROUNDS}")
    parser.add_argument("--sessions", type=int, metavar="N", help="idle sessions, for memory")
    parser.add_argument("--folder", default=".", help="the disk that is used; default: here")
    parser.add_argument("--json", metavar="FILE", help="write all samples")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser


def _measure_all(
    folder: Path, scale: Scale, moves: list[Move], rounds: int, *, markdown: bool
) -> list[Result]:
    began = time.monotonic()
    results = []
    print("  ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    with ExitStack() as stack:
        folder.chmod(0o711)  # for servers that serve as somebody else
        source = Source(folder / "source", scale)
        asked = {move.speech for move in moves}
        wanted = [peer for peer in all_peers() if peer.speech in asked]
        peers = [peer for peer in wanted if _start(peer, folder, source, stack)]
        source.warm()
        for move in moves:
            able = [peer for peer in peers if peer.speech is move.speech]
            ways = [way for peer in able for way in peer.ways(move)]
            result = measure(move, ways, rounds, _progress, folder)
            _progress("")
            print("\n" + (report.as_markdown if markdown else report.as_text)(result), flush=True)
            results.append(result)
    print(f"\n{rounds} rounds of each, {time.monotonic() - began:.0f} s")
    return results


def _start(peer: Peer, folder: Path, source: Source, stack: ExitStack) -> bool:
    if reason := peer.missing():
        print(f"{peer.name} is left out: {reason}")
        return False
    place = folder / peer.name.replace(" ", "-").replace(",", "")
    place.mkdir()
    stack.callback(peer.stop)
    peer.start(place, source)
    return True


def _progress(text: str) -> None:
    """One line on a terminal, which the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
