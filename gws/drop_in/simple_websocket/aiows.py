"""simple-websocket's asyncio side, which gws has not: gevent's loop is another one."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["AioClient", "AioServer"]


class _Asyncio:
    def __init__(self, *args: Any, **kwargs: Any):
        _refuse(type(self))

    @classmethod
    async def accept(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse."""
        _refuse(cls)

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse."""
        _refuse(cls)


class AioServer(_Asyncio):
    """NotImplementedError, whatever is done with it."""


class AioClient(_Asyncio):
    """NotImplementedError, whatever is done with it."""


def _refuse(what: type) -> NoReturn:
    raise NotImplementedError(
        f"simple_websocket.{what.__name__} runs on asyncio, and gws, which stands in for simple_websocket here, on "
        "gevent: let the real package have its name (gws.drop_in.install() without it, or without force)"
    )
