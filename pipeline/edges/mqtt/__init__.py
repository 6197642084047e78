"""MQTT through the external loop of paho: one thread owns the connection and does all of its work."""

from pipeline.edges.mqtt.claim import Claim, alone_here, claim_topic
from pipeline.edges.mqtt.publisher import MqttPublisher
from pipeline.edges.mqtt.settings import MqttSettings
from pipeline.edges.mqtt.source import MqttConnection
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
