"""Starting processes: results, every way to fail, and nothing left behind."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nnopt.devices import available_devices
from nnopt.distributed import WorkerError, launch
from tests.distributed import workers

DEADLINE_S = 60.0


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that no process that was started inside is left."""
    before = {child.pid for child in active_children()}
    yield
    assert {child.pid for child in active_children()} <= before


def test_each_rank_is_a_process_of_its_own_and_sees_the_callers_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(dist.get_rank, 1)  # the server keeps the environment of its start
    monkeypatch.setenv("NNOPT_TEST_MARKER", "set later")
    with nothing_left():
        seen = launch(workers.facts, 3, "argument", deadline_s=DEADLINE_S, num_threads=2)
    assert [one["rank"] for one in seen] == [0, 1, 2]
    assert [one["variables"] for one in seen] == [[str(r), str(r), "3"] for r in range(3)]
    assert len({one["pid"] for one in seen} | {os.getpid()}) == 4
    for one in seen:
        assert one["world_size"] == 3
        assert one["threads"] == 2
        assert one["marker"] == "set later"
        assert one["folder"] == os.getcwd()
        assert one["backend"] == "gloo"
        assert one["argument"] == "argument"


def test_tensors_go_in_and_come_back_and_the_callers_are_untouched() -> None:
    first, second = torch.arange(3.0, dtype=torch.float64), torch.full((3,), 0.1, dtype=torch.float64)
    results = launch(workers.add, 2, first, second, deadline_s=DEADLINE_S)
    for result in results:
        torch.testing.assert_close(result, 3 * (first + second), rtol=0, atol=1e-15)
    assert first.tolist() == [0.0, 1.0, 2.0]
    assert results[0].data_ptr() != results[1].data_ptr()


def test_a_rank_that_ends_at_once_does_not_cut_off_those_that_are_still_connecting() -> None:
    for _ in range(3):
        assert launch(dist.get_rank, 6, deadline_s=DEADLINE_S) == list(range(6))


@pytest.mark.parametrize("device", available_devices(), ids=str)
@pytest.mark.parametrize("num_processes", [1, 2])
def test_collectives_work_on_every_device_also_when_ranks_share_it(device: torch.device, num_processes: int) -> None:
    results = launch(workers.on_device, num_processes, device.type, deadline_s=DEADLINE_S, device=device)
    for _, total in results:
        assert total.tolist() == [num_processes * (num_processes - 1) / 2] * 2


def test_the_traceback_of_the_rank_that_failed_first_comes_back() -> None:
    with nothing_left(), pytest.raises(WorkerError) as caught:
        launch(workers.fail_in_rank_1, 2, deadline_s=DEADLINE_S)
    assert caught.value.rank == 1
    assert 'raise ValueError("the worm in rank 1")' in caught.value.report
    assert str(caught.value).startswith("rank 1 failed\nTraceback")
    assert set(caught.value.consequences) <= {0}


def test_a_rank_that_was_killed_is_named_with_its_signal() -> None:
    with nothing_left(), pytest.raises(WorkerError, match=r"rank 1 failed\nits process ended with exit code -9 \(SIGK"):
        launch(workers.die_in_rank_1, 2, deadline_s=DEADLINE_S)


def test_after_the_deadline_each_rank_is_named_with_the_place_where_it_stood() -> None:
    with nothing_left(), pytest.raises(TimeoutError) as caught:
        launch(workers.leave_rank_1_alone, 2, deadline_s=2.0)
    message = str(caught.value)
    assert message.startswith("worker must end within 2 s, but ranks 0, 1 did not")
    stood = message.split("rank 1 stood at\n")
    assert "in wait" in stood[0]
    assert "in barrier" in stood[1]
    assert all("in leave_rank_1_alone" in part for part in stood)


def test_a_deadline_too_short_for_the_start_is_an_error_too() -> None:
    with nothing_left(), pytest.raises(TimeoutError, match=r"worker must end within 0\.001 s, but rank 0 did not"):
        launch(workers.exit_early, 1, deadline_s=0.001)


