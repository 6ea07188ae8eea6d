"""Workers: started fresh (never forked), reused between segments, replaced after a failure.

`Workers` keeps a number of them, wherever they are. What starts one is a backend: `LocalProcesses`
here, `ablation.execution.ray_driver.RayNodes` on a Ray cluster. `Supervision` ends those whose
trial exceeds a limit of time or memory, and counts how often each trial loses a worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict

from ablation import INSTALLED_IN
from ablation.execution.process import WorkerProcess
from ablation.formatting import duration, show_size
from ablation.storage.runs import Failure, failure
from ablation.subject.protocol import Record

if TYPE_CHECKING:
    # planning is not loaded in worker processes
    from ablation.planning.plan import Segment


# Signals that training code does not cause.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# For a worker's thread to end, after its process has had its time.
JOIN_SECONDS = 20.0


class Request(TypedDict):
    """What a worker is asked to run, JSON-able: a trial's chain up to a link."""

    # as the experiment names it
    subject: str
    # of the trial: dotted key -> value
    settings: dict[str, Any]
    seed: int
    # key of the last link to run
    until: str
    # folder of the store
    cache: str
    # file that gets what the training code prints
    log: str
    # the trial's name, and a folder for files of own code's: see `ablation.subject.own.Place`
    trial: str
    folder: str
    # whether the worker is on a Ray node, where the store asks the driver
    is_remote: NotRequired[bool]


class Message(NamedTuple):
    """A worker's message on its task: `record` for each epoch, and at the end one of the others.

    `epoch`: own code has reported an epoch within a link that goes on, or more of one; `done`;
    `stopped`: as requested; `failed`: training code raised an exception; `blocked`: a disk is full;
    `died`: the process ended by its own doing; `lost`: it was killed from outside, or its machine
    is gone. From workers on other machines also `unfit`: nothing can be run there.
    """

    event: Literal[
        "record", "epoch", "done", "stopped", "failed", "blocked", "died", "lost", "unfit"
    ]
    # of the link that the record is of
    key: str = ""
    # None unless the event is `record` or `epoch`
    record: Record | None = None
    # empty where the event is `record`, `epoch`, `done`, `stopped` or `unfit`
    error: Failure = failure("", "")
    # whether a checkpoint of the epoch has been saved, so that it is never run again
    is_saved: bool = False


class Worker(Protocol):
    """Computes one segment at a time, and puts its messages into the queue given at its start.

    The last message is `died` or `lost`.
    """

    # what it is doing, None if idle
    task: Task | None
    # has not been sent anything yet
    is_new: bool
    # ends after its last message
    thread: threading.Thread

    def is_ready(self) -> bool:
        """Whether it can be sent a request."""

    def send(self, request: Request, task: Task) -> None:
        """Hand a request to a ready and idle worker."""

    def stop(self) -> None:
        """Ask it to finish the epoch in hand, leave a checkpoint and say `stopped`."""

    def kill(self, error: Failure) -> None:
        """End its process at once; it then counts as having died of `error`."""

    def end(self, kill: bool) -> None:
        """End its process: at once if `kill`, else when it has finished what it is doing."""

    def resident_bytes(self) -> int:
        """The memory that its process holds."""


class Event(NamedTuple):
    """A message and the worker that it came from."""

    worker: Worker
    message: Message


Heard = queue.SimpleQueue[Event | Exception]
"""Messages of workers. An exception is raised in the thread that runs the study."""


class Backend(Protocol):
    """Where workers run."""

    def start(self, heard: Heard) -> Worker:
        """Start a worker that puts its messages into the queue."""


