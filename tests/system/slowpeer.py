"""Sends half of a file to forkd, waits for a line on standard input, sends the rest.

Arguments: port, user, password, path.  Prints "half" and, when forkd has all of it, its reply.
"""

from __future__ import annotations

import sys

from peer import Peer

HALF = bytes(1 << 20)


def main() -> None:
    port, user, password, path = sys.argv[1:]
    peer = Peer(("127.0.0.1", int(port)))
    peer.login(user, password)
    ident, _ = peer.begin(path, 2 * len(HALF))
    peer.data(ident, HALF)
    print("half", flush=True)
    sys.stdin.readline()
    peer.data(ident, HALF, last=True)
    print(peer.answer(ident)[0])


if __name__ == "__main__":
    main()