def test_mismatched_collectives_are_an_error_in_torchs_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    with nothing_left(), pytest.raises(WorkerError, match="mismatch between collective"):
        launch(workers.call_different_collectives, 2, deadline_s=DEADLINE_S)


def test_an_exit_or_a_result_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(WorkerError, match="SystemExit: 3"):
        launch(workers.exit_early, 1, deadline_s=DEADLINE_S)
    with pytest.raises(WorkerError, match="lambda"):
        launch(workers.return_a_lambda, 1, deadline_s=DEADLINE_S)


def test_what_has_no_name_elsewhere_is_refused_before_any_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner() -> int:
        return 1

    with pytest.raises(ValueError, match=r"found by name in another process, got .*<lambda>, a lambda"):
        launch(lambda: 1, 1)
    with pytest.raises(ValueError, match=r"got .*inner, which is defined inside a function"):
        launch(inner, 1)
    with pytest.raises(ValueError, match=r"got .*inner, which is defined inside a function"):
        launch(workers.facts, 1, [inner])
    main = sys.modules["__main__"]
    monkeypatch.delattr(main, "__file__", raising=False)  # as in a notebook
    cell = type("Cell", (), {"__module__": "__main__"})
    with pytest.raises(ValueError, match=r"got Cell, which is defined in a notebook cell .* %%writefile"):
        launch(workers.facts, 1, cell())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="worker must be callable, got int"):
        launch(3, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_processes must be >= 1, got 0"):
        launch(dist.get_rank, 0)
    with pytest.raises(TypeError, match="num_processes must be an integer, got float"):
        launch(dist.get_rank, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="deadline_s must be > 0, got nan"):
        launch(dist.get_rank, 1, deadline_s=float("nan"))
    with pytest.raises(ValueError, match="num_threads must be >= 1, got 0"):
        launch(dist.get_rank, 1, num_threads=0)
    with pytest.raises(ValueError, match="device must be one of 'cpu', 'cuda', got 'meta'"):
        launch(dist.get_rank, 1, device="meta")


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="device is 'cuda', but torch finds no CUDA device"):
        launch(dist.get_rank, 1, device="cuda")


SCRIPT = """
    import sys
    from nnopt.distributed import launch
    from tests.distributed.workers import hold_pipe

    def worker(text):
        import torch.distributed as dist
        return text * (dist.get_rank() + 1)

    if __name__ == "__main__":
        print(launch(worker, 2, "a", deadline_s=60), flush=True)
        launch(hold_pipe, 2, sys.argv[1], deadline_s=600)
"""


def read_some(pipe: int, seconds: float = 30.0) -> bytes:
    """Return what has come, empty at the end of the pipe."""
    assert select.select([pipe], [], [], seconds)[0], "nothing came in time"
    return os.read(pipe, 100)


@contextmanager
def pipe_at(path: Path) -> Iterator[int]:
    """Open a named pipe that ends when the last process that holds it has ended: no need to look at a clock."""
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield pipe
    finally:
        os.close(pipe)


def wait_for_both_ranks(pipe: int) -> None:
    seen = b""
    while len(seen) < 4:
        seen += read_some(pipe)
    assert sorted(seen.split()) == [b"0", b"1"]


def test_ranks_end_when_their_caller_is_interrupted(tmp_path: Path) -> None:
    with pipe_at(tmp_path / "pipe") as pipe:

        def interrupt() -> None:
            wait_for_both_ranks(pipe)
            signal.pthread_kill(main, signal.SIGINT)

        main = threading.get_ident()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with nothing_left(), pytest.raises(KeyboardInterrupt):
            launch(workers.hold_pipe, 2, str(tmp_path / "pipe"), deadline_s=DEADLINE_S)
        thread.join()
        assert read_some(pipe) == b""


def test_ranks_end_when_their_caller_is_killed_and_a_script_may_hold_the_worker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    with (
        pipe_at(tmp_path / "pipe") as pipe,
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "pipe")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "['a', 'aa']\n"
            wait_for_both_ranks(pipe)
            process.kill()
            assert read_some(pipe) == b""  # no rank holds the pipe any more
        finally:
            process.kill()
