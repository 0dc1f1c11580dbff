"""Runs the installed version on trial: a short-lived child of the master, before an upgrade.

The new program looks at everything it would need and starts one worker (rehearsal.py is its side).
It may fail in any way, hang too: nobody but this child waits for it.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess

from forkd.errors import StartError
from forkd.link import Link
from forkd.messages import Answer, Try
from forkd.seat import ChildSeat
from forkd.supervisor import estate
from forkd.syscalls import die_with_parent
from forkd.title import set_title

TRIAL_TIMEOUT = 15.0
"""Seconds the new program may take."""
_PLACE = re.compile(r'File "(.*)", line (\d+)')


def main(seat: ChildSeat) -> int:
    """Answers with what the new program says of itself.  Raises StartError with its reason."""
    die_with_parent()
    set_title("trial")
    link = Link(seat.link)
    order = _order(link)
    link.send(Answer(0, run(order.command, order.estate)))
    return 0


def run(command: list[str], document: int) -> dict[str, str]:
    """Execute the program with the descriptor of its estate.  Raises StartError."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, estate.VARIABLE: str(document)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(document,),
            preexec_fn=die_with_parent,
            timeout=TRIAL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(f"it did not get ready within {TRIAL_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise StartError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        how = f"status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise StartError(last_words(done.stderr.decode(errors="replace")) or how)
    try:
        return {"version": str(json.loads(done.stdout)["version"])}
    except (ValueError, KeyError, TypeError):
        raise StartError("it does not know of upgrades") from None


def last_words(text: str) -> str:
    """What a program said last, with the place where that is a traceback."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    if not any(line.startswith("Traceback") for line in lines) and not _PLACE.search(text):
        return "\n".join(line.removeprefix("forkd: ") for line in lines[-10:])
    places = _PLACE.findall(text)
    where = f" ({places[-1][0]}, line {places[-1][1]})" if places else ""
    return f"{lines[-1]}{where}"


def _order(link: Link) -> Try:
    while not link.eof and not link.fault:
        select.select([link], [], [])
        for message in link.receive():
            if isinstance(message, Try):
                return message
    raise StartError("the master is gone")
