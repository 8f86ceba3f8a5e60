"""The logger that gevent-websocket's servers and handlers have."""

from __future__ import annotations

import logging

__all__ = ["create_logger"]


def create_logger(name: str, debug: bool = False, format: str | None = None) -> logging.Logger:
    """Return the logger of this name: it writes to stderr with `debug`, and else nowhere by itself."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    handler: logging.Handler = logging.StreamHandler() if debug else logging.NullHandler()
    if format:
        handler.setFormatter(logging.Formatter(format))
    if debug and logger.level == logging.NOTSET:
        logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    return logger
