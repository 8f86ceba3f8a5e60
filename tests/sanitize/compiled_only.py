"""A plugin for pytest: of the tests that run on both streams, only the compiled one's are left.

There has to be one: without it the tests would pass on the plain stream, and would say nothing.
"""

from __future__ import annotations

from typing import Any

from gws.stream import Plain, Stream

__all__ = ["pytest_collection_modifyitems"]


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what runs on the plain stream alone."""
    assert Stream is not Plain, "the compiled stream cannot be imported"
    left_out = [item for item in items if parameters(item).get("stream_class") is Plain]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def parameters(item: Any) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}
