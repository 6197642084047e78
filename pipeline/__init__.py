"""thrumcast listens to rotating machines and names, window by window, the failure mode of each of them.

    bytes ─codec─> Block ─order─> Block ─window─> Window ─features─> row ─model step─> Prediction ─alarm─> AlarmChange
      ^            └──────────────── pipeline.core: pure, one state per stream ───────────────────┘            |
      |                                                                                                        v
    edges.mqtt, edges.recordings        driven by drivers.live | drivers.backfill        edges.store: journal -> parts
                                                                                         edges.mqtt

* `pipeline.core` is the pure step over a small, visible state: no clock, file, socket, thread or log.
* `pipeline.edges` is the outside world: one system per module or folder.
* `pipeline.drivers` are loops: they own time, the order of commits and parallelism.
* `pipeline.service` is the running service, `pipeline.page` its live page, `pipeline.commands` its command line.
* `models` contains the network, its training and its registry; `sim` is the simulated plant.

Importing this package does not load torch, pyarrow, an MQTT client or numpy.
"""

from __future__ import annotations

from pipeline.errors import ThrumcastError

__version__ = "0.1.0"

__all__ = ["ThrumcastError", "__version__"]
