"""Where everything lies in the ledger's file; file.py reads and writes it.

page 0        magic, version, capacity, boot id
slot areas    for each worker slot: a head (busy mark, leases used, move counts), then leases
accounts      for each account id: charge, limit, operation count, flags, name
"""

from __future__ import annotations

import os
import struct

from forkd.scoreboard import SLOTS

LEDGER_SLOTS = SLOTS + 1
"""The workers' slots, and one for the keeper."""

LEASES = 2048
"""Uploads under way in one worker at most."""

FREE, HELD = 0, 1
"""States of a lease."""

IN_USE, DIRTY, UNSURE = 1, 2, 4
"""Flags of an account: DIRTY asks for a verification, UNSURE takes no upload before it."""

MAGIC = b"forkd ledger 1\0\0"
HEADER = struct.Struct("<16sQ40sQ")  # magic, capacity, boot id, closed cleanly
PAGE = 4096
SLOT_HEAD = 2048
MOVES_AT = 64
MOVE_BUCKETS = 64
LEASE = struct.Struct("<QIIQ40s")  # state, account, (unused), total, id
LEASE_WORDS = LEASE.size // 8
SLOT_BYTES = SLOT_HEAD + LEASES * LEASE.size
ACCOUNT = struct.Struct("<QqQQ32s64x")  # charged, limit (-1: none), ops, flags, name
LIMIT, OPS, FLAGS = 1, 2, 3  # words of 8 bytes after the charge
ACCOUNTS_AT = PAGE + LEDGER_SLOTS * SLOT_BYTES
UNLIMITED = (1 << 64) - 1  # -1 in a cell

assert LEASE.size == 64
assert ACCOUNT.size == 128


def size_for(accounts: int) -> int:
    """Bytes of a ledger for account ids up to `accounts`."""
    return ACCOUNTS_AT + (accounts + 1) * ACCOUNT.size


def capacity_of(fd: int) -> int:
    return (os.fstat(fd).st_size - ACCOUNTS_AT) // ACCOUNT.size - 1


def slot_at(slot: int) -> int:
    return PAGE + (slot - 1) * SLOT_BYTES


def lease_at(slot: int, index: int) -> int:
    return slot_at(slot) + SLOT_HEAD + index * LEASE.size
