"""Crowds that behave badly: the server survives, keeps nothing of theirs, and whoever behaves well notices nothing.

GWS_LOAD_CLIENTS and GWS_LOAD_SECONDS make them larger, and longer.
"""

from __future__ import annotations

import os

import pytest
from hostile import MIB, attacked
from programs import python

from gws.stream import Plain, Stream

SECONDS = float(os.environ.get("GWS_LOAD_SECONDS", 2))
CLIENTS = int(os.environ.get("GWS_LOAD_CLIENTS", 300))
KINDS = ["plain"] if Stream is Plain else ["compiled", "plain"]


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_drop_without_a_close(kind):
    """No abort, no descriptor or greenlet kept; a steady client beside them never waits longer than a second."""
    # On a slow machine the kernel holds thousands of connections that have ended by the time that they are accepted.
    with (
        attacked(kind, most=256 * MIB, longest=1) as target,
        python("tests/peers/droppers.py", target.port, CLIENTS, SECONDS) as crowd,
    ):
        assert crowd.wait() == 0, crowd.said
        assert int(crowd.said.split()[-1]) >= CLIENTS
