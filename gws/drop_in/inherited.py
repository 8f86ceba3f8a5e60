"""What a program that `python -m gws drop-in` runs has from it, and its children have in turn: by the environment.

A folder in PYTHONPATH whose sitecustomize calls `take_over()`, and a variable that tells it what to install.  Loads no
gevent: most programs want to patch first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gws import drop_in

__all__ = ["environment", "take_over"]

_VARIABLE = "GWS_DROP_IN"
_STARTUP = Path(__file__).parent / "startup"


def environment(names: Iterable[str], force: bool, options: Mapping[str, Any]) -> dict[str, str]:
    """Return this process's environment with what makes its heirs install."""
    said = json.dumps({"names": list(names), "force": force, "options": dict(options)})
    path = [str(_STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, _VARIABLE: said, "PYTHONPATH": os.pathsep.join(path)}


def take_over() -> None:
    """Install what the environment says, if it says anything."""
    if _VARIABLE in os.environ:
        said = json.loads(os.environ[_VARIABLE])
        drop_in.install(*said["names"], force=said["force"], **said["options"])
