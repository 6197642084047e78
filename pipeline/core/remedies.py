"""What to change, for every reason of the quarantine and every contradiction of a sender: one sentence each.

docs/quarantine.md is the same table with more words. Reasons that begin with `engine_` name the error that a block
caused.
"""

from __future__ import annotations

from typing import Final

REMEDIES: Final[dict[str, str]] = {
    # reasons of the quarantine: the payload
    "oversize": "send shorter blocks, or raise mqtt.max_payload_bytes",
    "encoding": "send one MessagePack map, JSON object or Arrow stream, uncompressed and without a prefix",
    "content_type": "correct the MQTT content type, or leave it out",
    "malformed": "send all keys of docs/connect.md with their types; the detail names the first that is wrong",
    "version": "send `v` 1",
    "session": "begin a new `session` when rate_hz, unit or channels change",
    "index": "count samples per channel from 0",
    "time": "send `t0` in nanoseconds since 1970 (s * 1e9, ms * 1e6), and only after the clock is set by NTP",
    "rate": "send `rate_hz` in samples per second and channel",
    "channels": "send 1 to 64 different channel names of [A-Za-z0-9_.-]",
    "unit": "send `unit` as a text of 1 to 20 characters",
    "dtype": "send `dtype` f4, or i2 with a `scale`",
    "scale": "send `scale` (value per code) with dtype i2, and none with f4",
    "samples": "send JSON samples as one list of numbers per channel, not base64, not one list per sample",
    "length": "send the same number of samples in every channel, at least one",
    "speed": "send `speed_rpm` in revolutions per minute, or leave it out",
    "orders": "send `orders` as four positive numbers, or leave them out",
    "truth": "send `truth` as an id of [A-Za-z0-9_.-], or leave it out",
    "about": "send at most 64 short facts in `about`",
    # reasons of the quarantine: the message and its stream
    "topic": "publish below mqtt.readings_topic, with ids of [A-Za-z0-9_.-]; or change the template",
    "unknown_machine": "list the machine under [machines], or set mqtt.accept_unknown_machines = true",
    "too_slow": "raise window.length_s, or send a higher rate_hz",
    "too_long": "send shorter blocks",
    "too_many_channels": "use the same channel names on every machine, or raise archive.max_channels",
    "too_many_dates": "set the clock of the sender, load the past with `thrumcast backfill` or raise archive.max_dates",
    "machines_quota": "remove made-up machines with rights at the broker, or raise streams.max_machines",
    "streams_quota": "use the same measuring points at each start, or raise streams.max_per_machine",
    "new_streams_quota": "use the same names at each start, or raise streams.max_new_per_hour",
    "channels_quota": "use the same channel names on every point, or raise streams.max_channels_per_machine",
    "alias": "let the Sparkplug node publish its birth again: it defines the names of its metrics",
    "two_senders": "give each sender a topic of its own; the detail names both sessions",
    "request": "see docs/results.md for requests over MQTT",
    # contradictions, whose blocks are kept
    "counter_restarted": "send a new `session` at each start: a boot count kept in flash, or the start time in ns",
    "index_contradicts_t0": "let `index` count samples per channel since the session began, in 64 bits, not messages",
    "form_changed": "begin a new `session` when rate_hz, unit or channels change",
    "clock_stepped": "let `t0` follow a running clock, and begin a new `session` after a pause without samples",
    "rate_drift": "nothing, if this is the measured rate; the first rate of the session is used",
    "speed_contradicts": "correct the speed, or say where it is from: machines.<id>.speed_source, `speed_source`",
    "unit_unknown": "send one of the units of docs/quarantine.md, or set machines.<id>.unit",
}


def remedy(reason: str) -> str:
    """What to do about a reason or a contradiction."""
    if reason.startswith("engine_"):
        return "report it with the payload from `thrumcast quarantine show`: thrumcast failed on a valid block"
    return REMEDIES.get(reason, "see docs/quarantine.md")  # a companion may refuse for a reason of its own
