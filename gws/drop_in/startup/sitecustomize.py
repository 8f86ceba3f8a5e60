"""Runs first in every Python that `python -m gws drop-in` starts, and in their children: the folder is in PYTHONPATH.

Installs the stand-ins as the environment says, then makes way for the sitecustomize that is really installed, if any.
"""

import importlib
import os
import sys


def _install() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != folder]
    try:
        launching = importlib.import_module("gws.drop_in.launching")
    except ImportError:
        # gws may be used where it lies, and not be installed: then it is found behind all that is.
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(folder))))
        try:
            launching = importlib.import_module("gws.drop_in.launching")
        except ImportError as error:  # an Exception would be swallowed, and the program would run without us
            raise SystemExit(f"gws drop-in: {sys.executable} cannot import gws: {error}") from None
    launching.take_over()
    ours = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours


_install()
