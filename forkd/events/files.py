"""The files of the journals, below <state_dir>/events.

    <slot>.<born>-<n>.new     it is being made
    <slot>.<born>-<n>.live    a process appends to it; of a dead process, if nobody holds the slot
    <slot>.<born>-<n>.ended   nothing will be added; every change in it is decided

`born` as in partials.py.  A process goes on in a new file when one has grown, so that what is
delivered can be removed; every file is complete in itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from forkd.config import Config

NEW = ".new"
LIVE = ".live"
ENDED = ".ended"


@dataclass(frozen=True, slots=True, order=True)
class Stem:
    """The name of a journal without its state."""

    born: int
    slot: int
    number: int

    def __str__(self) -> str:
        return f"{self.slot}.{self.born}-{self.number}"


def folder_of(config: Config) -> str:
    return os.path.join(config.server.state_dir, "events")


def parse(name: str) -> tuple[Stem, bool] | None:
    """The stem of a journal's file name and whether it is live; None for other files."""
    text, suffix = os.path.splitext(name)
    slot, _, rest = text.partition(".")
    born, _, number = rest.partition("-")
    if suffix not in (LIVE, ENDED) or not (slot.isdigit() and born.isdigit() and number.isdigit()):
        return None
    return Stem(int(born), int(slot), int(number)), suffix == LIVE


def journals(folder: str) -> dict[Stem, bool]:
    """Every journal, oldest first, and whether it is live.  Empty where there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    return dict(sorted(found for name in names if (found := parse(name)) is not None))


def undecided(folder: str) -> set[tuple[int, int]]:
    """(slot, born) of the processes, alive or dead, whose journals are not decided yet."""
    return {(stem.slot, stem.born) for stem, live in journals(folder).items() if live}


def drop_unmade(folder: str, slot: int) -> None:
    """Remove what the dead processes of a slot had not finished to make."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(f"{slot}.") and name.endswith(NEW):
            os.unlink(os.path.join(folder, name))


def end(folder: str, stem: Stem) -> None:
    """Nothing will be added to this journal."""
    path = os.path.join(folder, str(stem))
    os.rename(path + LIVE, path + ENDED)
