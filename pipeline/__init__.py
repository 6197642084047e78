"""thrumcast: listens to rotating machines and says, window by window, what is going wrong with each of them.

    bytes ─codec─> Block ─order─> Block ─window─> Window ─features─> row ─model step─> Prediction ─alarm─> AlarmChange
      ^            └──────────────── pipeline.core: pure, one state per stream ───────────────────┘            |
      |                                                                                                        v
    edges.mqtt, edges.recordings        driven by drivers.live | drivers.backfill        edges.journal -> edges.archive
                                                                                         edges.mqtt

* `pipeline.core` is the pure step over a small, visible state: no clock, file, socket, thread or log.
* `pipeline.edges` is the world: one outside system per module.
* `pipeline.drivers` are loops: they own time, the order of commit and parallelism.
* `models` holds the network, its training and its registry; `sim` the simulated plant.

Importing this package loads neither torch nor pyarrow nor an MQTT client, not even numpy.
"""

from __future__ import annotations

from pipeline.errors import ThrumcastError

__version__ = "0.1.0"

__all__ = ["ThrumcastError", "__version__"]
