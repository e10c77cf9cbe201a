"""The MQTT topics (MQTT 5, QoS 1 throughout). An edge is named by 32 lower-case hex digits.

| topic | from | retained | payload |
|---|---|---|---|
| shuaka/v1/up/<edge>/journal | edge | no | Parcel |
| shuaka/v1/up/<edge>/hello | edge | no | signed Hello |
| shuaka/v1/up/<edge>/state | edge | no | signed Heartbeat |
| shuaka/v1/down/<edge>/receipt | hub | no | signed Receipt |
| shuaka/v1/down/<edge>/roster | hub | no | signed Roster, sealed to the edge |
| shuaka/v1/down/<edge>/keys | hub | no | signed NextKeys |
| shuaka/v1/down/<edge>/order | hub | no | signed Order |
| shuaka/v1/hub/state | hub | yes, and its will | signed HubState |

`down/<edge>/config` is kept for later.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import urlsplit

from protocol.errors import Reason, RemoteError

QOS: Final = 1
HUB_STATE: Final = "shuaka/v1/hub/state"
ALL_UP: Final = "shuaka/v1/up/+/+"


class Up(StrEnum):
    JOURNAL = "journal"
    HELLO = "hello"
    STATE = "state"


def up(edge: bytes, channel: Up) -> str:
    return f"shuaka/v1/up/{edge.hex()}/{channel}"


def receipt(edge: bytes) -> str:
    return f"shuaka/v1/down/{edge.hex()}/receipt"


def roster(edge: bytes) -> str:
    return f"shuaka/v1/down/{edge.hex()}/roster"


def keys(edge: bytes) -> str:
    return f"shuaka/v1/down/{edge.hex()}/keys"


def order(edge: bytes) -> str:
    return f"shuaka/v1/down/{edge.hex()}/order"


def parse_up(topic: str) -> tuple[bytes, Up]:
    """(edge, channel) of a topic under `up`; RemoteError(WRONG_TOPIC) for any other."""
    match = re.fullmatch(r"shuaka/v1/up/([0-9a-f]{32})/(journal|hello|state)", topic)
    if match is None:
        raise RemoteError(Reason.WRONG_TOPIC, f"{topic[:100]!r} is no topic of an edge")
    return bytes.fromhex(match[1]), Up(match[2])


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker listens, as `mqtt://host[:1883]` or, with TLS, `mqtts://host[:8883]`."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, which does not repeat `url`: there may be a password in it."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if (
            not host
            or port == 0
            or parts.scheme not in {"mqtt", "mqtts"}
            or "@" in parts.netloc
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise ValueError("Expected mqtt://HOST[:PORT] or mqtts://HOST[:PORT] and nothing more")
        tls = parts.scheme == "mqtts"
        return cls(host, port or (8883 if tls else 1883), tls)
