"""The keeper's thread that answers what is asked about accounts and addresses."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import msgspec

from forkd import messages
from forkd.accounts import Accounts, open_accounts
from forkd.config import Config
from forkd.errors import Refusal, StartError
from forkd.helpers import accounting
from forkd.ledger.file import LedgerFile
from forkd.limits.file import LimitsFile
from forkd.limits.table import LimitTable
from forkd.log import Log
from forkd.messages import Inform, Rows
from forkd.serving.pool import Mailbox

_PAGE_BYTES = 48 * 1024
"""Rows in one message, as JSON: it must fit in a packet."""


class Informant:
    """One question after the other.  `send` is called on the mailbox's thread."""

    def __init__(
        self,
        config: Config,
        ledger: LedgerFile,
        limits: LimitsFile,
        log: Log,
        mailbox: Mailbox,
        send: Callable[[Rows], None],
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._limits = LimitTable(limits, 0, config.limits.ban_window)
        self._log = log
        self._mailbox = mailbox
        self._send = send
        self._accounts: Accounts | None = None
        self._questions: queue.SimpleQueue[Inform] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="inform").start()

    def submit(self, question: Inform) -> None:
        """It will be answered by `Rows`."""
        self._questions.put(question)

    def _run(self) -> None:
        while True:
            question = self._questions.get()
            try:
                for rows in _pages(question.tag, self._reports(question)):
                    self._mailbox.post(partial(self._send, rows))
                continue
            except (Refusal, StartError) as error:
                failure = str(error)
            except Exception as error:
                self._log.unexpected("inform-failed", error)
                failure = f"the keeper failed: {error!r}"
            self._mailbox.post(partial(self._send, Rows(question.tag, [], False, failure[:1000])))

    def _reports(self, question: Inform) -> Iterable[msgspec.Struct]:
        match question.about:
            case "accounts":
                if self._accounts is None:
                    self._accounts = open_accounts(self._config)
                return accounting.account_reports(
                    *(self._config, self._accounts, self._ledger, self._limits, question.name)
                )
            case "bans":
                return accounting.ban_reports(self._limits)
            case "lift":
                return accounting.lift(self._limits, question.name)


def _pages(tag: int, found: Iterable[msgspec.Struct]) -> Iterator[Rows]:
    """At least one; the last one says so."""
    page: list[dict[str, Any]] = []
    size = 0
    for report in found:
        own = len(messages.encode(report))
        if page and size + own > _PAGE_BYTES:
            yield Rows(tag, page, True)
            page, size = [], 0
        page.append(msgspec.to_builtins(report))
        size += own
    yield Rows(tag, page, False)
