"""Run the Autobahn testsuite against gws, and compare its verdicts with those in expected.json.

The suite is the one installed in the folder that AUTOBAHN_DIR names, or in ~/.cache/gws-autobahn.  If none is there,
setup.sh installs it: the one in ../shared/autobahn (from the project's root) or in the folder that AUTOBAHN_SUITE
names.  Without such a script, or without a Python 2.7, docker runs the image crossbario/autobahn-testsuite.

With --through, our server is behind nginx or HAProxy (Debian's, with the configurations of examples/deploy), and the
suite speaks wss to that.

Exit status: 0 all verdicts are as expected, 1 some are not (or our peer has logged something), 2 there are no
verdicts, 3 there is no suite.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import suite
from suite import ROOT, CannotRun, NoSuite

HERE = Path(__file__).resolve().parent
FRONTS = ("nginx", "haproxy")
EXPECTED = json.loads((HERE / "expected.json").read_text())
EXPECTED["reader"] = EXPECTED["client"]
AGENT = "gws"
STREAMS = ("compiled", "plain")

# Of 12 and 13 three cases of each group, 64 and 4096 bytes and 8192 in fragments, and of most other sizes one: those
# left out are of 32 KiB and more, 2 to 15 s each.
QUICK = ["[1-79].*", "10.*", "1[23].*.2", "1[23].*.5", "1[23].*.11"]
QUICK += ["12.1.7", "12.2.1", "12.3.3", "12.4.10", "13.2.13", "13.3.6", "13.6.12", "13.7.4"]


def main():
    """Do what the command line says; return the exit status."""
    options = parse_arguments()
    total = changed = 0
    try:
        wstest = suite.find()
        for stream in STREAMS if options.stream == "both" else [options.stream]:
            environment = environment_for(stream)
            for role in ("server", "client") if options.role == "both" else [options.role]:
                results = run(wstest, stream, role, environment, options)
                total, changed = total + results[0], changed + results[1]
    except (NoSuite, CannotRun) as error:
        print(error, file=sys.stderr)
        return 3 if isinstance(error, NoSuite) else 2
    print(f"{total - changed} passed, {changed} failed")
    return 1 if changed else 0


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="patterns of cases, such as 9.3.1 or '12.*'; by default all 517")
    parser.add_argument("--quick", action="store_true", help="all of 1 to 7, 9 and 10, and a spread of 12 and 13")
    parser.add_argument("--stream", choices=[*STREAMS, "both"], default="both", help="which stream (both)")
    parser.add_argument(
        "--role", choices=[*ROLES, "both"], default="both", help="what gws is (both); reader: a client that loops"
    )
    parser.add_argument(
        "--through", choices=FRONTS, help="wss to this proxy, before our server; by default cases 1 to 7"
    )
    parser.add_argument("--reports", type=Path, default=ROOT / "reports/autobahn", help="the folder for its reports")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one role on one stream (3600)")
    options = parser.parse_args()
    if options.through and options.role not in ("server", "both"):
        parser.error("a proxy is before servers")
    options.role = "server" if options.through else options.role
    patterns = options.cases + QUICK * options.quick or ["[1-7].*" if options.through else "*"]
    for pattern in patterns:
        if not select([pattern]):
            parser.error(f"no case has a name like {pattern}")
    options.cases = select(patterns)
    return options


def select(patterns):
    """Return the cases that match one of the patterns, in order."""
    return [case for case in EXPECTED["server"] if any(fnmatch.fnmatch(case, pattern) for pattern in patterns)]


def environment_for(stream):
    """Return the environment in which gws has that stream."""
    environment = {**os.environ, "GWS_PURE": "1" if stream == "plain" else ""}
    if importlib.util.find_spec("gws") is None:  # not installed: this tree is meant
        sys.path.append(str(ROOT))
    if str(ROOT) in sys.path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    probe = "import gws.client, gws.server, gws.stream as stream; print(stream.Stream is stream.Plain)"
    done = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"gws cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    if stream == "compiled" and done.stdout.strip() == "True":
        raise CannotRun("the compiled stream is not built here: pip install -e . builds it")
    return environment


# ------------------------------------------------------------------------------------------------ one role, one stream


def run(wstest, stream, role, environment, options):
    """Run the cases in one role on one stream; return how many things were judged, and how many are wrong."""
    through = f", through {options.through}" if options.through else ""
    outdir = options.reports.absolute() / "-".join(filter(None, [stream, role, options.through]))
    outdir.mkdir(parents=True, exist_ok=True)
    print(f"{role}, {stream} stream{through}, cases: {len(options.cases)}", flush=True)
    began = time.monotonic()
    cases = ["*"] if options.cases == select(["*"]) else options.cases  # with "*", a case that is new to us shows
    with (outdir / f"{role}.log").open("w+") as log:
        peer = {"env": environment, "stderr": log}
        status = ROLES[role](wstest, outdir, cases, peer, options)
        log.seek(0)
        said = log.read()
    found = suite.verdicts(outdir, AGENT)
    changes = compare(EXPECTED[role], options.cases, found)
    faults = [f"{case}: {' / '.join(now)}, expected {' / '.join(was)}" for case, was, now in changes]
    if status or said:  # a handler that fails need not change a verdict
        faults.append(f"our {role} ended with status {status} and {said.count(chr(10))} lines in {outdir}/{role}.log")
    print(f"    {time.monotonic() - began:.0f} s; the reports are in {outdir}", *faults, sep="\n    ", flush=True)
    return len({*options.cases, *found}) + bool(status or said), len(faults)


def run_server(wstest, outdir, cases, peer, options):
    """Have the fuzzing client go through the cases against our server; return its status if it did not survive."""
    command = [sys.executable, HERE / "server.py"]
    with suite.running(command, stdout=subprocess.PIPE, text=True, **peer) as server:
        url = server.stdout.readline().strip()
        if not url:
            raise CannotRun(f"our server did not start: see {outdir}/server.log")
        with contextlib.ExitStack() as stack:
            if options.through:
                url = stack.enter_context(front(options.through, outdir, url))
            fuzzer = stack.enter_context(suite.fuzzing_client(wstest, outdir, cases, AGENT, url))
            wait(fuzzer, options.timeout)
        return server.poll()


@contextlib.contextmanager
def front(name, outdir, url):
    """Run a proxy before the server at `url`; what comes is its URL."""
    sys.path.append(str(HERE.parent))
    import deploy

    if deploy.found(name) is None:
        raise CannotRun(f"there is no {name} here")
    with tempfile.TemporaryDirectory() as folder:
        proxy = deploy.FRONTS[name].of(Path(folder), suite.free_port())
        deploy.write_certificate(proxy.folder)
        proxy.configure(("127.0.0.1", int(url.rpartition(":")[2])))
        with (
            (outdir / f"{name}.log").open("wb") as log,
            suite.running(proxy.command, stdout=log, stderr=log) as process,
        ):
            suite.wait_until_it_listens(process, proxy.port, f"{name} did not start: see {outdir}/{name}.log")
            yield proxy.url


def run_client(wstest, outdir, cases, peer, options):
    """Have our client go through the cases with the fuzzing server, which then reports; return our client's status."""
    with suite.fuzzing_server(wstest, outdir, cases) as url:
        peer["env"] = {**peer["env"], "AUTOBAHN_URL": url, "AUTOBAHN_AGENT": AGENT}
        with suite.running([sys.executable, HERE / "client.py"], **peer) as client:
            wait(client, options.timeout)
        ask_for_reports(url)
    return client.returncode


def run_reader(wstest, outdir, cases, peer, options):
    """Do so with a client that reads in a loop."""
    peer["env"] = {**peer["env"], "AUTOBAHN_READER": "1"}
    return run_client(wstest, outdir, cases, peer, options)


ROLES = {"server": run_server, "client": run_client, "reader": run_reader}


def wait(process, timeout):
    """Wait for the end of a process."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"not done after {timeout:g} s (--timeout)") from None


def ask_for_reports(url):
    """Have the fuzzing server write its reports: it opens the connection once they are written."""
    import gws.client
    from gws.errors import HandshakeError

    try:
        gws.client.connect(f"{url}/updateReports?agent={AGENT}", timeout=120, proxy=None).join()
    except (HandshakeError, OSError) as error:
        raise CannotRun(f"the fuzzing server writes no reports: {error}") from error


def compare(expected, cases, found):
    """Return (case, expected verdicts, verdicts found) for those that differ, and for cases that we do not know."""
    changes = []
    for case in dict.fromkeys([*cases, *found]):
        was, now = expected.get(case, ["UNKNOWN"]), found.get(case, ["NOT RUN"])
        if was != now:
            changes.append((case, was, now))
    return changes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    sys.exit(main())
