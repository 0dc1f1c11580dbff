"""Who asked for the daemon's end, and hears what it still waits for."""

from __future__ import annotations

from forkd.scoreboard import Scoreboard
from forkd.supervisor.control import Asker
from forkd.supervisor.fleet import Fleet
from forkd.units import format_count


class Stopping:
    """The askers; they are told now and then, and when it is over."""

    def __init__(self, fleet: Fleet, board: Scoreboard) -> None:
        self._fleet = fleet
        self._board = board
        self._askers: list[Asker] = []

    def add(self, asker: Asker) -> None:
        """This one hears of it from now on."""
        self._askers.append(asker)
        asker.progress(self._left())

    def tell(self) -> None:
        """How far it is."""
        for asker in self._askers:
            asker.progress(self._left())

    def done(self) -> None:
        """Everybody is gone."""
        for asker in self._askers:
            asker.done({})

    def _left(self) -> str:
        slots = [m.slot for m in self._fleet.members.values() if m.role == "worker"]
        counts = [
            format_count(sum(self._board.rows[slot].get(f"{noun}s") for slot in slots), noun)
            for noun in ("session", "transfer")
        ]
        return f"stopping: {format_count(len(slots), 'worker')}, {', '.join(counts)}"
