"""python examples/tls.py [PORT [CERTFILE [KEYFILE]]]   --   the echo server, on wss.

Without a certificate it makes one for localhost (with the package `trustme`) that nobody trusts but who is told to.
"""

import ssl
import sys

import gws.server as server

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8888


@server.on("message")
def message(fd, msg):
    fd.write(msg)


def serve_given(certfile, keyfile=None):
    """Serve with a certificate of yours; `keyfile` is for a key that is not in `certfile`."""
    print(f"wss://127.0.0.1:{PORT} with the certificate in {certfile}", flush=True)
    server.listen("127.0.0.1", PORT, certfile=certfile, keyfile=keyfile)


def serve_self_made():
    """Serve with a certificate made on the spot: for a look at it, never for the world."""
    try:
        import trustme
    except ImportError:
        sys.exit("tls.py: no CERTFILE was given, and to make one takes the package trustme: pip install trustme")
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as cafile:
        print("No CERTFILE was given: this SELF-MADE certificate is for trying things out on this machine only.")
        print(f"wss://localhost:{PORT} is trusted by clients that verify with {cafile} (removed in the end):")
        print(f"    SSL_CERT_FILE={cafile} python -m gws connect wss://localhost:{PORT}", flush=True)
        server.listen("127.0.0.1", PORT, ssl=context)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve_given(*sys.argv[2:4])
    else:
        serve_self_made()
