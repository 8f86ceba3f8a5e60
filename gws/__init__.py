"""gws: WebSockets for gevent, in blocking greenlet style.

`import gws.server` for a server, `import gws.client` for a client; `gws.errors` holds what they raise.
"""

from gws.errors import (
    CallFailed,
    ConnectionClosed,
    GwsError,
    HandshakeError,
    InvalidPayload,
    MessageTooBig,
    PolicyViolation,
    ProtocolError,
    ServiceError,
    ServiceExited,
)

__version__ = "0.1.0"

__all__ = [
    "CallFailed",
    "ConnectionClosed",
    "GwsError",
    "HandshakeError",
    "InvalidPayload",
    "MessageTooBig",
    "PolicyViolation",
    "ProtocolError",
    "ServiceError",
    "ServiceExited",
    "__version__",
]
