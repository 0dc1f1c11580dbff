"""The native protocol's door."""

from forkd.doors.native.door import NativeDoor

__all__ = ["NativeDoor"]
