"""Telling a hook of one event: as a program's standard input, or as the body of a POST.

Rules
  1. Every try is a process of its own, ended as a group when its time is over: whatever it hangs
     on, be it a program, a name that does not resolve or a server that does not answer.
  2. A program has taken the event when it exits with 0, a server when it answers with 2xx.
     Redirects are not followed.
  3. Nothing of a target's answer is kept but a reason for the log.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import ssl
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import msgspec

from forkd import __version__
from forkd.config import Hook
from forkd.events.records import Intent
from forkd.helpers.command import Process, Watched, spawn
from forkd.storage.names import to_bytes
from forkd.syscalls import die_with_parent

_REASON_MAX = 200


class Target:
    """One hook's program or URL.  `storage` is storage.path."""

    def __init__(self, hook: Hook, storage: str) -> None:
        self._hook = hook
        self._storage = storage
        secure = hook.url.startswith("https:")
        self._tls = ssl.create_default_context() if secure else None

    def start(self, event: Intent) -> Try:
        """Begin to tell.  For a process with a single thread.  Raises OSError and the like."""
        body = msgspec.json.encode(told(event, self._storage))
        now = time.monotonic()
        deadline = now + self._hook.timeout
        process: Process
        report = None
        if self._hook.url:
            process, pidfd, report = self._post(event, body)
        else:
            process, pidfd = self._run(event, body)
        return Try(process=process, pidfd=pidfd, started=now, deadline=deadline, report=report)

    def _run(self, event: Intent, body: bytes) -> tuple[subprocess.Popen[bytes], int]:
        stdin = os.memfd_create("event")
        try:
            os.write(stdin, body + b"\n")
            os.lseek(stdin, 0, os.SEEK_SET)
            return spawn(
                self._hook.exec,
                variables(event, self._storage),
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(stdin)

    def _post(self, event: Intent, body: bytes) -> tuple[Fork, int, int]:
        """In a child that is forked, not executed: what it needs is imported already."""
        report = os.memfd_create("report")
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(report)
            raise
        if pid == 0:
            status = 1
            try:
                os.setsid()
                die_with_parent()
                if os.getppid() == parent:
                    reason = self._posted(event, body)
                    os.write(report, reason.encode(errors="replace")[:_REASON_MAX])
                    status = 1 if reason else 0
            finally:
                os._exit(status)
        return Fork(pid), os.pidfd_open(pid), report

    def _posted(self, event: Intent, body: bytes) -> str:
        """Why the event was not taken; "" when it was."""
        url = urlsplit(self._hook.url)
        timeout = float(self._hook.timeout)
        if self._tls is not None:
            link: HTTPConnection = HTTPSConnection(
                url.hostname or "", url.port, timeout=timeout, context=self._tls
            )
        else:
            link = HTTPConnection(url.hostname or "", url.port, timeout=timeout)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        try:
            link.request("POST", path, body, headers(event, body, self._hook.secret))
            answer = link.getresponse()
        except (OSError, HTTPException) as error:
            return str(error) or type(error).__name__
        return "" if 200 <= answer.status < 300 else f"HTTP {answer.status} {answer.reason}"


@dataclass(frozen=True, slots=True)
class Fork:
    """A child that was forked here."""

    pid: int

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@dataclass(slots=True, eq=False, kw_only=True)
class Try(Watched):
    """A try under way.  `report` is where a child of ours tells why it failed."""

    report: int | None

    def finish(self) -> str:
        """Reap it and close what it had; "" when the event was taken, else why not."""
        code = self.process.wait()
        os.close(self.pidfd)
        reason = ""
        if self.report is not None:
            reason = os.pread(self.report, _REASON_MAX, 0).decode(errors="replace")
            os.close(self.report)
        if self.cut:
            return self.cut
        if code == 0:
            return ""
        return reason or (f"exit status {code}" if code > 0 else f"signal {-code}")


def told(event: Intent, storage: str) -> dict[str, Any]:
    """An event as hooks are told of it (docs/hooks.md)."""
    moment = datetime.datetime.fromtimestamp(event.time, datetime.UTC)
    origin = event.origin
    body: dict[str, Any] = {
        "id": event.id,
        "event": event.kind,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "user": origin.user,
        "path": event.path,
        "type": event.type,
        "size": event.size,
        "digest": event.digest,
        "file": f"{storage}/{origin.home}{event.path}",
        "session": origin.session,
        "door": origin.door,
    }
    if event.source is not None:
        body["from"] = event.source
    return body


def variables(event: Intent, storage: str) -> dict[str, str | bytes]:
    """The same as environment variables; what is not known is "".  Names are bytes as on disk."""
    origin = event.origin
    path = to_bytes(event.path)
    return {
        "FORKD_EVENT": event.kind,
        "FORKD_EVENT_ID": event.id,
        "FORKD_USER": origin.user,
        "FORKD_PATH": path,
        "FORKD_FROM": to_bytes(event.source or ""),
        "FORKD_FILE": os.fsencode(f"{storage}/{origin.home}") + path,
        "FORKD_TYPE": event.type,
        "FORKD_SIZE": "" if event.size is None else str(event.size),
        "FORKD_DIGEST": event.digest or "",
        "FORKD_SESSION": origin.session,
        "FORKD_DOOR": origin.door,
    }


def headers(event: Intent, body: bytes, secret: str) -> dict[str, str]:
    """What a POST carries beside its body; a signature where there is a secret."""
    fields = {
        "Content-Type": "application/json",
        "User-Agent": f"forkd/{__version__}",
        "Idempotency-Key": f'"{event.id}"',
        "X-Forkd-Event": event.kind,
    }
    if secret:
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        fields["X-Forkd-Signature"] = f"sha256={digest}"
    return fields
