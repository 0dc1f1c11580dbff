"""Connects to a forkd again and again, one address after the other, until standard input ends.

Prints what came of it as JSON: `refused` connections, those `cut` before forkd had greeted, and
those `served`.
"""

from __future__ import annotations

import json
import select
import sys

from peer import Peer, RefusedError


def address_of(text: str) -> str | tuple[str, int]:
    host, _, port = text.rpartition(":")
    return (host, int(port)) if host else text


def main() -> None:
    came = {"refused": 0, "cut": 0, "served": 0}
    print("knocking", flush=True)
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        for address in map(address_of, sys.argv[1:]):
            try:
                Peer(address, timeout=50).close()
                came["served"] += 1
            except (ConnectionRefusedError, FileNotFoundError):
                came["refused"] += 1
            except (EOFError, ConnectionError, RefusedError):
                came["cut"] += 1
    print(json.dumps(came))


if __name__ == "__main__":
    main()
