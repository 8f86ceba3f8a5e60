"""Runs first in every Python that `python -m gws drop-in` starts, and in their children: the folder is in PYTHONPATH.

Installs the stand-ins as the environment says, then makes way for the sitecustomize that is really installed, if any.
"""

import importlib
import importlib.util
import os
import sys


def _start() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    try:
        _find_gws(os.path.dirname(os.path.dirname(folder)))
        importlib.import_module("gws.drop_in.inherited").take_over()
    except Exception as error:  # Python would swallow it, and the program would run without us
        raise SystemExit(f"gws drop-in: {sys.executable} cannot start with gws: {error!r}") from None
    _make_way()


def _find_gws(where: str) -> None:
    """Let gws be imported from where we lie, if this Python has none; and nothing else that lies there."""
    if importlib.util.find_spec("gws") is None:
        init = os.path.join(where, "__init__.py")
        spec = importlib.util.spec_from_file_location("gws", init, submodule_search_locations=[where])
        assert spec is not None
        assert spec.loader is not None
        sys.modules["gws"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["gws"])


def _make_way() -> None:
    ours = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours


_start()
