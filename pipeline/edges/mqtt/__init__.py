"""MQTT 5: one thread owns the connection, and nothing happens behind its back.

protocol     the state machine: bytes in, events and bytes out
stream       TCP, TLS and WebSocket
connection   the service's connection: readings in, acknowledgements and results out
publisher    the plant's side, through paho-mqtt: simulator and replay
claim        who holds a client id
probe        what a broker can do, for `thrumcast doctor`
topics       topic templates
settings     how to reach a broker
"""

from pipeline.edges.mqtt.claim import Claim, alone_here, claim_topic
from pipeline.edges.mqtt.connection import MqttConnection
from pipeline.edges.mqtt.publisher import MqttPublisher
from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.edges.mqtt.topics import TopicTemplate
from pipeline.edges.ports import LinkEvent

__all__ = [
    "Claim",
    "LinkEvent",
    "MqttConnection",
    "MqttPublisher",
    "MqttSettings",
    "TopicTemplate",
    "alone_here",
    "claim_topic",
]
