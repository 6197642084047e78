"""Engine processes: the engine of the live loop on several cores, behind one connection and one journal.

    loop       takes and decodes messages, hands each block to the process of its stream
    processes  windows, features, network and alarms of their streams
    loop       publishes predictions, commits, acknowledges, publishes alarms and states

A process has the working states of its streams in memory, and no file and no connection. What is true stands in the one
journal, which the loop alone writes. So their number may change from start to start: no data moves. A process that dies
ends the service (`finished` raises), and the next start gives its streams to another one as the journal has them.

A stream stays with the process that got its first block, the one with the fewest streams. Requests and answers go
through pipes, in order. While a pipe is full the loop reads answers, so the two sides never wait for each other.
Samples and states, which are most of the bytes, go through memory that both sides see.
"""

from __future__ import annotations

import gc
import logging
import math
import mmap
import os
import pickle
import select
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.process import BaseProcess
from typing import Any, Final, Self, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.core.engine import Engine, Step
from pipeline.core.records import AlarmChange, Block, Rejected, StreamKey
from pipeline.core.state import StreamState, from_bytes, to_bytes
from pipeline.drivers.backfill_pool import prepare
from pipeline.drivers.intake import acknowledge_alarms, step_all
from pipeline.edges.ports import Batch, Message
from pipeline.errors import ThrumcastError

AHEAD: Final = 2  # batches that are begun at most: one is worked on, one waits in the pipe
MESSAGES: Final = 128  # of a batch, per process: small enough that the loop and the processes work at the same time
BYTES: Final = 3 * 2**20  # of a batch, per process
_SLOT_BYTES: Final = 2**22  # of the samples of one batch; beyond, they go through the pipe
_STATES_BYTES: Final = 2**26  # of the states of one commit; beyond, they go through the pipe
_ALIGNED: Final = 64  # bytes
SILENT_S = 60.0  # without an answer, after which a process counts as hung
_HEADER: Final = 8  # bytes: the length of what follows

log = logging.getLogger("thrumcast.live")

MakeEngine = Callable[[], Engine]  # can be pickled; called in the process


# -- requests --------------------------------------------------------------------------------------------------------


class Use(msgspec.Struct, tag=True):
    """Work with this engine from now on."""

    make: bytes  # a pickled MakeEngine


class Put(msgspec.Struct, tag=True):
    """Take over these states; `only` forgets all others."""

    states: list[tuple[StreamKey, bytes]]
    only: bool


class Blocks(msgspec.Struct, tag=True):
    """Step over these blocks."""

    blocks: list[Block]
    messages: list[int]  # of each block, as the loop numbers them


class Acknowledge(msgspec.Struct, tag=True):
    """People have acknowledged these alarms."""

    alarms: list[tuple[StreamKey, str]]
    now_ns: int


class Save(msgspec.Struct, tag=True):
    """Tell the states that have changed since the last `Save`."""


Request = Use | Put | Blocks | Acknowledge | Save
Placed = int | bytes  # where it lies in the shared memory, or itself


