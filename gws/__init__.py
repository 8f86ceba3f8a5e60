"""gws: WebSockets for gevent, in blocking greenlet style.

`import gws.server` for a server, `import gws.client` for a client; `gws.errors` holds what they raise.
"""

from gws.errors import (
    ConnectionClosed,
    GwsError,
    HandshakeError,
    InvalidPayload,
    MessageTooBig,
    PolicyViolation,
    ProtocolError,
)

__version__ = "0.1.0"

__all__ = [
    "ConnectionClosed",
    "GwsError",
    "HandshakeError",
    "InvalidPayload",
    "MessageTooBig",
    "PolicyViolation",
    "ProtocolError",
    "__version__",
]
