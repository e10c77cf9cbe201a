"""The bare MQTT 5 round trip: sends back at QoS 1 what it gets, and does nothing else.

python -m tests.bench.echo BROKER-PORT
"""

import sys
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.bench.tutorial import no_delay

PING: Final = "echo/ping"
PONG: Final = "echo/pong"


def main(port: int) -> None:
    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe(PING, qos=1)

    def subscribed(*_: Any) -> None:
        print("ready", flush=True)

    def message(client: paho.Client, _data: Any, incoming: paho.MQTTMessage) -> None:
        client.publish(PONG, incoming.payload, qos=1)

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = connected
    client.on_subscribe = subscribed
    client.on_message = message
    client.on_socket_open = no_delay
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
