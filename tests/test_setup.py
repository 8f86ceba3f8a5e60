"""setup.py: what an sdist holds."""

from __future__ import annotations

import runpy
import shutil
import subprocess

import pytest
from programs import ROOT


def test_an_sdist_holds_all_that_is_kept():
    """So that its tests run from its folder; what is made from it, or by it, is left out."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no clone, but an sdist, maybe")
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    held = set(runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["whole"]())
    there = {path for path in kept if (ROOT / path).exists()}
    ours = ("gws/", "setup.", "LICENSE", "pyproject.toml", ".gitignore")  # setuptools sees to these, or nobody need
    assert {path for path in there if not path.startswith(ours)} <= held
    assert not [path for path in held if "node_modules" in path or path.endswith(".pyc")]
