"""The vocabulary: what each verb may say, and what is refused."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkd import verbs
from forkd.errors import Refusal
from forkd.verbs import decode_request, decode_upload_end

MINIMAL = {
    "hello": (b'{"op":"hello","versions":[1]}', verbs.Hello([1])),
    "auth": (b'{"op":"auth","user":"a","password":"b"}', verbs.Auth("a", "b")),
    "register": (b'{"op":"register","user":"a","password":"b"}', verbs.Register("a", "b")),
    "put": (b'{"op":"put","path":"a","size":0}', verbs.Put("a", 0)),
    "get": (b'{"op":"get","path":"a"}', verbs.Get("a")),
    "list": (b'{"op":"list"}', verbs.List()),
    "stat": (b'{"op":"stat"}', verbs.Stat()),
    "mkdir": (b'{"op":"mkdir","path":"a"}', verbs.Mkdir("a")),
    "move": (b'{"op":"move","path":"a","to":"b"}', verbs.Move("a", "b")),
    "remove": (b'{"op":"remove","path":"a"}', verbs.Remove("a")),
    "quota": (b'{"op":"quota"}', verbs.Quota()),
    "passwd": (b'{"op":"passwd","old":"a","new":"b"}', verbs.Passwd("a", "b")),
    "run": (b'{"op":"run","command":"df"}', verbs.Run("df")),
    "bye": (b'{"op":"bye"}', verbs.Bye()),
}


@pytest.mark.parametrize("op", MINIMAL)
def test_each_verb(op: str) -> None:
    meta, request = MINIMAL[op]
    assert decode_request(meta) == request
    later = meta[:-1] + b',"from-the-future":{"a":[1]}}'
    assert decode_request(later) == request
    assert decode_request(msgspec.json.encode(request)) == request


def test_the_verbs_are_those_of_the_document() -> None:
    page = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
    documented = re.findall(r"^### (\w+)$", page.partition("\n## Verbs")[2], re.MULTILINE)
    assert set(documented) == verbs.OPS == set(MINIMAL)


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        (b"", "bad-request"),
        (b"{}", "bad-request"),
        (b"[]", "bad-request"),
        (b"rubbish", "bad-request"),
        (b'{"op":3}', "bad-request"),
        (b'{"op":"fly"}', "unknown-verb"),
        (b'{"op":""}', "unknown-verb"),
        (b'{"op":"put","path":"a"}', "bad-request"),
        (b'{"op":"put","path":"a","size":-1}', "bad-request"),
        (b'{"op":"put","path":"a","size":1.5}', "bad-request"),
        (b'{"op":"put","path":"a","size":true}', "bad-request"),
        (b'{"op":"put","path":"a","size":4611686018427387905}', "bad-request"),
        (b'{"op":"put","path":"a","size":1,"digest":"00"}', "bad-request"),
        (b'{"op":"put","path":"a","size":1,"digest":"' + b"A" * 64 + b'"}', "bad-request"),
        (b'{"op":"put","path":"a","size":1,"digest":"' + b"a" * 64 + b'\\n"}', "bad-request"),
        (b'{"op":"put","path":"a","size":1,"mtime":1e300}', "bad-request"),
        (b'{"op":"put","path":"a","size":1,"client":"' + b"a" * 129 + b'"}', "bad-request"),
        (b'{"op":"get","path":"' + b"a" * 4097 + b'"}', "bad-request"),
        (b'{"op":"get","path":"\\ud800"}', "bad-request"),
        (b'{"op":"get","path":"a","offset":-1}', "bad-request"),
        (b'{"op":"auth","user":"","password":"b"}', "bad-request"),
        (b'{"op":"auth","user":"a","password":""}', "bad-request"),
        (b'{"op":"auth","user":"a","password":"' + b"a" * 1025 + b'"}', "bad-request"),
        (b'{"op":"quota","a":' + b"[" * 10000, "bad-request"),
        (b'{"op":"get","path":"\xff"}', "bad-request"),
        (b'{"op":"\xff"}', "bad-request"),
    ],
)
def test_refused(meta: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode_request(meta)
    assert refused.value.code == code
    assert len(refused.value.message) < 300


def test_a_refusal_does_not_repeat_a_secret() -> None:
    for meta in (
        b'{"op":"auth","user":1,"password":"hunter2"}',
        b'{"op":"passwd","old":["hunter2"],"new":"x"}',
        b'{"op":"auth","password":"hunter2"}',
        b'{"op":"auth","password":"hunter2"',
    ):
        with pytest.raises(Refusal) as refused:
            decode_request(meta)
        assert "hunter2" not in refused.value.message


_fields = st.dictionaries(
    st.sampled_from([b"op", b"path", b"size", b"user", b"digest", b"versions"]) | st.binary(),
    st.sampled_from(sorted(verbs.OPS)).map(lambda op: b'"' + op.encode() + b'"')
    | st.binary(max_size=20).map(lambda text: b'"' + text + b'"')
    | st.binary(max_size=20),
).map(lambda fields: b"{%s}" % b",".join(b'"%s":%s' % field for field in fields.items()))


@given(
    st.binary(max_size=300)
    | st.dictionaries(st.text(), st.text()).map(msgspec.json.encode)
    | _fields
)
def test_any_meta_is_a_request_or_refused(meta: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(decode_request(meta), verbs.Request)


def test_upload_end() -> None:
    digest = "0" * 64
    assert decode_upload_end(b"") == verbs.UploadEnd(None, False)
    assert decode_upload_end(b"{}") == verbs.UploadEnd(None, False)
    assert decode_upload_end(b'{"abort":true,"new":1}') == verbs.UploadEnd(None, True)
    assert decode_upload_end(f'{{"digest":"{digest}"}}'.encode()) == verbs.UploadEnd(digest)
    for bad in (b"x", b"[]", b'{"digest":"0"}', b'{"abort":1}', b'{"digest":"\xff"}', b"[" * 16000):
        with pytest.raises(Refusal) as refused:
            decode_upload_end(bad)
        assert refused.value.code == "bad-request"
