"""How members leave: what they are told, and by when they must be gone.  No I/O.

A worker that drains because a new generation serves has no deadline: transfers take what they take
(serving/draining.py ends those that hardly move).  But no more than `Spec.drainers` generations
drain like that; of more, the oldest get one.
"""

from __future__ import annotations

from collections.abc import Iterable

from forkd.supervisor.roster import Action, Member, MemberState, SendDrain, Spec

START_TIMEOUT = 30.0
"""Seconds a child may take to report that it serves."""
KILL_GRACE = 2.0
"""Seconds between the end of a drain's time, or the order to leave at once, and SIGKILL."""
HELPER_DRAIN = 5.0
"""Seconds a helper may take to leave."""


def drain(member: Member, now: float, timeout: float | None) -> list[Action]:
    """Tell a member to leave within `timeout` seconds; None: as soon as its transfers are done."""
    if member.state is MemberState.KILLED:
        return []
    deadline = None if timeout is None else now + timeout + KILL_GRACE
    if member.state is MemberState.STARTING:
        # It may never come to read its link.
        deadline = min(now + START_TIMEOUT, deadline or float("inf"))
    elif member.told_to_leave and member.deadline is not None:
        deadline = min(member.deadline, deadline or float("inf"))
    member.told_to_leave, member.deadline = True, deadline
    if member.state is MemberState.READY:
        member.state = MemberState.DRAINING
    return [SendDrain(member.key, timeout)]


def drain_crowd(members: Iterable[Member], spec: Spec, now: float) -> list[Action]:
    """Tell the oldest generations a deadline where more drain than may.

    `members` are the workers of all generations that do not serve any more.
    """
    leaving = [m for m in members if m.told_to_leave and m.state is not MemberState.KILLED]
    generations = sorted({m.generation for m in leaving})
    crowd = set(generations[: max(0, len(generations) - spec.drainers)])
    actions: list[Action] = []
    for member in leaving:
        if member.generation in crowd and member.deadline is None:
            actions += drain(member, now, spec.graceful)
    return actions
