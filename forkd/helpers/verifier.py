"""The keeper's thread that compares ledgers with the disk."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial

from forkd.accounts import Account, open_accounts
from forkd.config import Config
from forkd.errors import Refusal, StartError
from forkd.helpers.verify import compare
from forkd.ledger.file import DIRTY, LedgerFile
from forkd.log import Log
from forkd.messages import Verify
from forkd.serving.pool import Mailbox

Told = dict[str, object]
Answer = Callable[[int | None, list[Told]], None]
_PAGE = 200
"""Accounts in one answer at most: it must fit in a packet."""
_ERROR_SHOWN = 100


class Verifier:
    """One question after the other.  Answers come on the mailbox's thread."""

    def __init__(
        self, config: Config, file: LedgerFile, log: Log, mailbox: Mailbox, answer: Answer
    ) -> None:
        self._config = config
        self._file = file
        self._log = log
        self._mailbox = mailbox
        self._answer = answer
        self._questions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._next_round = time.monotonic() + config.quota.verify_every
        self._asked: set[int] = set()
        threading.Thread(target=self._run, daemon=True, name="verify").start()

    def submit(self, question: Verify) -> None:
        """Compare one account or all; the answer carries the question's tag."""
        self._questions.put(lambda: self._verify(question))

    def look_for_work(self) -> None:
        """Take up accounts that are marked, and all of them at the configured interval."""
        now = time.monotonic()
        if self._config.quota.verify_every and now >= self._next_round:
            self._next_round = now + self._config.quota.verify_every
            self._questions.put(self._round)
            return
        for account in self._file.used_ids():
            if self._file.read_account(account)[3] & DIRTY and account not in self._asked:
                self._asked.add(account)
                self._questions.put(partial(self._mend, account))

    def _run(self) -> None:
        while True:
            question = self._questions.get()
            try:
                question()
            except Exception as error:
                self._log.unexpected("verify-failed", error)

    def _verify(self, question: Verify) -> None:
        told: list[Told] = []
        try:
            accounts = open_accounts(self._config)
            if question.user is None:
                chosen = list(accounts.list())
            else:
                found = accounts.get(question.user)
                chosen = [found] if found else []
            told = [self._compare(account, question.fix) for account in chosen]
        except (Refusal, StartError) as error:
            self._log.error("verify-failed", user=question.user or "", error=str(error))
            told = [_failed(question.user or "*", error)]
        wrong_first = sorted(told, key=lambda one: (not one["drift"], str(one["user"])))[:_PAGE]
        self._mailbox.post(partial(self._answer, question.tag, wrong_first))

    def _round(self) -> None:
        for account in open_accounts(self._config).list():
            told = [self._compare(account, fix=True)]
            self._mailbox.post(partial(self._answer, None, told))

    def _mend(self, ident: int) -> None:
        try:
            account = open_accounts(self._config).by_id(ident)
            if account is not None:
                told = [self._compare(account, fix=True)]
                self._mailbox.post(partial(self._answer, None, told))
        finally:
            self._asked.discard(ident)

    def _compare(self, account: Account, fix: bool) -> Told:
        try:
            found = compare(self._file, self._config.storage.path, account.id, account.home, fix)
        except (OSError, Refusal, IndexError) as error:
            self._log.error("verify-failed", user=account.name, error=str(error))
            return _failed(account.name, error)
        if found.fixed:
            self._log.warning("quota-repaired", user=account.name, drift=found.drift)
        return {
            "user": account.name,
            "charged": found.charged,
            "actual": found.actual,
            "drift": found.drift,
            "fixed": found.fixed,
            "exact": found.exact,
        }


def _failed(user: str, error: Exception) -> Told:
    """What is told of an account that could not be compared."""
    return {
        "user": user,
        "charged": 0,
        "actual": 0,
        "drift": 0,
        "fixed": False,
        "exact": False,
        "error": str(error)[:_ERROR_SHOWN],
    }
