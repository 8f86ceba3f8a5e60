"""`python -m gws echo` and `python -m gws serve`: what the command line says about a server, and a server that does it.

    python -m gws serve chat                      `chat` is a module that registers handlers on gws.server; if it calls
                                                  listen() itself, its options are meant, and its address is not
    python -m gws serve chat:lobby                ... or has a Server of its own, `lobby`
    python -m gws serve chat --workers 4          four processes, supervised by gunicorn: HUP replaces them

Knows nothing of processes: for more than one, `supervised` does, which needs gunicorn; one alone needs nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

import gevent

from gws import server, sockethelper, terminal
from gws.limits import Limits
from gws.server import Options, Server
from gws.sockethelper import netloc

__all__ = [
    "announce",
    "arguments",
    "limit_arguments",
    "limits",
    "listen",
    "listen_arguments",
    "load",
    "options",
    "run",
]


def arguments(parser: ArgumentParser) -> None:
    """Add what `serve` takes."""
    add = parser.add_argument
    add("module", metavar="MODULE[:NAME]", help="registers handlers on gws.server, or on its own Server, NAME")
    listen_arguments(parser)
    group = parser.add_argument_group(
        "more than one process", "which takes gunicorn: pip install 'gevent-gws[gunicorn]'"
    )
    add = group.add_argument
    add("--workers", type=int, default=1, metavar="N", help="how many (%(default)s)")
    add("--reload", action="store_true", help="start anew when a file of the program has changed")
    add("--graceful-timeout", type=float, default=30, metavar="SECONDS", help="for ending (%(default)s)")
    add("--config", metavar="FILE", help="gunicorn's settings, for all that is not said here")


def run(args: Namespace) -> int:
    """Serve as the command line says, until a signal ends it; return the exit status.   Blocks."""
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1, not {args.workers}")
    if not 0 <= args.graceful_timeout < math.inf:
        raise ValueError(f"--graceful-timeout must be a number of seconds, not {args.graceful_timeout}")
    if args.workers == 1 and not args.reload and not args.config:
        program = load(args.module)
        listen(program.server, args, program.options)
        return 0
    return _supervise(args)


def _supervise(args: Namespace) -> int:
    if args.reuse_port and args.path is None and args.port == 0:
        raise ValueError("--reuse-port needs a --port: each process would listen on another")
    try:
        from gws import supervised
    except ImportError as error:
        raise ImportError(
            f"{error}; more than one process takes gunicorn: pip install 'gevent-gws[gunicorn]'"
        ) from None
    Options(**options(args))  # ValueError here, and not in each process
    settings = {
        "bind": f"unix:{args.path}" if args.path is not None else netloc(args.address or "0.0.0.0", args.port),
        "workers": args.workers,
        "reload": args.reload,
        "reuse_port": args.reuse_port,
        "backlog": Options.backlog,
        "graceful_timeout": math.ceil(args.graceful_timeout),
    }
    supervised.run(
        lambda: _start(args),
        settings,
        config=args.config,
        ready=lambda address: announce(address, secure=args.certfile is not None),
    )
    return 0


def _start(args: Namespace) -> tuple[Server, dict[str, Any]]:
    """Return the server, and the options that it is to start with; in the process that is to run it."""
    program = load(args.module)
    return program.server, program.options | _given(args)


class Program(NamedTuple):
    """A server, and the options that its module gave to `listen()`, if it called that."""

    server: Server
    options: dict[str, Any]


def load(spec: str) -> Program:
    """Import MODULE for its Server; ImportError or ValueError if that cannot be.   Blocks if the module does.

    A module that calls `listen()` while it is imported, unguarded, does not listen: that is up to us.
    """
    name, colon, attribute = spec.partition(":")
    if not name or (colon and not attribute):
        raise ValueError(f"expected MODULE or MODULE:NAME, not {spec!r}")
    with server.noting() as noted:
        module = importlib.import_module(name)
    found = getattr(module, attribute, None) if attribute else server.default
    if not attribute:
        if not any(server.default._events.table.values()):
            raise ValueError(f"{name} registers no handler on gws.server; is it {name}:NAME, with a Server of its own?")
    if not isinstance(found, Server):
        raise ValueError(f"{spec} is {'not there' if found is None else f'a {type(found).__name__}, no Server'}")
    return Program(found, noted.get(found, {}))


def listen(served: Server, args: Namespace, its: dict[str, Any] | None = None) -> None:
    """Let a server listen as the command line says, else as its program does, and tell where.   Blocks."""
    wanted = options(args) if its is None else its | _given(args)
    opts = Options(**wanted)
    where: dict[str, Any] = (
        {"path": args.path} if args.path is not None else {"address": args.address, "port": args.port}
    )
    sock = sockethelper.listen(**where, backlog=opts.backlog, reuse_port=opts.reuse_port, nodelay=opts.nodelay)
    # Told once listen() waits: a signal stops it in order from then on.
    telling = gevent.spawn(announce, sock.getsockname(), secure=bool(opts.certfile or opts.ssl))
    try:
        served.listen(sock=sock, **wanted)
    finally:
        telling.kill(block=False)
        sockethelper.close(sock)


def announce(address: Any, *, secure: bool) -> None:
    """Say where a server listens: the port may be the kernel's choice."""
    scheme = "wss" if secure else "ws"
    with contextlib.suppress(OSError):  # nobody wants to know
        terminal.write(
            f"listening on {address if isinstance(address, str) else f'{scheme}://{netloc(*address[:2])}'}\n"
        )


