"""Executes forkd with passwords that cost nothing to hash, for crowds that only want to be in.

quick.py PROGRAM ARGUMENT...
"""

from __future__ import annotations

import runpy
import sys
from functools import partial

from argon2 import PasswordHasher

from forkd.accounts import passwords

passwords.PasswordHasher = partial(  # type: ignore[misc, assignment]
    PasswordHasher, time_cost=1, memory_cost=8, parallelism=1
)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
