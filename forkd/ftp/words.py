"""What HELP and FEAT tell."""

from __future__ import annotations

from forkd.ftp import commands
from forkd.ftp.facts import FACTS
from forkd.ftp.state import HASHES, Policy, State

Lines = list[str | bytes]
SITE_COMMANDS: Lines = ["CHMOD <mode> <path>", "HELP", "QUOTA", "WHO"]
_A_ROW = 10


def features(policy: Policy, state: State) -> Lines:
    """RFC 2389: what works and nothing else, with a mark at what is switched on."""
    hashes = ";".join(name + "*" * (name == state.hash) for name in HASHES)
    facts = "".join(f"{fact}{'*' * (fact in state.facts)};" for fact in FACTS)
    names = ["AVBL", "CLNT", "CSID", "EPRT", "EPSV", f"HASH {hashes}", "MDTM", "MFMT"]
    names += [f"MLST {facts}", "REST STREAM", "SIZE", "TVFS", "UTF8"]
    names += ["XCRC", "XMD5", "XSHA1", "XSHA256", "XSHA512"]
    if policy.tls != "off" or state.secure:
        names += ["AUTH TLS", "PBSZ", "PROT"]
    return [*sorted(names)]


def verbs() -> Lines:
    """All verbs, in rows."""
    names = sorted(commands.VERBS)
    return [" ".join(names[at : at + _A_ROW]) for at in range(0, len(names), _A_ROW)]