# --------------------------------------------------------------------------------------- the options of any server


def listen_arguments(parser: ArgumentParser) -> None:
    """Add where to listen, and for whom."""
    add = parser.add_argument
    add("--address", default="127.0.0.1", help="where to listen (%(default)s); :: is everywhere")
    add("--port", type=int, default=8888, help="0: any that is free (%(default)s)")
    add("--path", help="listen on this Unix socket instead")
    add("--certfile", metavar="PEM", help="serve wss, with this certificate (and its chain)")
    add("--keyfile", metavar="PEM", help="the certificate's key, if it is not in the same file")
    add(
        "--origin",
        dest="origins",
        action="append",
        metavar="ORIGIN",
        help="let in pages from here; '*': any (only our own)",
    )
    add("--protocol", dest="protocols", action="append", default=[], metavar="NAME", help="speak this subprotocol, too")
    add("--maxclient", type=int, default=Options.maxclient, metavar="N", help="connections at a time (%(default)s)")
    add("--reuse-port", action="store_true", help="share the port with other processes")
    limit_arguments(parser)


def limit_arguments(parser: ArgumentParser) -> None:
    """Add what servers and clients have in common."""
    add = parser.add_argument
    add("--max-message", type=int, default=Limits.max_message, metavar="BYTES", help="the longest one (%(default)s)")
    add("--ping-interval", type=float, default=Limits.ping_interval, metavar="SECONDS", help="0: none (%(default)s)")
    add("--ping-timeout", type=float, default=Limits.ping_timeout, metavar="SECONDS", help="(%(default)s)")
    add("--no-compression", dest="compression", action="store_const", const=None, default=Limits.compression)


def options(args: Namespace) -> dict[str, Any]:
    """Return the fields of `Options` that the command line has set."""
    if args.keyfile and not args.certfile:
        raise ValueError("--keyfile is of no use without --certfile")
    names = ("certfile", "keyfile", "origins", "maxclient", "reuse_port")
    return {name: getattr(args, name) for name in names} | {"protocols": tuple(args.protocols)} | limits(args)


def _given(args: Namespace) -> dict[str, Any]:
    """Return those of `options` that are other than by default: those the program itself may not say otherwise."""
    usual = Options()
    return {name: value for name, value in options(args).items() if value != getattr(usual, name)}


def limits(args: Namespace) -> dict[str, Any]:
    """Return the fields of `Limits` that the command line has set."""
    return {
        "max_message": args.max_message,
        "ping_interval": args.ping_interval or None,
        "ping_timeout": args.ping_timeout,
        "compression": args.compression,
    }
