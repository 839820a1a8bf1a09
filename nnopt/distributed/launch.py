"""Start processes that form one group, and get back their results or the error of the one that failed.

First used in the chapter ``distributed/data_parallel``.
"""

import contextlib
import faulthandler
import io
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import torch
import torch.distributed as dist

from nnopt.checks import require_integer, require_one_of, require_positive
from nnopt.types import DeviceLike

__all__ = ["WorkerError", "launch"]

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

# imported once by the server that the workers are forked from; what a reader edits must not be among them
_PRELOAD = ["torch", "torch._dynamo", "torch.distributed", "torch.nn.parallel"]
# a rank ends itself at the deadline and says where it stood; one that cannot is killed this much later
_GRACE_S = 2.0
# the first failure pulls down the other ranks: their reports are awaited so long
_SETTLE_S = 0.5
# a rank that has delivered its result may take so long to close down
_CLOSE_S = 5.0


class WorkerError(RuntimeError):
    """A worker raised an exception, or its process died.

    Args:
        rank: of the process that failed first.
        report: its traceback, or how it ended.
        consequences: rank -> last line of what the others reported afterwards.
    """

    def __init__(self, rank: int, report: str, consequences: dict[int, str]) -> None:
        self.rank = rank
        self.report = report
        self.consequences = consequences
        later = "".join(f"\nafterwards rank {other}: {line}" for other, line in sorted(consequences.items()))
        super().__init__(f"rank {rank} failed\n{report.rstrip()}{later}")


def launch(
    worker: Callable[[*Ts], R],
    num_processes: int,
    *args: *Ts,
    deadline_s: float = 60.0,
    device: DeviceLike = "cpu",
    num_threads: int = 1,
) -> list[R]:
    """Run a function in several processes that form one ``torch.distributed`` group.

    Inside, ``dist.get_rank()`` and the collectives work, and ``RANK``, ``LOCAL_RANK`` and ``WORLD_SIZE`` are set
    as by ``torchrun``. It can be called from a notebook, a test, or a script whose calls stand under
    ``if __name__ == "__main__"``.

    Args:
        worker: called as ``worker(*args)`` in every process; in a module that can be imported, because a new
            process finds it by its name.
        num_processes: p, ranks 0 … p − 1.
        args: the same for all, copied to each process by pickle.
        deadline_s: seconds after which everything is ended, counted from when all processes exist.
        device: ``cpu`` talks over gloo. ``cuda`` gives rank r the current device r and talks over NCCL; with
            fewer devices than processes the ranks share them and talk over gloo.
        num_threads: of torch in each process.

    Returns:
        What each rank returned, in the order of ranks, copied by pickle.

    Raises:
        ValueError: a count is out of range, or the worker or an argument cannot be found by name: a lambda, a
            function inside a function, one from a notebook cell.
        TypeError: ``worker`` is not callable, or a count no integer.
        WorkerError: a rank failed; it has the traceback of the one that failed first.
        TimeoutError: the deadline passed; the message says where each rank stood.
        RuntimeError: ``cuda`` is asked for and there is none.

    Convention:
        When the call returns or raises, no process of it is left; when the caller is killed, the ranks end
        themselves. Processes are forked from a server that has torch in memory and nothing of yours (spawned,
        where there is no such server): the first call takes seconds, later ones tenths. They meet in a file
        store, so that no port is needed. They see the caller's environment, search path and folder as they
        are at the call.

    Example:
        >>> from torch.distributed import get_world_size
        >>> launch(get_world_size, 2)
        [2, 2]
    """
    if not callable(worker):
        raise TypeError(f"worker must be callable, got {type(worker).__name__}")
    require_integer("num_processes", num_processes, minimum=1)
    require_positive("deadline_s", deadline_s)
    require_integer("num_threads", num_threads, minimum=1)
    backend = _backend(device, num_processes)
    payload = _pickled((worker, args))
    with tempfile.TemporaryDirectory(prefix="nnopt-launch-") as folder:
        job = _Job(
            payload=payload,
            folder=folder,
            num_processes=num_processes,
            backend=backend,
            on_cuda=torch.device(device).type == "cuda",
            num_threads=num_threads,
            deadline_s=float(deadline_s),
            environment=dict(os.environ),
            search_path=[entry or os.getcwd() for entry in sys.path],
        )
        ranks: list[_Rank] = []
        try:
            context = _context()
            for number in range(num_processes):
                ranks.append(_start(context, job, number))
            end = time.monotonic() + deadline_s
            for rank in ranks:
                rank.tell(end)
            return [pickle.loads(content) for content in _results(ranks, job, end)]
        finally:
            for rank in ranks:
                rank.end()


