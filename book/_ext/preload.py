"""Kernels that start with the libraries in memory: one process imports them, each kernel is a fork of it.

Loading torch, its compiler and the plotting library takes longer than many a chapter. ``Preloaded`` starts a
server that imports them once. Its kernel specification shadows the one of Python, so that nbclient and nbval
start kernels as ever; what they start is a small client that asks the server for a fork, hands it its streams,
folder and environment, passes signals on, and lives as long as the kernel. ``nnopt`` is not among the libraries:
every kernel imports it itself.

    python preload.py serve SOCKET NAME …     imports, says how long it took, forks until its input is closed
    python preload.py client SOCKET [ARG …]   is a kernel to whoever started it
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

__all__ = ["LIBRARIES", "Preloaded"]

LIBRARIES = (
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "numpy",
    "scipy.stats",
    "torch",
    "torch._dynamo",  # the first optimizer of a process loads it
    "torch.utils.flop_counter",
    "torchvision",
)
CLOSE_TIMEOUT_S = 10


class Preloaded:
    """Run the server while the block lasts; kernels named ``python3`` are its forks meanwhile.

    Args:
        environment: variables of the server. A kernel gets those of its own client, but what Python and the
            libraries read at their start (hash seed, threads, path) is the server's.
        libraries: names of the modules to load.

    Attributes:
        seconds: how long the libraries took to load.

    Raises:
        RuntimeError: the server could not start; the message has its last words.
    """

    def __init__(self, environment: dict[str, str], libraries: tuple[str, ...] = LIBRARIES) -> None:
        self.environment = environment
        self.libraries = libraries
        self.seconds = 0.0

    @staticmethod
    def possible(device: str) -> bool:
        """Tell whether forks are safe here: not for a GPU, and not with the frameworks of other systems."""
        return sys.platform == "linux" and device == "cpu"

    def __enter__(self) -> "Preloaded":
        # imported here: the client must start fast
        import tempfile

        from jupyter_client.kernelspec import KernelSpecManager

        self._folder = tempfile.TemporaryDirectory(prefix="nnopt-")
        folder = Path(self._folder.name)
        program = [sys.executable, str(Path(__file__).resolve())]
        address = str(folder / "socket")
        kernel = folder / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        spec = KernelSpecManager().get_kernel_spec("python3").to_dict()
        # each kernel would warn in the middle of the progress bar that its sockets, on this machine, are not encrypted
        quiet = "--IPKernelApp.log_level=ERROR"
        spec["argv"] = [*program, "client", address, "-f", "{connection_file}", quiet]
        kernel.write_text(json.dumps(spec))
        # a session of its own: Ctrl-C is the caller's to handle
        self._server = subprocess.Popen(
            [*program, "serve", address, *self.libraries],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd=folder,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        said = self._server.stdout.readline()
        if not said:
            raise RuntimeError(f"the libraries could not be loaded: the server ended with status {self._stop()}")
        self.seconds = float(said)
        self._before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *([self._before] if self._before else [])])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = self._before
        self._stop()

    def _stop(self) -> int:
        """End the server and return its status."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        try:
            return self._server.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            return self._server.wait()
        finally:
            self._folder.cleanup()


def serve(address: str, libraries: list[str]) -> None:
    """Load the libraries, then fork a kernel for each client until standard input is closed."""
    import gc
    import importlib

    # the folder of this file: kernels shall not find the tools of the book
    sys.path.pop(0)
    started = time.perf_counter()
    for name in libraries:
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        sys.exit(f"the libraries started {threads - 1} threads, and a fork would lose them")
    # what is loaded stays in pages that all kernels share
    gc.collect()
    gc.freeze()
    # nobody waits for the kernels here
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print(time.perf_counter() - started, flush=True)
        while not any(key.fd == 0 for key, _ in selector.select()):
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
        else:
            # compiled libraries complain when the interpreter takes them down
            os._exit(0)
    become_kernel(connection)


def become_kernel(connection: socket.socket) -> None:
    """Take over a client's streams, folder, environment and arguments, and be its kernel."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    request = json.loads(connection.makefile("rb").readline())
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # the kernel's parent is not whoever asked for it, as its class has read from the environment
    sys.argv = ["ipykernel_launcher", *request["arguments"], f"--IPKernelApp.parent_handle={os.getppid()}"]
    connection.sendall(b"%d\n" % os.getpid())

    def end_with_client() -> None:
        connection.recv(1)
        # with whatever the kernel has started
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_client, daemon=True).start()
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def client(address: str, arguments: list[str]) -> None:
    """Ask for a kernel and live as long as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"."], [0, 1, 2])
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        connection.sendall(json.dumps(request).encode() + b"\n")
        kernel = int(connection.makefile("rb").readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(kernel, number))
        connection.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3:])
    else:
        client(sys.argv[2], sys.argv[3:])