class LocalWorker:
    """A worker process on this machine. gpu: the only GPU visible to it; None: all of them.

    variables: of its environment, beside those of this process.
    """

    def __init__(
        self, gpu: str | None, heard: Heard, variables: Mapping[str, str] | None = None
    ) -> None:
        path = os.pathsep.join(filter(None, [str(INSTALLED_IN), os.environ.get("PYTHONPATH")]))
        sees = {} if gpu is None else only(gpu)
        variables = {**os.environ, **(variables or {}), "PYTHONPATH": path, **sees}
        self.gpu, self.process, self._heard = gpu, WorkerProcess(variables), heard
        self.task: Task | None = None
        self.is_new = True
        self._is_ending = False
        self._fate: Failure | None = None
        self.thread = threading.Thread(target=self._hear, daemon=True)
        self.thread.start()

    def is_ready(self) -> bool:
        """Whether it can be sent a request."""
        return not (self._is_ending or self.process.has_ended())

    def send(self, request: Request, task: Task) -> None:
        """Hand a request to the process."""
        self.task, self.is_new = task, False
        self.process.send(json.dumps(request))

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self.process.stop()

    def kill(self, error: Failure) -> None:
        """End the process at once; it then counts as having died of `error`."""
        self._fate = self._fate or error
        self.end(kill=True)

    def end(self, kill: bool) -> None:
        """End the process: at once if `kill`, else when it has finished what it is doing."""
        self._is_ending = True
        if kill:
            self.process.kill()
        self.process.end()

    def resident_bytes(self) -> int:
        """The memory that the process holds."""
        return self.process.resident_bytes()

    def _hear(self) -> None:
        try:
            for lines in self.process.replies():
                for line in lines:
                    self._heard.put(Event(self, Message(**json.loads(line))))
            self._heard.put(Event(self, last_message(self.process.close(), self._fate)))
        except Exception as error:
            # an exception that ended this thread unheard would leave the study waiting for ever
            self._heard.put(error)


class LocalProcesses:
    """Starts workers on this machine. gpus: given to them in turn, so that none serves more of them
    than another by more than one. variables: of their environment."""

    def __init__(self, gpus: Sequence[str] = (), variables: Mapping[str, str] | None = None):
        self._gpus, self._variables = gpus, variables
        self._started: list[LocalWorker] = []

    def start(self, heard: Heard) -> LocalWorker:
        """Start a worker on the GPU that serves the fewest."""
        self._started = [worker for worker in self._started if worker.is_ready()]
        taken = [worker.gpu for worker in self._started]
        gpu = min(self._gpus, key=taken.count, default=None)
        worker = LocalWorker(gpu, heard, self._variables)
        self._started.append(worker)
        return worker


class Workers:
    """At most `n` workers; one that has died or failed is replaced when there is work for it."""

    def __init__(self, n: int, backend: Backend | None = None):
        self.n, self._backend = n, backend or LocalProcesses()
        self._workers: list[Worker] = []
        # no task is sent to these
        self._retired: list[Worker] = []
        self._heard: Heard = queue.SimpleQueue()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        workers = [*self._workers, *self._retired]
        for worker in workers:
            worker.end(kill=error_type is not None)
        for worker in workers:
            worker.thread.join(JOIN_SECONDS)

    def idle(self) -> Worker | None:
        """A ready worker without a task, started if need be; None if there is none."""
        for worker in self._workers:
            if worker.task is None and worker.is_ready():
                return worker
        while len(self._workers) < self.n:
            self._workers.append(self._backend.start(self._heard))
            if self._workers[-1].is_ready():
                return self._workers[-1]
        return None

    def busy(self) -> list[Worker]:
        """The workers that have a task."""
        return [worker for worker in self._workers if worker.task is not None]

    def stop(self) -> None:
        """Ask all that are busy to finish the epoch in hand and leave a checkpoint."""
        for worker in self.busy():
            worker.stop()

    def wait(self, timeout: float) -> list[Event]:
        """The messages since the last call; waits at most `timeout` seconds for one."""
        heard: list[Event | Exception] = []
        with contextlib.suppress(queue.Empty):
            heard.append(self._heard.get(timeout=timeout))
            while True:
                heard.append(self._heard.get_nowait())
        events = []
        for told in heard:
            if isinstance(told, Exception):
                raise told
            if self._is_of_use(told):
                events.append(told)
        return events

    def _is_of_use(self, event: Event) -> bool:
        """Whether the executor needs this event. Retires workers that ended or failed."""
        worker, kind = event.worker, event.message.event
        if worker not in self._workers:
            return False
        if kind in ("failed", "died", "lost", "unfit"):
            self._workers.remove(worker)
            self._retired = [worker, *(one for one in self._retired if one.thread.is_alive())]
        if kind == "failed":
            # it may have left anything behind, such as a GPU that answers no more
            worker.end(kill=False)
        return kind != "unfit"