class Shared:
    """Memory that the loop and one process see: `AHEAD` slots for samples in turn, then room for the states.

    A slot is free again when its batch is answered, the room for the states when they are read.
    """

    def __init__(self, fd: int) -> None:
        self._bytes = np.frombuffer(mmap.mmap(fd, AHEAD * _SLOT_BYTES + _STATES_BYTES), np.uint8)
        self._batches = self._at = self._end = 0
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._plain)
        self._decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request, dec_hook=self._array)

    def encode(self, request: Request) -> bytes:
        """A request as bytes, its samples in the next slot."""
        if isinstance(request, Blocks):
            self._batches += 1
            self._begin(self._batches % AHEAD * _SLOT_BYTES, _SLOT_BYTES)
        return self._encoder.encode(request)

    def decode(self, data: memoryview) -> Request:
        """The request, with copies of its samples."""
        return self._decoder.decode(data)

    def place_all(self, datas: Sequence[bytes]) -> list[tuple[Placed, int]]:
        """Where each of these lies in the room for the states, and its size."""
        self._begin(AHEAD * _SLOT_BYTES, _STATES_BYTES)
        return [
            (data if (at := self._place(np.frombuffer(data, np.uint8))) is None else at, len(data)) for data in datas
        ]

    def take(self, placed: Placed, size: int) -> bytes:
        """A copy of what was placed."""
        return placed if isinstance(placed, bytes) else self._bytes[placed : placed + size].tobytes()

    def _begin(self, at: int, size: int) -> None:
        self._at, self._end = at, at + size

    def _place(self, data: NDArray[np.uint8]) -> int | None:
        at, end = self._at, self._at + data.size
        if end > self._end:
            return None
        self._bytes[at:end] = data
        self._at = end + -end % _ALIGNED
        return at

    def _plain(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            msg = f"expected a value that can be sent, found: {type(value).__name__}"
            raise TypeError(msg)
        data = np.ascontiguousarray(value, "<f4").reshape(-1).view(np.uint8)
        at = self._place(data)
        return value.shape, data.tobytes() if at is None else at

    def _array(self, kind: type, value: Any) -> Any:
        shape, placed = value
        if isinstance(placed, bytes):
            return np.frombuffer(placed, "<f4").reshape(shape)
        return self._bytes[placed : placed + 4 * math.prod(shape)].copy().view("<f4").reshape(shape)


def _memory_file() -> int:
    """A file descriptor of the size of `Shared`, with no name and no disk where the system can do that."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("thrumcast-engine")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, AHEAD * _SLOT_BYTES + _STATES_BYTES)
    return fd


# -- the process -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stepped:
    """What a process found in its share of a batch."""

    step: Step  # without states and without rejected blocks
    refused: list[tuple[int, str, str]]  # number of the message, reason, detail
    gone: list[int]  # places of the blocks on which the engine failed
    feature_s: float
    inference_s: float


@dataclass(slots=True)
class Worker:
    """The working states of some streams, and the engine that steps them."""

    shared: Shared
    engine: Engine | None = None
    states: dict[StreamKey, StreamState] = field(default_factory=dict)
    changed: set[StreamKey] = field(default_factory=set)

    def answer(self, request: Request) -> object:
        """Do what is asked."""
        match request:
            case Use(make):
                self.engine = pickle.loads(make)()
            case Put(states, only):
                if only:
                    self.states, self.changed = {}, set()
                self.states |= {key: from_bytes(self._engine.spec_of(key), data) for key, data in states}
            case Blocks(blocks, messages):
                return self._stepped(blocks, messages)
            case Acknowledge(alarms, now_ns):
                step = Step()
                acknowledge_alarms(self.states, Batch([], alarms_seen=alarms), step, now_ns)
                self._keep(step)
                return step.alarms
            case Save():
                keys, spec_of = list(self.changed), self._engine.spec_of
                self.changed = set()
                placed = self.shared.place_all([to_bytes(spec_of(key), self.states[key]) for key in keys])
                return [(key, *where) for key, where in zip(keys, placed, strict=True)]
        return None

    @property
    def _engine(self) -> Engine:
        assert self.engine is not None  # `Use` is the first request
        return self.engine

    def _stepped(self, blocks: list[Block], messages: list[int]) -> Stepped:
        # `step_all` tells messages apart and looks into none of them, so their numbers stand for them.
        batch = Batch([], blocks=blocks, origin=cast("list[Message]", messages))
        step = step_all(self._engine, self.states, batch)
        self._keep(step)
        kept = {id(block) for block in batch.blocks}
        gone = [] if len(kept) == len(blocks) else [i for i, block in enumerate(blocks) if id(block) not in kept]
        refused = [(cast("int", number), reason, detail) for number, reason, detail in batch.refused]
        step.states = {}
        step.troubles = [trouble for trouble in step.troubles if not isinstance(trouble, Rejected)]
        return Stepped(step, refused, gone, batch.feature_s, batch.inference_s)

    def _keep(self, step: Step) -> None:
        self.states |= step.states
        self.changed |= step.states.keys()


def serve(requests: PipeEnd, answers: PipeEnd, memory: PipeEnd) -> None:
    """The process: answers requests until the loop's process has gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a stop is the loop's business
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    shared = Shared(memory.fileno())
    worker = Worker(shared)
    gc.freeze()
    while (data := _read(requests.fileno())) is not None:
        try:
            answer = worker.answer(shared.decode(data))
        except Exception as error:  # the loop's process raises it
            answer = error if isinstance(error, ThrumcastError) else ThrumcastError(f"{type(error).__name__}: {error}")
        try:
            _write(answers.fileno(), pickle.dumps(answer, 5))
        except BrokenPipeError:
            return


def _read(fd: int) -> memoryview | None:
    """The next request or answer; None at the end."""
    header = _read_bytes(fd, _HEADER)
    return None if header is None else _read_bytes(fd, int.from_bytes(header))


def _read_bytes(fd: int, count: int) -> memoryview | None:
    data = memoryview(bytearray(count))
    done = 0
    while done < count:
        some = os.readv(fd, [data[done:]])
        if some == 0:
            return None
        done += some
    return data


def _write(fd: int, data: bytes) -> None:
    """On a pipe that blocks."""
    for part in (len(data).to_bytes(_HEADER), data):
        left = memoryview(part)
        while left:
            left = left[os.write(fd, left) :]


# -- the loop's side -------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Answer:
    """What will come back for a request."""

    value: Any = None
    has_come: bool = False
    since_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class _Process:
    """One process, as the loop sees it."""

    process: BaseProcess
    requests: PipeEnd
    answers: PipeEnd
    shared: Shared
    awaited: deque[Answer] = field(default_factory=deque)  # in the order of the requests
    streams: int = 0
    busy_s: float = 0.0  # what its steps have taken

    @classmethod
    def start(cls, number: int) -> Self:
        """Start a process and keep the loop's ends of its pipes."""
        there, requests = Pipe(duplex=False)
        answers, back = Pipe(duplex=False)
        memory = PipeEnd(_memory_file())  # no pipe: but what can be sent to a process as one
        process = get_context("forkserver").Process(
            target=serve, args=(there, back, memory), name=f"engine-{number}", daemon=True
        )
        process.start()
        shared = Shared(memory.fileno())
        for end in (there, back, memory):
            end.close()
        os.set_blocking(requests.fileno(), False)
        return cls(process, requests, answers, shared)


@dataclass(slots=True, eq=False)
class _Begun:
    """A batch that the processes work on."""

    batch: Batch
    shares: list[tuple[_Process, list[int], Answer]]  # the places of a process's blocks, and what it found

    @property
    def is_done(self) -> bool:
        return all(answer.has_come for *_, answer in self.shares)

    def step(self) -> Step:
        """What all processes found, as if the loop had stepped the batch itself."""
        batch, step = self.batch, Step()
        refused: list[tuple[int, str, str]] = []
        gone: set[int] = set()
        for process, places, answer in self.shares:
            found: Stepped = answer.value
            step.features += found.step.features
            step.predictions += found.step.predictions
            step.forecasts += found.step.forecasts
            step.alarms += found.step.alarms
            step.troubles += found.step.troubles
            refused += found.refused
            gone |= {places[i] for i in found.gone}
            process.busy_s += found.feature_s + found.inference_s
            batch.feature_s = max(batch.feature_s, found.feature_s)
            batch.inference_s = max(batch.inference_s, found.inference_s)
        firsts = {number: (reason, detail) for number, reason, detail in reversed(refused)}
        for number, refusal in sorted(firsts.items()):  # one per message: its blocks may be with several processes
            batch.refuse(batch.origin[number], *refusal)
        if gone:
            kept = [i for i in range(len(batch.blocks)) if i not in gone]
            batch.blocks, batch.origin = [batch.blocks[i] for i in kept], [batch.origin[i] for i in kept]
        return step


class Engines:
    """The engine processes of a live loop. All methods belong to the loop's thread.

    Every method that talks to the processes raises ThrumcastError when one of them has ended or failed.
    """

    def __init__(self, count: int, recipe_of: Callable[[Engine], MakeEngine]) -> None:
        """Starts `count` processes. `recipe_of` says how they make an engine that does the same as the loop's."""
        self.begun: deque[_Begun] = deque()
        self._recipe_of = recipe_of
        self._recipe: MakeEngine | None = None
        self._place: dict[StreamKey, _Process] = {}
        prepare()
        self._processes = [_Process.start(number) for number in range(count)]
        self._by_answers = {each.answers.fileno(): each for each in self._processes}
        self._poll = select.poll()
        for fd in self._by_answers:
            self._poll.register(fd, select.POLLIN)
        log.info("engines_started pids=%s", ",".join(str(each.process.pid) for each in self._processes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. They have nothing to save."""
        for each in self._processes:
            each.requests.close()
        until_s = time.monotonic() + 2.0
        for each in self._processes:
            each.process.join(max(0.0, until_s - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()
            each.answers.close()

    @property
    def messages(self) -> int:
        """Messages of all batches that are begun."""
        return sum(len(each.batch.messages) for each in self.begun)

    @property
    def batches(self) -> list[Batch]:
        """The batches that are begun."""
        return [each.batch for each in self.begun]

    @property
    def figures(self) -> list[tuple[int, int, float]]:
        """Process id, number of streams and seconds of work of each process. Other threads may ask."""
        return [(each.process.pid or 0, each.streams, each.busy_s) for each in self._processes]

    def piece(self, messages: Sequence[Message]) -> Sequence[Message]:
        """As many of the next messages as one batch should have, at least one."""
        count, size = 0, 0
        for message in messages[: MESSAGES * len(self._processes)]:
            size += len(message.payload)
            if count and size > BYTES * len(self._processes):
                break
            count += 1
        return messages[:count]

    def begin(self, engine: Engine, batch: Batch) -> None:
        """Hand a batch over. Call it only while fewer than `AHEAD` batches are begun."""
        assert len(self.begun) < AHEAD
        self.use(engine)
        places: dict[_Process, list[int]] = {}
        number_of: dict[int, int] = {}
        numbers = [number_of.setdefault(id(message), place) for place, message in enumerate(batch.origin)]
        for place, block in enumerate(batch.blocks):
            places.setdefault(self._of(block.key), []).append(place)
        shares = [
            (each, some, self._ask(each, Blocks([batch.blocks[i] for i in some], [numbers[i] for i in some])))
            for each, some in places.items()
        ]
        self.begun.append(_Begun(batch, shares))

    def finished(self, timeout_s: float = 0.0) -> list[tuple[Batch, Step]]:
        """The batches that are done, in the order in which they were begun; waits at most `timeout_s` for an answer.

        The steps have no states: `take_states` has them.
        """
        self._pump(0.0 if self.begun and self.begun[0].is_done else timeout_s)
        for each in self._processes:
            if each.awaited and time.monotonic() - each.awaited[0].since_s > SILENT_S:
                name = f"{each.process.name} (process {each.process.pid})"
                msg = f"expected an answer of {name} within {SILENT_S:g} s, found: none"
                raise ThrumcastError(msg, hint="start the service again: nothing is lost")
        done = []
        while self.begun and self.begun[0].is_done:
            first = self.begun.popleft()
            done.append((first.batch, first.step()))
        return done

    def ask_states(self) -> list[Answer]:
        """Ask for the states that have changed since the last call, as they are after the batches that are begun."""
        return [self._ask(each, Save()) for each in self._processes]

    def have_come(self, answers: Sequence[Answer]) -> bool:
        """Whether these have come; `finished` reads them."""
        return all(answer.has_come for answer in answers)

    def take_states(self, answers: Sequence[Answer]) -> dict[StreamKey, bytes]:
        """The states that were asked for."""
        pairs = zip(self._processes, answers, strict=True)
        return {key: each.shared.take(*where) for each, answer in pairs for key, *where in answer.value}

    def put(self, engine: Engine, states: Mapping[StreamKey, StreamState], *, only: bool = False) -> None:
        """Let these states be the working states; with `only` there are no others."""
        self.use(engine)
        shares: dict[_Process, list[tuple[StreamKey, bytes]]] = {each: [] for each in self._processes if only}
        for key in sorted(states):
            shares.setdefault(self._of(key), []).append((key, to_bytes(engine.spec_of(key), states[key])))
        self._await([self._ask(each, Put(share, only)) for each, share in shares.items()])

    def acknowledge(self, alarms: Sequence[tuple[StreamKey, str]], now_ns: int) -> list[AlarmChange]:
        """Tell the processes that people have acknowledged alarms; which of them this has changed."""
        shares: dict[_Process, list[tuple[StreamKey, str]]] = {}
        for key, alarm_id in alarms:
            if key in self._place:
                shares.setdefault(self._place[key], []).append((key, alarm_id))
        answers = [self._ask(each, Acknowledge(share, now_ns)) for each, share in shares.items()]
        self._await(answers)
        return [change for answer in answers for change in answer.value]

    def use(self, engine: Engine) -> None:
        """Let the processes step with an engine like this one; waits until they have made it, if it is another."""
        recipe = self._recipe_of(engine)
        if recipe is not self._recipe:
            data = pickle.dumps(recipe)
            self._await([self._ask(each, Use(data)) for each in self._processes])
            self._recipe = recipe

    def _of(self, key: StreamKey) -> _Process:
        process = self._place.get(key)
        if process is None:
            process = self._place[key] = min(self._processes, key=lambda each: each.streams)
            process.streams += 1
        return process

    # -- pipes -------------------------------------------------------------------------------------------------------

    def _ask(self, process: _Process, request: Request) -> Answer:
        data = process.shared.encode(request)
        answer = Answer()
        process.awaited.append(answer)
        fd = process.requests.fileno()
        for part in (len(data).to_bytes(_HEADER), data):
            left = memoryview(part)
            while left:
                try:
                    left = left[os.write(fd, left) :]
                except BlockingIOError:
                    self._pump(None, writing=fd)
                except BrokenPipeError as error:
                    raise self._lost(process) from error
        return answer

    def _await(self, answers: Sequence[Answer]) -> None:
        while not self.have_come(answers):
            self._pump(0.25)

    def _pump(self, timeout_s: float | None, *, writing: int | None = None) -> None:
        """Read the answers that have come; wait for one, or for space in a pipe, if there is none."""
        if writing is not None:
            self._poll.register(writing, select.POLLOUT)
        try:
            ready = self._poll.poll(None if timeout_s is None else 1000 * timeout_s)
        finally:
            if writing is not None:
                self._poll.unregister(writing)
        for fd, _ in ready:
            process = self._by_answers.get(fd)
            if process is None:
                continue
            data = _read(fd)
            if data is None or not process.awaited:
                raise self._lost(process)
            answer = process.awaited.popleft()
            answer.value, answer.has_come = pickle.loads(data), True
            if isinstance(answer.value, Exception):
                raise answer.value

    def _lost(self, process: _Process) -> ThrumcastError:
        process.process.join(1.0)
        code = process.process.exitcode
        msg = f"expected {len(self._processes)} engine processes, found {process.process.name} ended with: {code}"
        hint = "start the service again: nothing is lost. Ended with -9, look for the memory killer in dmesg"
        return ThrumcastError(msg, hint=hint)
