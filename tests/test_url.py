"""gws.url: where a client is to go, and where a redirect may lead it."""

from __future__ import annotations

import pytest

from gws.errors import HandshakeError
from gws.url import Target, redirected

# "ws-URI = "ws:" "//" host [ ":" port ] path [ "?" query ] ... The port component is OPTIONAL; the default for "ws" is
# port 80, while the default for "wss" is port 443."  (section 3)
URLS = [
    ("ws://example.org", Target(False, "example.org", 80, "/"), "ws://example.org/"),
    ("wss://example.org", Target(True, "example.org", 443, "/"), "wss://example.org/"),
    ("WSS://Example.Org/A", Target(True, "example.org", 443, "/A"), "wss://example.org/A"),
    ("ws://example.org:80/", Target(False, "example.org", 80, "/"), "ws://example.org/"),
    ("ws://example.org:443/", Target(False, "example.org", 443, "/"), "ws://example.org:443/"),
    ("wss://example.org:8443/chat", Target(True, "example.org", 8443, "/chat"), "wss://example.org:8443/chat"),
    ("ws://h/a%20b/;c?d=e&f=%2F", Target(False, "h", 80, "/a%20b/;c?d=e&f=%2F"), "ws://h/a%20b/;c?d=e&f=%2F"),
    ("ws://h?x=1", Target(False, "h", 80, "/?x=1"), "ws://h/?x=1"),
    ("ws://[::1]:9/x", Target(False, "::1", 9, "/x"), "ws://[::1]:9/x"),
    ("wss://[2001:db8::1]", Target(True, "2001:db8::1", 443, "/"), "wss://[2001:db8::1]/"),
    ("ws://me:secret@h/", Target(False, "h", 80, "/", "me:secret"), "ws://h/"),
    ("ws://me@h/", Target(False, "h", 80, "/", "me:"), "ws://h/"),
    ("ws://m%40e:a%3Ab%2F@h/", Target(False, "h", 80, "/", "m@e:a:b/"), "ws://h/"),
]


@pytest.mark.parametrize(("url", "target", "text"), URLS)
def test_urls(url: str, target: Target, text: str) -> None:
    assert Target.of(url) == target
    assert str(target) == text  # without credentials: it goes into logs
    assert Target.of(text) == target._replace(user="")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", Target(False, "127.0.0.1", 8888)),
        ("localhost", Target(False, "localhost", 8888)),
        ("::1", Target(False, "::1", 8888)),
        ("[::1]", Target(False, "::1", 8888)),
    ],
)
def test_host_and_port(host: str, target: Target) -> None:
    assert Target.of(host, 8888) == target
    assert target.path == "/"


