"""What the commands do, for `forkc` and its shell alike: paths in, results on a screen, status out.

Each returns an exit status (exits.py) or raises ClientError.  Paths are remote paths as the
protocol has them, or local ones as Python has them.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from forkd.client import exits
from forkd.client.api import Client
from forkd.client.defaults import JOBS
from forkd.client.errors import AuthError, LocalError, RemoteError, printable
from forkd.client.events import Note
from forkd.client.many import Summary
from forkd.client.names import base, join, safe_name, to_remote
from forkd.client.show import Screen, plural
from forkd.client.tree import File, Plan
from forkd.client.upload import PutOptions, error_code
from forkd.units import format_bytes, format_seconds
from forkd.verbs import Entry

if TYPE_CHECKING:
    from argparse import Namespace


class Moving(msgspec.Struct, frozen=True):
    """How files are moved.  `again`: also those that are there with the same size and mtime."""

    recursive: bool = False
    follow: bool = False
    parents: bool = False
    check: bool = True
    replace: bool = True
    again: bool = False
    jobs: int = JOBS

    @classmethod
    def of(cls, args: Namespace) -> Moving:
        """As the arguments say that `put` and `get` share, and those of `put` alone."""
        return cls(
            recursive=args.recursive,
            follow=args.follow,
            parents=getattr(args, "parents", False),
            check=args.check,
            replace=getattr(args, "replace", True),
            again=args.again,
            jobs=args.jobs,
        )


class Operations:
    """The commands of one client, shown on one screen."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self.client = client
        self.screen = screen

    def put(self, sources: Sequence[str], target: str, how: Moving) -> int:
        """Send files, and with `recursive` folders."""
        with self._progress():
            self.client.connect()
            plan = Plan()
            for source in sources:
                self._plan_source(plan, source, target, len(sources) > 1 or _into(target), how)
            single = len(plan.files) == 1 and not how.recursive
            if not how.again and not single:
                plan = self.client.without_stored(plan)
            options = PutOptions(
                check=how.check, replace=how.replace, parents=how.parents or how.recursive
            )
            began = time.monotonic()
            summary = self.client.put_many(plan, options, how.jobs)
            if not options.parents and any(end.code == "not-found" for end in summary.failed):
                self.screen.event(Note("-p (--parents) makes folders that are missing"))
        return self._ended("put", "sent", summary, began)

    def get(self, paths: Sequence[str], target: str, how: Moving) -> int:
        """Get files, and with `recursive` folders."""
        with self._progress():
            plan = Plan()
            for path in paths:
                self._plan_remote(plan, path, target, len(paths) > 1 or _into(target), how)
            single = len(plan.files) == 1 and not how.recursive
            if not how.again and not single:
                plan = self.client.without_present(plan)
            began = time.monotonic()
            summary = self.client.get_many(plan, how.check, how.jobs)
        return self._ended("get", "got", summary, began)

    def each(self, actions: Iterable[Callable[[], int]]) -> int:
        """Do all of them; a refused one does not hold up the others.

        Raises what would stop the others as well: no connection, no log-in.
        """
        return exits.of_several([self._one(action) for action in actions])

    def ls(self, path: str, long: bool) -> int:
        """List a folder, or show one file, sorted by name."""
        entry = self.client.stat(path)
        entries = self.client.list(path) if entry.type == "folder" else [entry]
        for item in sorted(entries, key=lambda item: item.name):
            self.screen.result(msgspec.to_builtins(item), _line(item, long))
        return exits.OK

    def stat(self, path: str) -> int:
        """Tell all about one file or folder."""
        entry = self.client.stat(path)
        text = (
            f"name   {printable(entry.name) or '/'}\n"
            f"type   {entry.type}\n"
            f"size   {entry.size} ({format_bytes(entry.size)})\n"
            f"mtime  {_time(entry.mtime)}\n"
        )
        self.screen.result(msgspec.to_builtins(entry), text)
        return exits.OK

    def mkdir(self, path: str, parents: bool) -> int:
        """Make a folder."""
        self.client.mkdir(path, parents)
        return exits.OK

    def mv(self, path: str, to: str, replace: bool) -> int:
        """Move or rename; into `to` when it ends in "/"."""
        self.client.move(path, join(to, base(path)) if to.endswith("/") else to, replace)
        return exits.OK

    def rm(self, path: str, recursive: bool) -> int:
        """Remove a file or folder."""
        removed = self.client.remove(path, recursive)
        fields = {"command": "rm", **msgspec.to_builtins(removed)}
        files, folders = plural(removed.files, "file"), plural(removed.folders, "folder")
        self.screen.summary(fields, f"removed {files}, {folders}")
        return exits.OK

    def quota(self) -> int:
        """Tell how much is used, that which unfinished uploads hold included."""
        quota = self.client.quota()
        used = format_bytes(quota.used)
        if quota.limit is None:
            text = f"{used} used, no limit\n"
        else:
            free = _free(max(0, quota.limit - quota.used))
            text = f"{used} used of {format_bytes(quota.limit)}, {free} free\n"
        text += "(used includes what running and interrupted uploads hold)\n"
        self.screen.result(msgspec.to_builtins(quota), text)
        return exits.OK

    def commands(self) -> int:
        """List the commands that one may run."""
        names = self.client.commands()
        if names is None:
            raise LocalError("this server does not tell which commands one may run")
        text = "".join(f"{printable(name)}\n" for name in names)
        self.screen.result({"commands": list(names)}, text)
        if not names:
            self.screen.summary({}, "there is no command that you may run here")
        return exits.OK

    def run(self, command: str) -> int:
        """Run a command of the server; exits as it does."""
        ended = self.client.run(command, self.screen.output)
        self.screen.summary({"command": "run", **msgspec.to_builtins(ended)}, "")
        if ended.reason in ("timeout", "output-limit"):
            limit = "time" if ended.reason == "timeout" else "output"
            self.screen.error(ended.reason, f"{command} was ended: it reached its {limit} limit")
        if ended.status is not None:
            return ended.status
        return 128 + (ended.signal or 0)

    def _one(self, action: Callable[[], int]) -> int:
        try:
            return action()
        except AuthError:
            raise
        except (RemoteError, LocalError) as error:
            self.screen.error(error_code(error), str(error))
            return exits.exit_code(error)

    @contextmanager
    def _progress(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.screen.done()

    def _is_folder(self, path: str) -> bool:
        try:
            return self.client.stat(path).type == "folder"
        except RemoteError:
            return False

    def _plan_source(self, plan: Plan, source: str, target: str, into: bool, how: Moving) -> None:
        try:
            info = os.stat(source)
        except OSError as error:
            raise LocalError.of(error, source) from None
        inside = join(target, to_remote(os.path.basename(os.path.realpath(source))))
        if not stat.S_ISDIR(info.st_mode):
            path = inside if into or self._is_folder(target) else target
            plan.files.append(File(source, path, info.st_size, info.st_mtime_ns / 1e9))
            return
        if not how.recursive:
            raise LocalError(f"{printable(source)}: is a folder (-r sends folders)")
        plan.add(self.client.plan_put(source, inside if into else target, how.follow))

    def _plan_remote(self, plan: Plan, path: str, target: str, into: bool, how: Moving) -> None:
        entry = self.client.stat(path)
        name = base(path)
        inside = os.path.join(target, safe_name(name)) if name else target
        if entry.type != "folder":
            local = inside if into or os.path.isdir(target) else target
            plan.files.append(File(local, path, entry.size, entry.mtime))
            return
        if not how.recursive:
            raise LocalError(f"{printable(path) or '/'}: is a folder (-r gets folders)")
        plan.add(self.client.plan_get(path, inside if into else target, how.follow))

    def _ended(self, command: str, verb: str, summary: Summary, began: float) -> int:
        seconds = time.monotonic() - began
        fields: dict[str, object] = {
            "command": command,
            "files": summary.files,
            "size": summary.size,
            "skipped": summary.skipped,
            "failed": len(summary.failed),
            "left": summary.left,
            "seconds": round(seconds, 3),
        }
        took = f"{seconds:.1f} s" if seconds < 60 else format_seconds(seconds)
        parts = [f"{verb} {plural(summary.files, 'file')}, {format_bytes(summary.size)} in {took}"]
        if summary.skipped:
            parts.append(f"{summary.skipped} {_were(summary.skipped)} there already")
        if summary.failed:
            parts.append(f"{len(summary.failed)} failed")
        if summary.left:
            parts.append(f"{summary.left} {_were(summary.left)} not tried")
        self.screen.summary(fields, "; ".join(parts))
        return _status(summary)


def _into(target: str) -> bool:
    """Whether a target alone says that things go into it, under their own names."""
    return target.rpartition("/")[2] in ("", ".", "..")


def _status(summary: Summary) -> int:
    if not summary.failed:
        return exits.OK
    if summary.files or summary.skipped:
        return exits.SOME_FAILED
    return exits.of_several(
        exits.QUOTA_FULL if failed.code == "quota" else exits.REFUSED for failed in summary.failed
    )


def _free(count: int) -> str:
    """Bytes that are free, rounded down: nobody may be promised more than there is."""
    unit = 1
    while count >= unit * 1024 and unit < 1 << 40:
        unit *= 1024
    return format_bytes(math.floor(count * 10 / unit) * unit / 10)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _line(entry: Entry, long: bool) -> str:
    name = printable(entry.name) + ("/" if entry.type == "folder" else "")
    if not long:
        return name + "\n"
    kind = {"file": "-", "folder": "d", "link": "l"}.get(entry.type, "?")
    return f"{kind} {entry.size:>15} {_time(entry.mtime)} {name}\n"


def _time(mtime: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(mtime))
    except (OverflowError, ValueError, OSError):
        return "?" * 19
