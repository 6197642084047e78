"""Work for the disk beside the connection, and the account of every message."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from pipeline.drivers.disk import DiskThread
from pipeline.drivers.intake import Account


def test_a_quick_action_needs_nobody_to_look_after_the_connection() -> None:
    done: list[int] = []
    looked: list[float] = []
    DiskThread()(lambda: done.append(1), looked.append, patience_s=30)
    assert (done, looked) == ([1], [])


def test_the_connection_is_looked_after_while_an_action_takes_long() -> None:
    enough = threading.Event()
    looked: list[float] = []

    def meanwhile(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            enough.set()

    DiskThread()(lambda: enough.wait(30), meanwhile, patience_s=0.0)
    assert len(looked) >= 3


def test_what_an_action_raises_is_raised_where_it_was_asked_for() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        DiskThread()(fail, lambda _: None)


def test_the_disk_is_written_by_one_thread_that_ends_with_its_owner() -> None:
    disk, threads = DiskThread(), set[threading.Thread]()
    for _ in range(3):
        disk(lambda: threads.add(threading.current_thread()), lambda _: None)
    (only,) = threads
    del disk
    only.join(10)
    assert not only.is_alive()


def test_an_action_that_is_done_is_let_go_with_all_that_it_holds() -> None:
    class Rows:
        pass

    disk, rows = DiskThread(), Rows()
    held = weakref.ref(rows)
    disk(lambda rows=rows: None, lambda _: None)
    del rows
    until_s = time.monotonic() + 10
    while held() is not None and time.monotonic() < until_s:  # no other action takes its place
        time.sleep(0.001)
    assert held() is None


def test_an_account_tells_how_many_messages_are_nowhere() -> None:
    assert Account(10, 4, 1, 1, 1, 1, 2).missing == 0
    assert Account(10, 4, 1, 1, 1, 1, 1).missing == 1
