"""What one gets without asking for something else."""

from __future__ import annotations

JOBS = 4
"""Connections at most, for several files."""

STALL = 300.0
"""Seconds of silence, while an answer is due, after which a connection is given up."""

ATTEMPTS = 8
"""Reconnects in a row that move nothing before giving up."""
