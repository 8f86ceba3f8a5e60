"""gws.terminal: lines in, text out, and the hub goes on."""

from __future__ import annotations

import contextlib
import os
import pty

import gevent
import pytest
from gevent.monkey import get_original
from gevent.socket import wait_read

from gws import terminal

pytestmark = pytest.mark.usefixtures("deadline")

close = get_original("os", "close")  # gevent's own puts it off until the loop has turned, which may wait for it


@pytest.fixture
def pipe():
    """Return (descriptor to read from, descriptor to write to)."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            close(fd)


class TestLines:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", []),
            (b"a\nb\n", [b"a", b"b"]),
            (b"a\nb", [b"a", b"b"]),
            (b"\n\n", [b"", b""]),
            (b"a\r\n", [b"a\r"]),
            (b"a\0\xff\n", [b"a\0\xff"]),
        ],
    )
    def test_of_a_pipe(self, pipe, data, expected):
        os.write(pipe[1], data)
        close(pipe[1])
        assert list(terminal.lines(pipe[0])) == expected

    def test_in_pieces(self, pipe, greenlets):
        read = greenlets(lambda: list(terminal.lines(pipe[0])))
        for piece in (b"on", b"e\ntw", b"o", b"\n\nla", b"st"):
            os.write(pipe[1], piece)
            gevent.sleep(0)
        close(pipe[1])
        assert read.get() == [b"one", b"two", b"", b"last"]

    def test_of_a_file(self, tmp_path):
        (tmp_path / "file").write_bytes(b"a\n" + b"b" * 200_000)
        with open(tmp_path / "file", "rb") as file:
            assert list(terminal.lines(file.fileno())) == [b"a", b"b" * 200_000]

    def test_of_dev_null(self):
        with open(os.devnull, "rb") as null:
            assert list(terminal.lines(null.fileno())) == []

    def test_of_a_terminal(self, greenlets):
        master, slave = pty.openpty()
        read = greenlets(lambda: list(terminal.lines(slave)))
        os.write(master, b"a\nb\n\x04")  # Ctrl-D
        assert read.get() == [b"a", b"b"]
        close(slave)
        close(master)

    def test_of_a_terminal_that_is_gone(self):
        master, slave = pty.openpty()
        close(master)
        assert list(terminal.lines(slave)) == []
        close(slave)

    def test_of_a_terminal_that_nobody_has_open(self):
        master, slave = pty.openpty()
        close(slave)
        assert list(terminal.lines(master)) == []  # EIO, says the kernel
        close(master)

    def test_somebody_else_was_faster(self, monkeypatch):
        """Two processes may read one terminal."""
        results = iter([BlockingIOError(), b"a\n", b""])

        def read(fd, size):
            result = next(results)
            if isinstance(result, Exception):
                raise result
            return result

        with open(os.devnull, "rb") as null:
            monkeypatch.setattr(os, "read", read)
            assert list(terminal.lines(null.fileno())) == [b"a"]

    def test_of_what_cannot_be_read(self):
        with open(os.devnull, "wb") as null, pytest.raises(OSError, match="Bad file descriptor"):
            next(terminal.lines(null.fileno()))

    @pytest.mark.parametrize("blocking", [True, False])
    def test_others_go_on(self, pipe, greenlets, blocking):
        os.set_blocking(pipe[0], blocking)
        read = greenlets(lambda: list(terminal.lines(pipe[0])))
        for _ in range(3):
            gevent.sleep(0)
        assert not read.dead
        close(pipe[1])
        assert read.get() == []

    def test_a_file_leaves_the_others_their_turn(self, tmp_path, greenlets):
        (tmp_path / "file").write_bytes(bytes(1_000_000))
        turns = 0

        def count():
            nonlocal turns
            while True:
                gevent.sleep(0)
                turns += 1

        with open(tmp_path / "file", "rb") as file:
            counter = greenlets(count)
            assert list(terminal.lines(file.fileno())) == [bytes(1_000_000)]
        counter.kill()
        assert turns > 10


class TestWrite:
    def test_a_slow_reader_holds_nobody_else_up(self, pipe, greenlets):
        text = "0123456789" * 50_000
        writer = greenlets(terminal.write, text, pipe[1])
        gevent.sleep(0)
        received = b""
        while len(received) < len(text):
            assert not writer.dead or len(received) >= len(text) - 65_536
            wait_read(pipe[0])
            received += os.read(pipe[0], 10_000)
        assert received.decode() == text

    def test_nobody_reads_any_more(self, pipe):
        close(pipe[0])
        with pytest.raises(BrokenPipeError):
            terminal.write("x", pipe[1])

    def test_what_the_encoding_lacks(self, pipe, monkeypatch):
        monkeypatch.setattr(terminal, "ENCODING", "latin-1")
        terminal.write("ä€\n", pipe[1])
        assert os.read(pipe[0], 100) == b"\xe4\\u20ac\n"

    def test_a_descriptor_in_non_blocking_mode(self, pipe, greenlets):
        os.set_blocking(pipe[1], False)
        writer = greenlets(terminal.write, "x" * 200_000, pipe[1])
        received = 0
        while received < 200_000:
            wait_read(pipe[0])
            received += len(os.read(pipe[0], 100_000))
        writer.join()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ümläut, 字, 👩‍💻, a\ttab", "plain, ümläut, 字, 👩‍💻, a\ttab"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\0\x08\x7f", r"\x00\x08\x7f"),
        ("\x85\x9b31m", r"\x85\x9b31m"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("user\u202etxt.exe \u2066\u200f", r"user\u202etxt.exe \u2066\u200f"),
        ("\ud800", r"\ud800"),
        (r'{"a": "b\n"}', r'{"a": "b\n"}'),
    ],
)
def test_safe(text, expected):
    assert terminal.safe(text) == expected


def test_tell(capfd):
    terminal.tell("one\x1bline\n")
    assert capfd.readouterr() == ("", "one\\x1bline\\n\n")


def test_as_found(pipe):
    os.set_blocking(pipe[1], False)
    with contextlib.suppress(ZeroDivisionError), terminal.as_found(*pipe, 987):
        os.set_blocking(pipe[0], False)
        os.set_blocking(pipe[1], True)
        raise ZeroDivisionError
    assert os.get_blocking(pipe[0])
    assert not os.get_blocking(pipe[1])


def test_as_found_of_what_is_closed_meanwhile(pipe):
    with terminal.as_found(*pipe):
        close(pipe[0])


def test_fill_gaps(monkeypatch):
    opened = []
    monkeypatch.setattr(os, "fstat", lambda fd: os.stat("/" if fd != 1 else "/nonexistent"))
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args))
    terminal.fill_gaps()
    assert opened == [(os.devnull, os.O_RDWR)]