def last_message(code: int, fate: Failure | None) -> Message:
    """The message after a worker's process has ended with this exit code.

    fate: the error for which the study has killed it.
    """
    if fate is not None:
        return Message("died", error=fate)
    how = f"exit code {code}"
    if code < 0:
        how = f"killed by signal {-code} ({signal.strsignal(-code)})"
    if -code == signal.SIGKILL:
        how += ", as the system does when memory runs out: use fewer --jobs"
    error = failure("WorkerDied", f"the worker process ended: {how}")
    return Message("lost" if -code in FROM_OUTSIDE else "died", error=error)


# Of a trial's workers in a row, without a new epoch in between, before the trial fails.
MAX_LOSSES = 3


def only(gpu: str) -> dict[str, str]:
    """Environment variables that make one GPU visible. gpu: its name in `visible_gpus`."""
    # CUDA counts from the fastest, nvidia-smi by the bus; the names of a variable that chooses are
    # already CUDA's
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**order, "CUDA_VISIBLE_DEVICES": gpu}


# of the libraries that compute in threads of their own, as many as there are cores if they are not
# told; PyTorch follows the first two
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def threads_of_each(n_processors: int, jobs: int) -> dict[str, str]:
    """Variables that give each of `jobs` workers its share of the processors.

    None if this process's environment has any of them: it says what is wanted.
    """
    if any(name in os.environ for name in THREAD_VARIABLES):
        return {}
    return dict.fromkeys(THREAD_VARIABLES, str(max(1, n_processors // jobs)))


@dataclass
class Task:
    """A segment that a worker is computing."""

    segment: Segment
    # whose settings and log the worker uses
    trial: str
    # whether the worker was started for it
    is_first: bool
    # time of the trial's epochs up to its last checkpoint
    seconds_before: float
    begun: float = field(default_factory=time.monotonic)
    # time of the epochs finished since the task began
    epoch_seconds: float = 0.0
    # whether the worker has been asked to stop it
    is_to_stop: bool = False

    def __post_init__(self) -> None:
        self._last = self.begun

    def recorded(self, seconds: float) -> None:
        """Note that an epoch of the task is finished, and how long it took."""
        self.epoch_seconds += seconds
        self._last = time.monotonic()

    def seconds(self) -> float:
        """What the trial's epochs have taken so far, before this task too, and the one in hand.

        The start of the worker counts until the first epoch is finished.
        """
        return self.seconds_before + self.epoch_seconds + time.monotonic() - self._last


class Limits(NamedTuple):
    """The limits of a trial; None: no limit."""

    # of all epochs of the trial, shared ones included
    seconds: float | None = None
    # resident memory of the worker process
    n_bytes: int | None = None


NO_LIMITS = Limits()


class Supervision:
    """Kills workers whose trial exceeds a limit; counts the workers that each trial lost."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._losses: Counter[str] = Counter()

    def enforce(self, workers: Iterable[Worker]) -> None:
        """Kill each worker whose trial exceeds a limit. workers: those that are busy."""
        seconds, n_bytes = self.limits
        for worker in workers:
            if seconds is not None and worker.task is not None and worker.task.seconds() > seconds:
                message = f"ran past its limit of {duration(seconds)}"
                worker.kill(failure("TimeLimit", message))
            elif n_bytes is not None and (held := worker.resident_bytes()) > n_bytes:
                message = f"held {show_size(held)} of memory, and {show_size(n_bytes)} are allowed"
                worker.kill(failure("MemoryLimit", message))

    def made_progress(self, trial: str) -> None:
        """Note that a new epoch of the trial is finished."""
        del self._losses[trial]

    def is_lost_too_often(self, trial: str) -> bool:
        """Count the loss of a worker; whether the trial fails by it."""
        self._losses[trial] += 1
        return self._losses[trial] > MAX_LOSSES
