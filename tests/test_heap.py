"""gws.heap: what is free goes back, once for all who ask within a second."""

from __future__ import annotations

import pytest
from conftest import until
from gevent import get_hub

from gws import heap


@pytest.fixture
def trims(monkeypatch):
    trims = []
    monkeypatch.setattr(heap, "_trim", trims.append)
    monkeypatch.setattr(heap, "_SOON", 0.01)
    yield trims
    until(lambda: vars(get_hub()).get("gws_trim") is None)


def test_many_ask_and_one_walk_is_made(trims):
    for _ in range(100):
        heap.trim_soon()
    assert trims == []
    until(lambda: trims)
    assert trims == [0]
    heap.trim_soon()
    until(lambda: len(trims) == 2)


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(heap, "_trim", None)
    heap.trim_soon()
    assert vars(get_hub()).get("gws_trim") is None


def test_it_walks():
    if heap._trim is None:
        pytest.skip("malloc is not glibc's")
    assert heap._trim(0) in (0, 1)
