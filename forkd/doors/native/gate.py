"""hello, auth, register, passwd: the native door's words for serving/admission.py."""

from __future__ import annotations

from collections.abc import Callable

from forkd import __version__, accounts, protocol
from forkd.accounts import Credential, enrol
from forkd.doors.native.context import Context, Login, Task
from forkd.errors import Refusal
from forkd.helpers import runclient
from forkd.serving.admission import Attempt, Proof, demand_hash, demand_welcome, look_again
from forkd.serving.session import AGAIN, Job, Outcome, Weight
from forkd.verbs import Auth, Hello, Passwd, QuotaReply, Register


class Gate:
    """A session's way in.  Whatever hashes a password runs on a thread."""

    def __init__(
        self,
        context: Context,
        end: Callable[[str], None],
        lost: Callable[[Refusal], None],
        kick: Callable[[], None],
    ) -> None:
        """`end` closes the session after what was said, `lost` breaks off what is under way
        before, `kick` closes at once.
        """
        self._context = context
        self._end = end
        self._lost = lost
        self._kick = kick
        self._greeted = False
        self._failures = 0

    def hello(self, ident: int, request: Hello) -> None:
        if protocol.VERSION not in request.versions:
            raise Refusal("bad-version", f"this server speaks version {protocol.VERSION} only")
        self._greeted = True
        context = self._context
        context.wire.reply(
            ident,
            {
                "version": protocol.VERSION,
                "server": f"forkd {__version__}",
                "session": context.peer.session,
                "tls": bool(context.wire.transport.label),
                "register": context.core.config.register.enabled,
                "inline_max": protocol.INLINE_MAX,
                "data_max": protocol.DATA_MAX,
                "block": protocol.BLOCK,
            },
        )

    def auth(self, ident: int, request: Auth) -> Task:
        self._demand_private()
        context = self._context
        attempt = Attempt(
            *(context.core, context.peer, context.activity),
            *(request.user, request.password, context.login),
        )
        return _LogIn(ident, attempt, self._welcome, self._refused)

    def passwd(self, ident: int, login: Login, request: Passwd) -> Task:
        self._demand_private()
        login.demand("passwd")
        context, name = self._context, login.account.name

        def change(proved: Credential) -> None:
            context.core.accounts.set_password(name, request.new, proved.mark)

        proof = Proof(context.core, context.peer, name, request.old, change)
        return _PasswordChange(ident, proof, lambda: self._changed(ident, name), self._refused)

    def register(self, ident: int, request: Register) -> Outcome:
        self._demand_private()
        core = self._context.core
        demand_welcome(core.limits, core.config, self._context.peer.origin)
        demand_hash(core)
        return Job(lambda: self._register(ident, request), Weight.HASH)

    def look_again(self) -> Outcome:
        """The account was changed: what holds now holds for this session too; on a thread."""
        context, login = self._context, self._context.login
        if login is None:
            return AGAIN
        try:
            if not look_again(context.core, login):
                self._kick()
        except Refusal as refusal:
            told = refusal
            return Job(lambda: self._not_known(told), Weight.SHORT)
        return AGAIN

    def _not_known(self, refusal: Refusal) -> Outcome:
        self._lost(refusal)
        return AGAIN

    def _demand_private(self) -> None:
        """Passwords travel encrypted, or where nobody else can read along."""
        context = self._context
        if not self._greeted:
            raise Refusal("bad-request", "say hello first")
        private = bool(context.wire.transport.label) or context.peer.trusted_path
        if not private and not context.core.config.tls.allow_plain_passwords:
            raise Refusal("auth-insecure", "passwords are not accepted unencrypted; use TLS")

    def _refused(self, ident: int, refusal: Refusal) -> None:
        context = self._context
        context.refuse(ident, refusal)
        if refusal.code == "banned":
            self._end("banned")
        if refusal.code == "auth-failed":
            self._failures += 1
            if self._failures >= context.core.config.limits.login_attempts:
                self._end("too many failed log-ins")

    def _welcome(self, ident: int, login: Login) -> None:
        context, account = self._context, login.account
        context.login = login
        context.wire.engine.inline_max = protocol.INLINE_MAX
        usage = login.files.usage()
        context.wire.reply(
            ident,
            {
                "user": account.name,
                "permissions": sorted(account.permissions),
                "quota": QuotaReply(usage.used, usage.limit),
                "commands": runclient.commands_for(context.core.config.commands, account.name),
            },
        )

    def _register(self, ident: int, request: Register) -> Outcome:
        context, core = self._context, self._context.core
        prepare = enrol.for_stranger(core.config, core.ledger)
        try:
            account = accounts.register(
                core.accounts, core.config.register, request.user, request.password, prepare
            )
        except Refusal as refusal:
            told = refusal
            return Job(lambda: self._not_registered(ident, told), Weight.SHORT)

        def done() -> Outcome:
            core.row.add("registrations_total")
            core.log.info(
                "registered",
                user=account.name,
                session=context.peer.session,
                address=context.peer.address,
            )
            context.wire.reply(ident, {"user": account.name})
            return AGAIN

        return Job(done, Weight.SHORT)

    def _not_registered(self, ident: int, refusal: Refusal) -> Outcome:
        self._refused(ident, refusal)
        return AGAIN

    def _changed(self, ident: int, name: str) -> None:
        context = self._context
        context.core.log.info("password-changed", user=name, session=context.peer.session)
        context.wire.reply(ident, {})


class _LogIn:
    """An auth under way."""

    def __init__(
        self,
        ident: int,
        attempt: Attempt,
        welcome: Callable[[int, Login], None],
        refused: Callable[[int, Refusal], None],
    ) -> None:
        self.ident = ident
        self._attempt = attempt
        self._welcome = welcome
        self._refused = refused

    def step(self) -> Outcome | None:
        result = self._attempt.step()
        if not isinstance(result, Login):
            return result
        self._welcome(self.ident, result)
        return None

    def failed(self, refusal: Refusal) -> None:
        self._attempt.close()
        self._refused(self.ident, refusal)

    def abandon(self) -> None:
        self._attempt.close()


class _PasswordChange:
    """A passwd under way."""

    def __init__(
        self,
        ident: int,
        proof: Proof,
        changed: Callable[[], None],
        refused: Callable[[int, Refusal], None],
    ) -> None:
        self.ident = ident
        self._proof = proof
        self._changed = changed
        self._refused = refused

    def step(self) -> Outcome | None:
        result = self._proof.step()
        if not isinstance(result, Credential):
            return result
        self._changed()
        return None

    def failed(self, refusal: Refusal) -> None:
        self._refused(self.ident, refusal)

    def abandon(self) -> None:
        return
