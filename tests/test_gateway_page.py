"""The gateway example in a real browser: two windows in one meadow, and what its agent does with those who misbehave."""

from __future__ import annotations

from test_browser import DESK, PHONE, browser, page, serving  # noqa: F401  # fixtures

MAIN = "examples/gateway/main.py"
