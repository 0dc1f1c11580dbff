"""Limits that hold across workers: sessions, bandwidth, failed log-ins.

Rules
  1. What is limited has a cell in one mapped file, found by its key: "u:NAME" a user or a name that
     somebody tried, "a:ORIGIN" an address (policy.origin_of).  table.py has the operations.
  2. Sessions are counted by worker slot, each in a word of its own: who holds a dead worker's slot
     sets that slot's words to zero, and the sums are right.
  3. Decisions are pure code (policy.py).  Times are CLOCK_MONOTONIC, which all processes share and
     no clock's correction moves.
  4. A cell with sessions or with unpaid bandwidth is never given to another key.  Where all cells
     that a key could have are such, a session is refused (busy): never over a limit for want of
     room.  Failures and bans yield to sessions, the one that would be over first goes first.
"""
