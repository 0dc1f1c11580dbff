"""A certificate's SHA-256 as people write it."""

from __future__ import annotations

import re


def parse_fingerprint(text: str) -> str:
    """'sha256:ab12…', 'AB:12:…' -> 64 hexadecimal digits.  Raises ValueError."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError(f"{text!r} is not a SHA-256 fingerprint (64 hexadecimal digits)")
    return digits
