"""Where the measuring takes place: the Python that has the peers, versions, the machine.

Does not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = HERE / ".venv"

_ASK = """
import importlib.metadata, json, platform, sys
found = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = "missing"
print(json.dumps(found))
"""


def find_python(path=None):
    """Return the Python to run servers with, and its environment: that at `path`, or else one in a venv of our own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GEVENT"))}
    if path is not None:
        return path, environment | {"PYTHONPATH": str(ROOT)}
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(VENV, with_pip=True)
    if _is_older_than_the_sources(VENV / "installed"):
        tell("installing gws and its peers", end="\n")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--requirement", HERE / "requirements.txt"], check=True)
        subprocess.run([*install, "--force-reinstall", "--no-deps", ROOT], check=True)
        (VENV / "installed").touch()
    return python, environment


def _is_older_than_the_sources(stamp):
    sources = [*ROOT.glob("gws/*.py*"), *ROOT.glob("setup.*"), ROOT / "pyproject.toml", HERE / "requirements.txt"]
    return not stamp.exists() or stamp.stat().st_mtime < max(each.stat().st_mtime for each in sources)


def cache():
    """Return the folder for what is compiled."""
    folder = ROOT / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def versions(python, environment, packages):
    """Return what is measured, by name; of gws also which stream it has."""
    ask = [python, "-c", _ASK, *dict.fromkeys(packages)]
    found = json.loads(_output(ask, environment))
    ours = _output([python, "-m", "gws", "--version"], environment | {"GWS_PURE": ""})
    return {"gws": re.search(r"gws (.*) \(", ours)[1], "commit": _commit(), **found}


def _commit():
    try:
        return _output(["git", "-C", ROOT, "describe", "--always", "--dirty"], os.environ).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine():
    """Return what is known of the machine, its load before we began included."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _output(command, environment):
    return subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=True).stdout


def tell(text, end=""):
    """Write a line to stderr, over the last one if that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}{end}")
    else:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()
