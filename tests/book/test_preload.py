"""Forked kernels: like any other kernel, except that the libraries are there already."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conditions import Conditions
from execute import kernels
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from preload import LIBRARIES, Preloaded

from .conftest import Project

pytestmark = pytest.mark.skipif(not Preloaded.possible("cpu"), reason="kernels are forked on Linux only")
# a module that nothing else imports stands for the libraries
LIGHT = ("ipykernel.kernelapp", "this_library")
TIMEOUT_S = 60
Kernel = tuple[KernelManager, BlockingKernelClient]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    """Run a server with a library that records in which process it was imported."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "this_library.py").write_text("import os\nIMPORTED_IN = os.getpid()\n")
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}
    with Preloaded(environment, LIGHT) as server:
        yield server


@pytest.fixture
def kernel(server: Preloaded, tmp_path: Path) -> Iterator[Kernel]:
    """Start a kernel in an empty folder with a variable of its own."""
    manager, client = start_new_kernel(cwd=str(tmp_path), env={**os.environ, "WHOSE": "mine"})
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> tuple[str, dict[str, Any]]:
    """Execute ``code``; return what it printed and the reply."""
    printed: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=TIMEOUT_S)
    return "".join(printed), reply["content"]


def test_a_kernel_is_a_fork_of_the_server(server: Preloaded, kernel: Kernel) -> None:
    printed, _ = run(
        kernel[1], "import os, this_library\nprint(this_library.IMPORTED_IN == os.getppid() != os.getpid())"
    )
    assert printed == "True\n"
    assert server.seconds > 0


def test_a_kernel_has_its_own_folder_and_variables(kernel: Kernel, tmp_path: Path) -> None:
    printed, _ = run(kernel[1], "import os\nprint(os.environ['WHOSE'], os.getcwd(), os.environ.get('PYTHONPATH'))")
    assert printed == f"mine {tmp_path} {os.environ.get('PYTHONPATH')}\n"


def test_a_kernel_does_not_find_the_tools_of_the_book(kernel: Kernel) -> None:
    printed, _ = run(kernel[1], "import importlib.util\nprint(importlib.util.find_spec('preload'))")
    assert printed == "None\n"


def test_spawned_workers_start_from_the_notebook_not_from_the_server(kernel: Kernel) -> None:
    printed, _ = run(
        kernel[1], "import __main__\nprint(getattr(__main__, '__file__', None), 'serve' in vars(__main__))"
    )
    assert printed == "None False\n"


def test_an_interrupt_reaches_the_kernel(kernel: Kernel) -> None:
    manager, client = kernel
    request = client.execute("print('busy')\nimport time\ntime.sleep(600)")
    while client.get_iopub_msg(timeout=TIMEOUT_S)["msg_type"] != "stream":
        pass
    manager.interrupt_kernel()
    while (reply := client.get_shell_msg(timeout=TIMEOUT_S))["parent_header"]["msg_id"] != request:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_killed_client_takes_the_kernel_and_its_children_along(kernel: Kernel, tmp_path: Path) -> None:
    manager, client = kernel
    # both ends of a pipe that only kernel and child hold open: it is at its end when both are gone
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = (
        f"import subprocess\npipe = open({str(pipe)!r}, 'w')\nchild = subprocess.Popen(['sleep', '600'], stdout=pipe)"
    )
    client.execute(code)
    with pipe.open() as end:
        manager.provisioner.process.kill()  # type: ignore[union-attr]
        assert end.read() == ""


def test_a_kernel_that_dies_ends_its_client(kernel: Kernel) -> None:
    manager, client = kernel
    client.execute("import os\nos._exit(3)")
    manager.provisioner.process.wait(TIMEOUT_S)  # type: ignore[union-attr]
    assert not manager.is_alive()


def test_a_library_that_cannot_be_loaded_is_an_error_and_kernels_stay_as_they_were(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = os.environ.get("JUPYTER_PATH")
    with (
        pytest.raises(RuntimeError, match="the libraries could not be loaded"),
        Preloaded({**os.environ}, ("no_such",)),
    ):
        pass
    assert "No module named 'no_such'" in capfd.readouterr().err
    assert os.environ.get("JUPYTER_PATH") == before


def test_a_library_that_starts_threads_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "threads.py").write_text("import threading\nthreading.Thread(target=input, daemon=True).start()\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with pytest.raises(RuntimeError, match="could not be loaded"), Preloaded(environment, ("threads",)):
        pass
    assert "the libraries started 1 threads" in capfd.readouterr().err


@pytest.mark.usefixtures("server")
def test_chapters_execute_in_forks_and_a_raising_cell_fails(empty_project: Project) -> None:
    empty_project.write("part/steady", "import this_library\nprint(sum(range(10)))")
    empty_project.write("part/raises", "raise ValueError('as planned')")
    outcomes = empty_project.run()
    assert outcomes["part/steady"].status == "executed"
    assert "45" in empty_project.executed("part/steady")
    assert outcomes["part/raises"].status == "failed"
    assert "as planned" in outcomes["part/raises"].error


@pytest.mark.parametrize(("device", "preload"), [("cuda", True), ("cpu", False)])
def test_kernels_are_not_forked_for_a_gpu_or_unasked(device: str, preload: bool) -> None:
    before = os.environ.get("JUPYTER_PATH")
    with kernels(Conditions(device=device), {}, preload=preload) as seconds:
        assert seconds == 0
        assert os.environ.get("JUPYTER_PATH") == before


def test_nnopt_is_not_preloaded() -> None:
    assert LIBRARIES
    assert not any(name.split(".")[0] == "nnopt" for name in LIBRARIES)
