"""gws.gauge: latencies, processor time, memory."""

from __future__ import annotations

import os

import pytest

from gws.gauge import Latencies, cpu, memory


@pytest.fixture(autouse=True)
def nothing_left():
    """There is nothing here that could be."""


class TestLatencies:
    def test_none(self):
        assert Latencies().percentile(0.5) is None

    @pytest.mark.parametrize(("share", "expected"), [(0.01, 1e-6), (0.5, 50e-6), (0.99, 99e-6), (1, 100e-6)])
    def test_percentiles(self, share, expected):
        latencies = Latencies()
        for micro in range(100, 0, -1):
            latencies.add(micro * 1e-6)
        assert latencies.percentile(share) == pytest.approx(expected, rel=0.011)

    def test_no_time_at_all(self):
        latencies = Latencies()
        latencies.add(0.0)
        assert latencies.percentile(0.5) < 1e-8


class TestProcesses:
    def test_ours(self):
        assert cpu(os.getpid()) > 0
        assert 1000 < memory(os.getpid()) < 2**30

    def test_an_unknown_one(self):
        assert cpu(None) is None
        assert memory(None) is None

    @pytest.mark.parametrize("gauge", [cpu, memory])
    def test_one_that_is_gone(self, gauge):
        with pytest.raises(FileNotFoundError):
            gauge(2**30)