@dataclass(frozen=True)
class _Job:
    """What every rank is told."""

    payload: bytes
    folder: str
    num_processes: int
    backend: str
    on_cuda: bool
    num_threads: int
    deadline_s: float
    environment: dict[str, str]
    search_path: list[str]

    def place_file(self, rank: int) -> Path:
        """Return the file in which a rank says where it stood at the deadline."""
        return Path(self.folder, f"rank-{rank}.txt")


@dataclass(frozen=True)
class _Report:
    """What became of a rank: its pickled result, or the text of its error; and when, on the machine's clock."""

    when: float
    result: bytes = b""
    error: str = ""


@dataclass
class _Rank:
    """A process as the caller sees it."""

    number: int
    process: BaseProcess
    channel: "connection.Connection[Any, Any]"
    report: _Report | None = None

    def tell(self, end: float) -> None:
        """Let the rank begin: the first process of all waits for its server, which may take long."""
        with contextlib.suppress(OSError):  # it is dead already, as its report will say
            self.channel.send(end)

    def read(self) -> None:
        """Take the report of a rank that has sent one or has ended."""
        try:
            if self.channel.poll():
                self.report = pickle.loads(self.channel.recv_bytes())
                return
        except (EOFError, OSError):  # it died before or while it sent
            pass
        self.process.join(_CLOSE_S)
        code = self.process.exitcode
        name = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
        self.report = _Report(time.monotonic(), error=f"its process ended with exit code {code}{name} and no report")

    def end(self) -> None:
        """End the process, by force unless it has delivered and closes down by itself."""
        if self.report is not None and not self.report.error:
            self.process.join(_CLOSE_S)
        self.process.kill()
        self.process.join()
        self.process.close()
        self.channel.close()


def _start(context: ForkServerContext | SpawnContext, job: _Job, number: int) -> _Rank:
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_rank, args=(job, number, theirs), name=f"rank {number}")
    process.start()
    theirs.close()  # our copy: the end of the process shall be the end of the channel
    return _Rank(number, process, ours)


def _results(ranks: list[_Rank], job: _Job, end: float) -> list[bytes]:
    """Wait for all ranks, or for the first failure and its consequences, or for the deadline."""
    limit = end + _GRACE_S
    while waiting := [rank for rank in ranks if rank.report is None]:
        left = limit - time.monotonic()
        if left <= 0:
            break
        by_handle: dict[Any, _Rank] = {rank.channel: rank for rank in waiting}
        by_handle.update({rank.process.sentinel: rank for rank in waiting})
        for rank in {id(r): r for r in map(by_handle.__getitem__, connection.wait(list(by_handle), left))}.values():
            rank.read()
            if rank.report is not None and rank.report.error:
                limit = min(limit, time.monotonic() + _SETTLE_S)
    places = {rank.number: _place(job, rank.number) for rank in ranks}
    reports = {rank.number: rank.report for rank in ranks if rank.report is not None}
    # at the deadline ranks end one after another, and the later ones may notice it as a broken connection
    failed = {
        number: report
        for number, report in reports.items()
        if report.error and report.when < end and not places[number]
    }
    if failed:
        _raise_first(failed)
    late = [n for n in range(len(ranks)) if n not in reports or reports[n].error]
    if late:
        raise TimeoutError(_late_message(job, late, places))
    return [reports[number].result for number in range(len(ranks))]


