"""Who holds a client id: two services under one id throw each other out for ever, and mosquitto 2.0 tells neither why.

Each service publishes a claim, retained, under the client id, and reads what stands there at every connection. A newly
started service always comes out above the claim it finds, whatever its clock says; one that connects *again* and finds
a claim above its own has been replaced meanwhile, and ends. So the newest wins, after one exchange.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(slots=True)
class Claim:
    """One process's claim to one client id."""

    topic: str
    number: int = field(default_factory=time.time_ns)
    holder: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}")
    token: str = field(default_factory=lambda: secrets.token_hex(8))  # tells two claims of one number apart

    def payload(self) -> bytes:
        """What is published, retained."""
        return json.dumps({"number": self.number, "token": self.token, "holder": self.holder}).encode()

    def meet(self, payload: bytes, *, first: bool) -> str | None:
        """Reads the claim that stands there; returns the holder if it is above ours, which ends us.

        On the `first` connection of a process ours is put above it instead, and must be published again.
        """
        try:
            found = json.loads(payload)
            number, token, holder = int(found["number"]), str(found["token"]), str(found["holder"])
        except (ValueError, KeyError, TypeError):
            return None  # nobody's claim: whatever it is, it cannot throw us out
        if token == self.token or (number, token) < (self.number, self.token):
            return None
        if first:
            self.number = number + 1
            return None
        return holder


def claim_topic(base: str, client_id: str) -> str:
    """Where claims to a client id stand; the id fills one level, whatever is in it."""
    return f"{base}/clients/{quote(client_id, safe='')}"
