"""What a service is made from: a class, or the dotted name of one; its public methods are the commands.

Does not know what becomes of it.
Contract: what is no method (a property, a value, a class within the class) is never looked up on an instance.
"""

from __future__ import annotations

import inspect
from functools import partialmethod, singledispatchmethod
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["class_of", "commands_of"]

_commands: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()


def class_of(service: type | str) -> type:
    """Return the class; "module" is the one that bears its name, "module:Class" or "module.Class" any other."""
    if isinstance(service, type):
        return service
    if not isinstance(service, str):
        raise TypeError(f"a service is made from a class or its name, not from {service!r}")
    path, _, wanted = service.partition(":")
    try:
        module = import_module(path)
    except ModuleNotFoundError as err:
        if wanted or err.name != path:  # it imports what is not there
            raise
        return _within(path, err)
    found = getattr(module, wanted, None) if wanted else _namesake(module.__name__, vars(module))
    if not isinstance(found, type):
        raise ValueError(f"{path} has no class {wanted or 'of its name'}: say '{path}:Class'")
    return found


def commands_of(cls: type) -> frozenset[str]:
    """Return the names of the public methods, the inherited ones too."""
    if cls not in _commands:
        names: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            names.update(vars(base))
        _commands[cls] = frozenset(key for key, value in names.items() if key[:1] != "_" and _is_method(value))
    return _commands[cls]


def _within(path: str, err: ModuleNotFoundError) -> type:
    path, _, wanted = path.rpartition(".")
    found = getattr(import_module(path), wanted, None) if path else None
    if not isinstance(found, type):
        raise err
    return found


def _namesake(path: str, names: dict[str, Any]) -> object:
    bare = path.rpartition(".")[2].replace("_", "").lower()
    return next((value for key, value in names.items() if key.lower() == bare and isinstance(value, type)), None)


def _is_method(value: object) -> bool:
    """Judge what stands in the class's body: a method binds itself to an instance, and can be called."""
    if isinstance(value, staticmethod | classmethod):
        return inspect.isroutine(value.__func__)
    if isinstance(value, partialmethod | singledispatchmethod):
        return True
    return callable(value) and hasattr(type(value), "__get__") and not isinstance(value, type)
