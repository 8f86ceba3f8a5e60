"""The names under which older libraries were imported: `geventwebsocket`, `gevent_ws` and `simple_websocket`.

Knows imports alone, and loads nothing, gevent least of all, until one of the names is asked for.  `install()` lets them
be found in this package; a library that is really installed comes first unless `force` says otherwise.  What each
stand-in covers is said in its own room, and in the README.

    import gws.drop_in
    gws.drop_in.install()
    from geventwebsocket.handler import WebSocketHandler  # gws's
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from gws.limits import Limits

__all__ = ["NAMES", "install", "installed", "options", "prefer", "really_there", "uninstall"]

#: The names that lead here.
NAMES = ("geventwebsocket", "gevent_ws", "simple_websocket")

#: The options that every stand-in gives to its connections, besides its own library's.
options: dict[str, Any] = {}

# None of the three looked at the Origin: a page from anywhere came in, and a program may live on that.
_AS_IT_WAS: dict[str, Any] = {"origins": "*"}


def install(
    *names: str, force: bool = False, origins: Iterable[str] | None = _AS_IT_WAS["origins"], **limits: Any
) -> tuple[str, ...]:
    """Let `import geventwebsocket` and the others find gws; return those of `names` (all) that do from now on.

    A package that is really installed keeps its name unless `force` is true.   `origins` is that of
    `gws.server.listen`, but for its default: any; `limits` are the fields of `gws.limits.Limits`.   RuntimeError if
    one was imported already, and would stay what it is for whoever has it.
    """
    wanted = _checked(names or NAMES)
    Limits(**limits)
    for name in wanted:
        if force and name in sys.modules and not _is_ours(name):
            raise RuntimeError(f"{name} was imported before gws.drop_in.install(): call that first")
    uninstall()
    options.clear()
    options.update(limits, origins=origins)
    # In front of the others, or behind them: that is all the difference.
    sys.meta_path.insert(0 if force else len(sys.meta_path), _Finder(wanted))
    return wanted if force else tuple(name for name in wanted if not really_there(name))


def prefer(name: str) -> None:
    """Let one more name lead here, also where the real package is installed; what was installed before stays so.

    For a server under which the real one cannot work.   ValueError if we stand in for no such package.
    """
    first = sys.meta_path[0]
    if not (isinstance(first, _Finder) and name in first.names):
        sys.meta_path.insert(0, _Finder(_checked((name,))))


def uninstall() -> None:
    """Take the names away again; who has imported something under them keeps it."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES and _is_ours(name)]:
        del sys.modules[name]
    options.clear()
    options.update(_AS_IT_WAS)


def installed() -> tuple[str, ...]:
    """Return the names that may lead here."""
    found = [name for finder in sys.meta_path if isinstance(finder, _Finder) for name in finder.names]
    return tuple(dict.fromkeys(found))


def really_there(name: str) -> bool:
    """Tell whether a package of this name is installed (or was put in the way of ours by somebody else)."""
    return PathFinder.find_spec(name) is not None or (name in sys.modules and not _is_ours(name))


class _Finder(MetaPathFinder):
    """Finds `geventwebsocket.handler` as `gws.drop_in.geventwebsocket.handler`, and so on."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, dot, _ = fullname.partition(".")
        if top not in self.names or (dot and not _is_ours(top)):
            return None  # a module that only the real package lacks is not ours to add
        found = importlib.util.find_spec(f"{__name__}.{fullname}")
        if found is None:
            return None
        return ModuleSpec(
            fullname, _Alias(), origin=found.origin, is_package=found.submodule_search_locations is not None
        )


class _Alias(Loader):
    """Loads a module by giving it one more name: it is one module, whichever name it is imported by."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__name__}.{spec.name}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib has put that of the other name there


def _is_ours(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and module is sys.modules.get(f"{__name__}.{name}")


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"there is no stand-in for {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


options.update(_AS_IT_WAS)
