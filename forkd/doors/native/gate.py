"""hello, auth, register, passwd: who may come in, and as whom."""

from __future__ import annotations

from collections.abc import Callable

from forkd import __version__, accounts, protocol
from forkd.accounts import Account, enrol
from forkd.doors.native.context import Context, Login
from forkd.errors import Refusal
from forkd.helpers import runclient
from forkd.serving.session import AGAIN, Job, Outcome, Weight
from forkd.storage.charged import ChargedTree
from forkd.verbs import Auth, Hello, Passwd, QuotaReply, Register


class Gate:
    """A session's way in.  Whatever hashes a password runs on a thread."""

    def __init__(self, context: Context, end: Callable[[str], None], kick: Callable[[], None]):
        self._context = context
        self._end = end
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

    def auth(self, ident: int, request: Auth) -> Outcome:
        self._demand_private()
        return self._hashing(ident, lambda: self._authenticate(ident, request), request.user)

    def register(self, ident: int, request: Register) -> Outcome:
        self._demand_private()
        return self._hashing(ident, lambda: self._register(ident, request))

    def passwd(self, ident: int, login: Login, request: Passwd) -> Outcome:
        self._demand_private()
        login.demand("passwd")
        return self._hashing(ident, lambda: self._passwd(ident, login, request), login.account.name)

    def look_again(self) -> Outcome:
        """The account was changed: what holds now holds for this session too; on a thread."""
        context, login = self._context, self._context.login
        if login is None:
            return AGAIN
        try:
            account = context.core.accounts.get(login.account.name)
            if account is None or not account.enabled or account.id != login.account.id:
                self._kick()
                return AGAIN
            self._limit(account)
        except Refusal as refusal:
            told = refusal
            return Job(lambda: self._lost(told), Weight.SHORT)
        login.account = account
        return AGAIN

    def _lost(self, refusal: Refusal) -> Outcome:
        """Nobody knows what the account may do by now."""
        self._context.refuse(0, refusal)
        self._end("the account could not be looked up")
        return AGAIN

    def _demand_private(self) -> None:
        """Passwords travel encrypted, or where nobody else can read along."""
        context = self._context
        if not self._greeted:
            raise Refusal("bad-request", "say hello first")
        private = bool(context.wire.transport.label) or context.peer.trusted_path
        if not private and not context.core.config.tls.allow_plain_passwords:
            raise Refusal("auth-insecure", "passwords are not accepted unencrypted; use TLS")

    def _hashing(self, ident: int, work: Callable[[], Outcome], user: str = "") -> Job:
        """Work that may be refused: its refusal is counted and told on the loop's thread."""

        def run() -> Outcome:
            try:
                return work()
            except Refusal as refusal:
                told = refusal
            return Job(lambda: self._refused(ident, user, told), Weight.SHORT)

        return Job(run, Weight.HASH)

    def _refused(self, ident: int, user: str, refusal: Refusal) -> Outcome:
        context = self._context
        context.refuse(ident, refusal)
        if refusal.code == "auth-failed":
            context.core.row.add("logins_total:failed")
            context.core.log.warning(
                "login-failed",
                user=user,
                session=context.peer.session,
                address=context.peer.address,
            )
            self._failures += 1
            if self._failures >= context.core.config.limits.login_attempts:
                self._end("too many failed log-ins")
        return AGAIN

    def _authenticate(self, ident: int, request: Auth) -> Outcome:
        core = self._context.core
        account = core.accounts.authenticate(request.user, request.password)
        self._limit(account)
        tree = core.store.open_tree(account.id, account.home)
        login = Login(account, ChargedTree(tree, core.ledger, account.id, core.namer))
        return Job(lambda: self._welcome(ident, login), Weight.SHORT)

    def _limit(self, account: Account) -> None:
        """Raises Refusal (busy)."""
        core = self._context.core
        limit = account.limit(core.config.quota.default)
        try:
            core.ledger.set_limit(account.id, account.name, limit)
        except IndexError:  # accounts.max was raised; the next generation has the room
            raise Refusal("busy", "this server process is too old for the account") from None

    def _welcome(self, ident: int, login: Login) -> Outcome:
        context, account = self._context, login.account
        if context.login is not None:
            context.login.files.close()
        context.login = login
        context.wire.engine.inline_max = protocol.INLINE_MAX
        context.activity.user, context.activity.state = account.name, "idle"
        context.core.row.add("logins_total:ok")
        context.core.row.add("sessions_total")
        context.core.log.info(
            "login",
            user=account.name,
            session=context.peer.session,
            address=context.peer.address,
            tls=context.wire.transport.label,
        )
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
        return AGAIN

    def _register(self, ident: int, request: Register) -> Outcome:
        context, core = self._context, self._context.core
        prepare = enrol.for_stranger(core.config, core.ledger)
        account = accounts.register(
            core.accounts, core.config.register, request.user, request.password, prepare
        )

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

    def _passwd(self, ident: int, login: Login, request: Passwd) -> Outcome:
        context, core = self._context, self._context.core
        core.accounts.authenticate(login.account.name, request.old)
        core.accounts.set_password(login.account.name, request.new)
        core.log.info("password-changed", user=login.account.name, session=context.peer.session)
        context.wire.reply(ident, {})
        return AGAIN
