"""What the accounting of one small upload costs: reserve, then drop, by 1 to 4 processes.

    python bench/bench_ledger.py [--uploads N] [FOLDER]

FOLDER holds the ledger of the run and should be on the disk that forkd's state_dir is on; the
default is a temporary folder.  "CPU" is the processor time of one upload, "wall" the time from one
accounted upload to the next of all processes together.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from forkd.ledger.file import LedgerFile, allocate
from forkd.quota import MappedLedger

_SIZE = 4096


def _account_for(number: int, shared: bool) -> int:
    return 1 if shared else number


def _work(path: str, slot: int, account: int, uploads: int, go: int) -> None:
    """In a child: wait for the start, then account."""
    ledger = MappedLedger(LedgerFile(path), slot)
    os.read(go, 1)
    for number in range(uploads):
        lease = ledger.reserve(account, b"s1.1-%d" % number, _SIZE, 0)
        ledger.drop(lease)
    os._exit(0)


def measure(folder: str, processes: int, shared: bool, uploads: int) -> tuple[float, float]:
    """(wall, CPU) seconds in which all processes have accounted their uploads."""
    path = os.path.join(folder, f"ledger-{processes}-{shared}")
    allocate(path, 16)
    ledger = MappedLedger(LedgerFile(path), 0)
    for account in range(1, processes + 1):
        ledger.adopt(account, 0)
        ledger.set_limit(account, f"user{account}", None)
    go, start = os.pipe()
    children = []
    for number in range(1, processes + 1):
        child = os.fork()
        if child == 0:
            os.close(start)
            _work(path, number, _account_for(number, shared), uploads, go)
        children.append(child)
    began = time.perf_counter()
    os.write(start, b"g" * processes)
    cpu = 0.0
    for child in children:
        _, status, used = os.wait4(child, 0)
        if status:
            raise SystemExit(f"a process failed with status {status}")
        cpu += used.ru_utime + used.ru_stime
    wall = time.perf_counter() - began
    os.close(go)
    os.close(start)
    charged = sum(ledger.usage(account).used for account in range(1, processes + 1))
    if charged != processes * uploads * _SIZE:
        raise SystemExit(f"the ledger lost count: {charged}")
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=50_000)
    parser.add_argument("folder", nargs="?")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {options.uploads} uploads by each process")
    print(f"{'accounts':>9} {'processes':>9} {'CPU us':>8} {'wall us':>8}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for shared in (False, True):
            for processes in (1, 2, 4):
                wall, cpu = measure(folder, processes, shared, options.uploads)
                each = 1e6 / options.uploads / processes
                name = "shared" if shared else "own"
                print(f"{name:>9} {processes:>9} {cpu * each:>8.1f} {wall * each:>8.1f}")


if __name__ == "__main__":
    main()
