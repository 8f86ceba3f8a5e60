"""The runner itself: what it expects, what it calls a change, and what it says where there is no suite."""

from __future__ import annotations

from pathlib import Path

import deploy
import pytest
import run
import suite

INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}  # whatever the peer does


@pytest.fixture(autouse=True)
def nothing_left():
    """Nothing here has greenlets or descriptors."""


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine on which there is no suite, and an empty folder for programs."""
    for name in "AUTOBAHN_DIR", "AUTOBAHN_SUITE", "PATH":
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("role", run.ROLES)
def test_only_the_informational_cases_are_not_ok(role):
    verdicts = run.EXPECTED[role]
    assert len(verdicts) == 517
    assert {case for case, verdict in verdicts.items() if verdict != ["OK", "OK"]} == INFORMATIONAL
    assert all(verdicts[case] == ["INFORMATIONAL", "INFORMATIONAL"] for case in INFORMATIONAL)


def test_both_roles_have_the_same_cases():
    assert list(run.EXPECTED["server"]) == list(run.EXPECTED["client"])


def test_the_quick_cases_are_all_but_those_of_compression_and_a_spread_of_these():
    quick, every = run.select(run.QUICK), run.select(["*"])
    compressed = {case for case in every if case.startswith(("12.", "13."))}
    assert set(every) - set(quick) <= compressed
    groups = {case.rpartition(".")[0] for case in compressed}
    assert {case.rpartition(".")[0] for case in compressed.intersection(quick)} == groups


def parsed(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    return run.parse_arguments()


@pytest.mark.parametrize("proxy", deploy.FRONTS)
def test_through_a_proxy_goes_the_server_and_cases_1_to_7(monkeypatch, proxy):
    options = parsed(monkeypatch, "--through", proxy)
    assert options.role == "server"
    assert len(options.cases) == 246
    assert {case.partition(".")[0] for case in options.cases} == set("1234567")


def test_through_a_proxy_goes_no_client(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--through", "nginx", "--role", "client")
    assert "a proxy is before servers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        ({"1.1.1": ["OK", "OK"]}, []),
        ({"1.1.1": ["NON-STRICT", "OK"]}, [("1.1.1", ["OK", "OK"], ["NON-STRICT", "OK"])]),
        ({"1.1.1": ["OK", "UNCLEAN"]}, [("1.1.1", ["OK", "OK"], ["OK", "UNCLEAN"])]),
        ({}, [("1.1.1", ["OK", "OK"], ["NOT RUN"])]),
        ({"1.1.1": ["OK", "OK"], "14.1": ["OK", "OK"]}, [("14.1", ["UNKNOWN"], ["OK", "OK"])]),
    ],
    ids=["none", "behavior", "close", "not run", "new"],
)
def test_every_change_of_a_verdict_is_listed(found, changes):
    assert run.compare({"1.1.1": ["OK", "OK"]}, ["1.1.1"], found) == changes


def test_a_better_verdict_is_a_change_too():
    assert run.compare({"7.1.6": ["INFORMATIONAL"] * 2}, ["7.1.6"], {"7.1.6": ["OK", "OK"]})


def test_without_a_suite_it_says_so_on_one_line(bare, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py"])
    assert run.main() == 3
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        f"there is no Autobahn testsuite here: it is not installed in {bare}, and {bare} has no setup.sh; "
        "there is no docker to run crossbario/autobahn-testsuite\n"
    )


@pytest.mark.parametrize(
    ("docker", "reason"),
    [
        ("exit 1", "its daemon does not answer"),
        ('[ "$1" = version ]', "docker cannot pull crossbario/autobahn-testsuite"),
    ],
    ids=["no daemon", "no image"],
)
def test_it_says_what_docker_lacks(bare, docker, reason):
    program(bare / "docker", docker)
    with pytest.raises(suite.NoSuite, match=reason):
        suite.find()


def test_docker_is_asked_last(bare):
    program(bare / "docker", "exit 0")
    command = suite.find()(Path("/reports/of/ours"))
    assert command[:2] == ["docker", "run"]
    assert "/reports/of/ours:/reports" in command


def test_what_is_installed_comes_first(bare):
    program(bare / "docker", "exit 0")
    program(bare / "venv/bin/wstest", "exit 0")
    assert suite.find()(bare)[0] == bare / "venv/bin/python"


def program(path, script):
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
