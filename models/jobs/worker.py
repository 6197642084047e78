"""A training in a process of its own, as the live page starts it: `python -m models.jobs.worker`.

stdin   one line of JSON, the order; then nothing until its end, which ends the training. So no training outlives the
        service that began it, however that service ends. Checkpoints stay, for `thrumcast train --resume last`.
stdout  one JSON object per line: {"say": ...}, {"warn": ...}, {"status": ...} (replaces the status before), and at last
        {"version": ...} or {"failed": ..., "hint": ...}.

The kernel limits its memory: RLIMIT_DATA counts private writable memory, which is what arrays need. The process yields
to the service, as it is one thread of low priority.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading

import msgspec

from models.bundle import VALUE_TASKS
from models.settings import TrainSettings
from pipeline.config.tables import Config
from pipeline.errors import ThrumcastError

NICE = 10


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be trained; `settings` are words KEY=VALUE as for `thrumcast train --set`."""

    config: Config
    settings: tuple[str, ...] = ()
    split: str | None = None
    memory_mib: int = 2048


def tell(**message: str | None) -> None:
    """Write one message."""
    print(json.dumps(message, ensure_ascii=False), flush=True)  # noqa: T201


def work(order: Order) -> None:
    """Carry out an order; whatever goes wrong is the last message."""
    limit = order.memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.nice(NICE)
    too_much = f"the training needs more than the {order.memory_mib} MiB of web.training_memory_mib"
    raise_it = "raise web.training_memory_mib, or train less at once: `thrumcast train --from ...`"
    try:
        from models.jobs.train import TrainRequest, train
        from models.jobs.values import train_values

        settings = TrainSettings.parse(order.settings)
        typed = ["thrumcast", "train", *(f"--set {word}" for word in order.settings)]
        request = TrainRequest(
            order.config.data.path,
            order.config,
            settings,
            order.split,
            command=" ".join([*typed, *(["--split", order.split] if order.split else [])]),
        )
        trained = (train_values if settings.task in VALUE_TASKS else train)(
            request,
            say=lambda text: tell(say=text),
            warn=lambda text: tell(warn=text),
            status=lambda text: tell(status=text),
        )
        tell(version=trained.version)
    except ThrumcastError as error:
        tell(failed=error.message, hint=error.hint)
    except MemoryError:
        tell(failed=too_much, hint=raise_it)
    except (RuntimeError, OSError) as error:
        if "allocate memory" not in str(error):  # torch has no exception of its own for it
            raise
        tell(failed=too_much, hint=raise_it)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    given = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    work(given)
    sys.stdout.flush()
    os._exit(0)  # the thread of stdin holds its lock
