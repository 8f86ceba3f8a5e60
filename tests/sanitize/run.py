"""Pass the compiled stream's tests under AddressSanitizer and UndefinedBehaviorSanitizer, with GCC.

    python tests/sanitize/run.py [what pytest takes]
    python tests/sanitize/run.py --fuzz [what tests/fuzz/fuzzing.py takes]

The stream is built anew, in a copy of gws and its tests that is thrown away afterwards; of the tests, those of the
plain stream are left out.  The first error ends the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import greenlet

__all__ = ["build", "environment", "main"]

ROOT = Path(__file__).parents[2]
TESTS = ("test_stream.py", "test_outbox.py", "test_twins.py", "test_websocket.py", "test_websocket_end.py")

# What each is for:
#   -fno-sanitize-recover    what UBSan finds ends the run, as what ASan finds does: nobody reads a warning
#   asan-stack=0             no red zones between local variables.  greenlet copies pieces of the C stack to the heap and
#                            back, and lays one greenlet's frames where another's were.  ASan's marks for the old ones
#                            stay: the very first switch is reported as a stack-buffer-underflow, in greenlet's memcpy.
#                            This also ends use-after-scope and use-after-return, whose marks go wrong in the same way.
#   -fstack-protector-all    so a canary behind every frame watches the local arrays instead; it travels with the frame
#   -fno-wrapv -UNDEBUG      Python's own flags make signed overflow legal, and assertions silent
FLAGS = [
    "-shared",
    "-fPIC",
    "-g",
    "-O1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "--param=asan-stack=0",
    "-fstack-protector-all",
    "-fno-wrapv",
    "-UNDEBUG",
]

# Nobody but the stream is instrumented: neither Python nor libstdc++ brings ASan along, so both sanitizers come first by
# LD_PRELOAD.  libstdc++ comes with them, or ASan does not find the `throw` that it wants to wrap: greenlet throws.
PRELOADED = ("libasan.so", "libubsan.so", "libstdc++.so")

SETTINGS = {
    # Python's own allocator would hand ASan whole arenas, in which it sees no borders between objects.
    "PYTHONMALLOC": "malloc",
    # Python and gevent leave much for the end of the process to free, which counts as leaked.  What a stream leaks is
    # tested by tracemalloc, in test_stream.
    # What ends in a signal is shown in C, though pytest's faulthandler would rather show it in Python.
    "ASAN_OPTIONS": "detect_leaks=0:handle_abort=2:handle_segv=2",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def main(arguments: list[str]) -> int:
    """Build, run, and return pytest's exit status, or a sanitizer's."""
    with tempfile.TemporaryDirectory(prefix="gws-sanitize-") as directory:
        scratch = Path(directory)
        built = build(scratch)
        print(f"built {built.name}; the tests follow", flush=True)
        command = fuzzers(arguments[1:]) if arguments[:1] == ["--fuzz"] else tests(arguments)
        return subprocess.run(command, cwd=scratch, env=environment(scratch), check=False).returncode


def tests(arguments: list[str]) -> list[str]:
    # Captured by descriptor, a sanitizer's last words would be lost.
    options = ["--capture=sys", "-p", "no:cacheprovider", "-p", "compiled_only"]
    return [sys.executable, "-m", "pytest", *options, *(arguments or ["-q", *(f"tests/{name}" for name in TESTS)])]


def fuzzers(arguments: list[str]) -> list[str]:
    return [sys.executable, "tests/fuzz/fuzzing.py", *(arguments or ["twins", "frames"]), "--engine", "hypothesis"]


def build(scratch: Path) -> Path:
    """Copy gws and its tests to `scratch`, with an instrumented stream in it; return that."""
    for name in ("gws", "tests"):
        shutil.copytree(ROOT / name, scratch / name, ignore=shutil.ignore_patterns("*.so", "_stream.c", "node_modules"))
    shutil.copy(ROOT / "setup.cfg", scratch)
    target = scratch / "gws" / f"_stream{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = target.with_name("_stream.c")
    run(sys.executable, "-m", "cython", "-3", str(target.with_name("_stream.pyx")), "-o", str(source))
    headers = [f"-I{sysconfig.get_path('include')}", f"-I{Path(greenlet.__file__).parents[1]}"]
    run(compiler(), *FLAGS, *headers, str(source), "-o", str(target))
    return target


def environment(scratch: Path) -> dict[str, str]:
    """Return the environment of a Python that imports the instrumented stream."""
    libraries = [found(name) for name in PRELOADED]
    paths = os.pathsep.join((str(scratch), str(scratch / "tests" / "sanitize")))
    kept = {name: value for name, value in os.environ.items() if name != "GWS_PURE"}
    return {**kept, **SETTINGS, "LD_PRELOAD": ":".join(libraries), "PYTHONPATH": paths}


def compiler() -> str:
    return os.environ.get("CC", "gcc")


def found(library: str) -> str:
    """Return the path of one of GCC's libraries."""
    path = run(compiler(), f"-print-file-name={library}").strip()
    if path == library:
        sys.exit(f"{compiler()} has no {library}: install GCC's sanitizers")
    return path


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
