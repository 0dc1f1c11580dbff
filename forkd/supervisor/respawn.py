"""When a post is filled again whose holders die early: after pauses that double.  No I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from forkd.supervisor.roster import Backoff, Post

BACKOFF_FIRST = 0.1
BACKOFF_MAX = 30.0
BACKOFF_RESET = 60.0
"""A member that served this many seconds is no part of a crash loop."""


@dataclass(slots=True)
class Respawn:
    """`restarts` counts, for each post, those who died and were replaced."""

    backoffs: dict[Post, Backoff] = field(default_factory=dict)
    restarts: dict[Post, int] = field(default_factory=dict)

    def crashed(self, post: Post, lived: float, reason: str, now: float) -> float:
        """Note a death after `lived` seconds of service; how long the post stays empty."""
        before = self.backoffs.get(post)
        failures = 1 + (before.failures if before and lived < BACKOFF_RESET else 0)
        pause = min(BACKOFF_MAX, BACKOFF_FIRST * 2.0 ** (failures - 1))
        self.backoffs[post] = Backoff(failures, now + pause, reason)
        self.restarts[post] = self.restarts.get(post, 0) + 1
        return pause

    def waits(self, post: Post, now: float) -> bool:
        """Whether it is too early to fill this post."""
        backoff = self.backoffs.get(post)
        return backoff is not None and now < backoff.retry_at

    def moments(self, held: Container[Post]) -> Iterable[float]:
        """When posts that nobody holds are filled again."""
        return (b.retry_at for post, b in self.backoffs.items() if post not in held)

    def keep(self, posts: Container[Post]) -> None:
        """Forget the posts that there are no more."""
        for post in [post for post in self.backoffs if post not in posts]:
            del self.backoffs[post]
