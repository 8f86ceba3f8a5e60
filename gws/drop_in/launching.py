"""`python -m gws drop-in -- COMMAND`: run an unchanged program, and what it starts in turn, over gws.

Knows the command line, and how a program is found.  The process becomes the program, with an environment by which gws
is there before its first line (see `inherited`), so that files, modules, console scripts and their children are alike.
"""

from __future__ import annotations

import os
import shutil
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from gws import drop_in, terminal
from gws.drop_in import inherited
from gws.limits import Limits

__all__ = ["arguments", "run"]


def arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "python -m gws drop-in [options] -- COMMAND [ARGUMENT ...]"
    parser.epilog = (
        "COMMAND is a Python file, -m and a module, -c and a program, or a program such as gunicorn or flask that is "
        "installed for this Python. It must not be started by a Python that is told to ignore PYTHONPATH (-E, -I, -S)."
    )
    add = parser.add_argument
    add("--force", action="store_true", help="gws comes first, also where the real library is installed")
    add("--only", action="append", choices=drop_in.NAMES, metavar="NAME", help=f"of {', '.join(drop_in.NAMES)} (all)")
    add("--origin", dest="origins", action="append", metavar="ORIGIN", help="let in pages from here only ('*': any)")
    add("--same-origin", action="store_true", help="let in pages from the Host itself only")
    add("--max-message", type=int, metavar="BYTES", help="the longest message (16 MiB, or what the program says)")
    add("--ping-interval", type=float, metavar="SECONDS", help=f"0: none ({Limits.ping_interval})")
    add("--ping-timeout", type=float, metavar="SECONDS", help=f"({Limits.ping_timeout})")
    add("--no-compression", action="store_true")
    add("program", nargs=REMAINDER, metavar="-- COMMAND", help="what to run, and its arguments")


def run(args: Namespace) -> NoReturn:
    """Become the command; ValueError if there is none, OSError if it cannot be started."""
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not program:
        raise ValueError("what is to be run? python -m gws drop-in -- COMMAND")
    names, force, options = args.only or drop_in.NAMES, args.force, _options(args)
    Limits(**{name: value for name, value in options.items() if name != "origins"})  # or ValueError
    for name in names:
        if not force and drop_in.really_there(name):
            terminal.tell(f"gws: {name} is really installed, and stays what it is (--force: gws instead)")
    command = _command(program)
    sys.stdout.flush()
    os.execve(command[0], command, inherited.environment(names, force, options))


def _options(args: Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {"origins": None if args.same_origin else args.origins or "*"}
    if args.max_message is not None:
        options["max_message"] = args.max_message
    if args.ping_interval is not None:
        options["ping_interval"] = args.ping_interval or None
    if args.ping_timeout is not None:
        options["ping_timeout"] = args.ping_timeout
    if args.no_compression:
        options["compression"] = None
    return options


def _command(program: Sequence[str]) -> list[str]:
    """Return what to execute: this Python's own programs come before those of the PATH."""
    first = program[0]
    if first.startswith("-") or (os.path.isfile(first) and (first.endswith(".py") or not os.access(first, os.X_OK))):
        return [sys.executable, *program]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    found = shutil.which(first, path=path)
    if found is None:
        raise FileNotFoundError(2, "there is no such program", first)
    return [found, *program[1:]]
