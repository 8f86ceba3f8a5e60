"""The agent of one client: it judges what the client says, and tells the world what that means."""

import json
import unicodedata

from gws import skynet


class Agent:
    """Takes {"name": ...} first, {"to": [x, y]} from then on, each from 0 to 1; whoever says anything else must go."""

    def start(self, conf):
        self.gate, self.client = conf["gate"], conf["client"]
        self.world, self.inside = skynet.query(".world"), False
        skynet.call(self.gate, "forward", self.client)

    def message(self, fd, msg):
        try:
            said = json.loads(msg)
            if self.inside:
                self.steer(*said["to"])
            else:
                self.enter(said["name"])
        except (ValueError, LookupError, TypeError, RecursionError):
            wanted = '{"to": [x, y]}' if self.inside else '{"name": "..."}'
            skynet.call(self.gate, "kick", fd, 1007, f"expected {wanted} in JSON")

    def enter(self, name):
        name = " ".join(unicodedata.normalize("NFC", name).split())[:16]
        if not name.isprintable() or not name:
            raise ValueError("a name has to be seen")
        self.inside = True
        skynet.send(self.world, "enter", self.client, name)

    def steer(self, x, y):
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError("that is beyond the end of the world")
        skynet.send(self.world, "steer", self.client, x, y)

    def disconnect(self):
        skynet.send(self.world, "leave", self.client)
        skynet.exit()
