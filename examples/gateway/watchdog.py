"""The watchdog: the template that comes with gws, and a policy of our own."""

import gws.watchdog
from gws import skynet

MOST = 32  # connections from one address


class Watchdog(gws.watchdog.Watchdog):
    """Lets nobody in who is here too often, and tells who comes and goes."""

    def socket_open(self, fd, addr):
        print("open", fd, flush=True)
        if sum(other.addr[0] == addr[0] for other in self.agents) >= MOST:
            skynet.call(self.gate, "kick", fd, 1008, f"you are here {MOST} times already")
        else:
            super().socket_open(fd, addr)

    def socket_close(self, fd, code, reason):
        print("close", fd, flush=True)
        super().socket_close(fd, code, reason)