@pytest.mark.parametrize(
    ("address", "port", "told"),
    [
        ("localhost", None, "expected a ws:// or wss:// URL, or a host and a port"),
        ("localhost:80", None, "expected a ws:// or wss:// URL, or a host and a port"),
        ("ws://localhost", 80, "a URL holds its port itself"),
        ("http://localhost", None, "expected a ws:// or wss:// URL, not 'http://localhost'"),
        ("wsss://localhost", None, "expected a ws:// or wss:// URL"),
        ("://localhost", None, "expected a ws:// or wss:// URL"),
        ("ws://", None, "there is no host"),
        ("ws:///path", None, "there is no host"),
        ("ws://:80/", None, "there is no host"),
        ("ws://h:65536/", None, "[Pp]ort"),
        ("ws://h:-1/", None, "[Pp]ort"),
        ("ws://h:eighty/", None, "[Pp]ort"),
        ("ws://[::1/", None, "IPv6"),
        # "Fragment identifiers are meaningless in the context of WebSocket URIs and MUST NOT be used"  (section 3)
        ("ws://h/#top", None, "no fragment"),
    ],
)
def test_what_leads_nowhere(address: str, port: int | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Target.of(address, port)


def test_credentials_are_those_of_rfc_7617() -> None:
    # "If the user agent wishes to send the user-id "Aladdin" and password "open sesame", it would use the following
    # header field: Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  (RFC 7617 section 2)
    target = Target.of("ws://Aladdin:open%20sesame@h/")
    assert target.credentials == [("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")]
    assert Target.of("ws://h/").credentials == []


def test_credentials_are_utf_8() -> None:
    assert Target.of("ws://test:123%C2%A3@h/").credentials == [("Authorization", "Basic dGVzdDoxMjPCow==")]


def test_origin_is_scheme_host_and_port() -> None:
    assert Target.of("ws://h/a").origin == Target.of("ws://h:80/b?c").origin == Target.of("H", 80).origin
    assert len({Target.of(url).origin for url in ("ws://h", "wss://h", "ws://h:81", "ws://i")}) == 4


REDIRECTS = [
    ("ws://h/a/b?c", "/d", "ws://h/d"),
    ("ws://h/a/b?c", "d?e=f", "ws://h/a/d?e=f"),
    ("ws://h/a", "//i/d", "ws://i/d"),
    ("ws://h/a", "ws://i:81/d", "ws://i:81/d"),
    ("ws://h/a", "http://i/d", "ws://i/d"),
    ("ws://h/a", "https://i/d", "wss://i/d"),
    ("ws://h/a", "wss://h/a", "wss://h/a"),
    ("wss://h/a", "/d", "wss://h/d"),
    ("wss://h/a", "https://i/", "wss://i/"),
    ("ws://h/a", "/d#top", "ws://h/d"),
    ("ws://ws/ws", "ws", "ws://ws/ws"),
    ("ws://[::1]:9/a", "b", "ws://[::1]:9/b"),
    ("ws://h/a", "", "ws://h/a"),
]


@pytest.mark.parametrize(("origin", "location", "leads_to"), REDIRECTS)
def test_redirects(origin: str, location: str, leads_to: str) -> None:
    assert str(redirected(Target.of(origin), location, [])[0]) == leads_to


@pytest.mark.parametrize(
    ("origin", "location", "told"),
    [
        ("wss://h/a", "http://h/a", "from wss to ws: ws://h/a"),
        ("wss://h/a", "ws://i/", "from wss to ws"),
        ("ws://h/a", "ftp://h/a", "ftp://, which is no WebSocket"),
        ("ws://h/a", "javascript:alert(1)", "javascript://, which is no WebSocket"),
        ("ws://h/a", "http://:80/x", "leads nowhere: there is no host"),
        ("ws://h/a", "http://h:0x50/", "leads nowhere"),
        ("ws://h/a", "http://[::1/", "leads nowhere"),
    ],
)
def test_redirects_that_are_not_followed(origin: str, location: str, told: str) -> None:
    with pytest.raises(HandshakeError, match=told) as refused:
        redirected(Target.of(origin), location, [])
    assert refused.value.status == 0


SECRETS = [("authorization", "a"), ("Cookie", "b"), ("PROXY-Authorization", "c")]
OTHERS = [("X-Trace", "d"), ("User-Agent", "e")]


@pytest.mark.parametrize("location", ["/d", "ws://h/d", "http://H:80/d"])
def test_secrets_are_shown_again_to_the_same_origin(location: str) -> None:
    target, headers = redirected(Target.of("ws://me:secret@h/a"), location, SECRETS + OTHERS)
    assert headers == SECRETS + OTHERS
    assert target.user == "me:secret"


@pytest.mark.parametrize("location", ["//i/d", "ws://h:81/d", "wss://h/d"])
def test_secrets_are_not_shown_to_another_origin(location: str) -> None:
    target, headers = redirected(Target.of("ws://me:secret@h/a"), location, SECRETS + OTHERS)
    assert headers == OTHERS
    assert target.user == ""
    assert target.credentials == []


@pytest.mark.parametrize("location", ["ws://you:too@h/d", "ws://you:too@i/d"])
def test_a_redirect_may_name_a_user(location: str) -> None:
    assert redirected(Target.of("ws://me:secret@h/a"), location, [])[0].user == "you:too"