def _raise_first(failed: dict[int, _Report]) -> None:
    """Raise the earliest failure; a rank that died without a word comes before those that noticed it."""
    silent = [number for number, report in failed.items() if not report.error.startswith("Traceback")]
    first = min(silent or failed, key=lambda number: failed[number].when)
    consequences = {n: r.error.strip().splitlines()[-1] for n, r in failed.items() if n != first}
    raise WorkerError(first, failed[first].error, consequences)


def _late_message(job: _Job, late: list[int], places: dict[int, str]) -> str:
    names = ("rank " if len(late) == 1 else "ranks ") + ", ".join(map(str, late))
    lines = [f"worker must end within {job.deadline_s:g} s, but {names} did not"]
    lines += [f"rank {number} stood at\n{places[number]}" for number in late if places[number]]
    return "\n".join(lines)


def _place(job: _Job, rank: int) -> str:
    """Return where the main thread of a rank stood when its time was over; empty if it had time."""
    try:
        text = job.place_file(rank).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    # one paragraph per thread, the main one last
    return text.strip().split("\n\n")[-1]


def _run_rank(job: _Job, rank: int, channel: "connection.Connection[Any, Any]") -> None:
    """Do the work of one rank in its process, and report."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of a terminal: the caller decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = pickle.dumps(_work(job, rank, end=channel.recv()))
    except BaseException:
        channel.send_bytes(pickle.dumps(_Report(time.monotonic(), error=traceback.format_exc())))
        # without closing the group, which could wait for the others
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    channel.send_bytes(pickle.dumps(_Report(time.monotonic(), result=result)))
    if dist.is_initialized():
        dist.destroy_process_group()


def _work(job: _Job, rank: int, *, end: float) -> object:
    os.environ.clear()
    os.environ.update(job.environment)
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", job.num_processes)):
        os.environ[name] = str(value)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    sys.path[:] = job.search_path
    # a real file: the watchdog writes without Python, also while a collective hangs in C++
    place = open(job.place_file(rank), "w", encoding="utf-8")  # noqa: SIM115
    faulthandler.dump_traceback_later(max(end - time.monotonic(), 1e-3), exit=True, file=place)
    torch.set_num_threads(job.num_threads)
    dist.set_debug_level_from_env()  # type: ignore[attr-defined]
    if job.on_cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        job.backend,
        store=dist.FileStore(str(Path(job.folder, "store")), job.num_processes),  # type: ignore[attr-defined]
        rank=rank,
        world_size=job.num_processes,
        # longer than the deadline, so that the rank that hangs is named and not the one that waits for it
        timeout=timedelta(seconds=2 * job.deadline_s + 60),
    )
    # a rank that ends at once would cut off those that are still connecting to it
    dist.all_reduce(torch.zeros(1))
    worker, args = pickle.loads(job.payload)
    result: object = worker(*args)
    return result


def _end_with_parent() -> None:
    """End this process when the caller's ends: the server that forked us would live on with us."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _backend(device: DeviceLike, num_processes: int) -> str:
    kind = torch.device(device).type
    require_one_of("device", kind, ("cpu", "cuda"))
    if kind == "cpu":
        return "gloo"
    if not torch.cuda.is_available():
        raise RuntimeError(f"device is {str(device)!r}, but torch finds no CUDA device")
    return "cpu:gloo,cuda:nccl" if torch.cuda.device_count() >= num_processes else "cpu:gloo,cuda:gloo"


class _ByName(pickle.Pickler):
    """A pickler that refuses what another process could not find by its name, before any process starts."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, (types.FunctionType, type)):
            problem = _problem(value)
            if problem:
                raise ValueError(
                    f"worker and its arguments must be found by name in another process, got {value.__qualname__}, "
                    f"{problem}: put it into a file of its own (in a notebook with %%writefile) and import it"
                )
        return NotImplemented


def _problem(value: types.FunctionType | type) -> str:
    if "<lambda>" in value.__qualname__:
        return "a lambda"
    if "<locals>" in value.__qualname__:
        return "which is defined inside a function"
    # a script is imported again by the new process, under another name; a notebook or a prompt has no file
    if value.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        return "which is defined in a notebook cell or at a prompt"
    return ""


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _ByName(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()
