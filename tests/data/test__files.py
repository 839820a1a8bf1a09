import hashlib
import importlib
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

files = importlib.import_module("nnopt.data._files")

CONTENT = bytes(range(256)) * 40
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


def respond(body: bytes, *, declared: int | None = None) -> Callable[[socket.socket], None]:
    length = b"Content-Length: %d\r\n\r\n" % (len(body) if declared is None else declared)
    return lambda connection: connection.sendall(HEAD + length + body)


def reset(connection: socket.socket) -> None:
    # a linger time of zero turns the close into a reset
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def not_found(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def server(answer: Callable[[socket.socket], None] | None) -> Iterator[str]:
    """Serve every connection on 127.0.0.1 with ``answer``; None accepts and stays silent until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if answer is None:
                    done.wait(30)
                    continue
                try:
                    connection.recv(65536)
                    answer(connection)
                except OSError:
                    pass  # the client has given up

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        done.set()
        # closing alone does not wake a thread that waits in accept
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def source(url: str) -> object:
    file = files.File("set.bin", len(CONTENT), hashlib.md5(CONTENT).hexdigest())
    return files.Source("Tiny", "tiny/raw", ((file,),), url, "Without any file: nnopt.data.digits().")


@pytest.fixture(autouse=True)
def _no_proxy_and_no_user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NNOPT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_download_that_was_asked_for_is_verified_and_stored(tmp_path: Path) -> None:
    with server(respond(CONTENT)) as url:
        path = files.find(source(url), 0, root=tmp_path, download=True, timeout_s=5)
    assert path == tmp_path / "tiny" / "raw" / "set.bin"
    assert path.read_bytes() == CONTENT
    # the second time no server is needed, nor permission
    assert files.find(source("http://127.0.0.1:9/"), 0, root=tmp_path, download=False) == path


def test_nothing_is_downloaded_unless_asked(tmp_path: Path) -> None:
    asked = []

    def note(connection: socket.socket) -> None:
        asked.append(connection)
        respond(CONTENT)(connection)

    with server(note) as url, pytest.raises(FileNotFoundError, match="Tiny is not on this machine"):
        files.find(source(url), 0, root=tmp_path, download=False)
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "(?i)timed out"),
        (respond(CONTENT[:-1]), r"must send 10,240 bytes .* got 10,239"),
        (respond(CONTENT[:-1], declared=len(CONTENT)), "got 10,239"),
        (respond(CONTENT + b"!"), r"got at least 10,241"),
        (respond(b"<html>Please log in to the guest network</html>"), "got 47"),
        (respond(b"\0" * len(CONTENT)), "got 10,240 with md5"),
        (not_found, "404"),
        (reset, "reset|RemoteDisconnected"),
    ],
    ids=["silent", "short", "truncated", "too long", "portal page", "other content", "not found", "reset"],
)
def test_every_failed_download_is_one_clear_error_and_leaves_nothing(
    tmp_path: Path, answer: Callable[[socket.socket], None] | None, reason: str
) -> None:
    with server(answer) as url, pytest.raises(ConnectionError, match=reason) as error:
        files.find(source(url), 0, root=tmp_path, download=True, timeout_s=0.3 if answer is None else 5)
    text = str(error.value)
    for words in ("Tiny could not be downloaded from", url, str(tmp_path), "set.bin", "nnopt.data.digits()"):
        assert words in text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_closed_port_is_refused_at_once(tmp_path: Path) -> None:
    with server(reset) as url:
        pass
    with pytest.raises(ConnectionError, match=r"(?i)refused"):
        files.find(source(url), 0, root=tmp_path, download=True, timeout_s=5)


def test_a_trickle_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    # a clock on which every look takes a quarter of an hour
    clock = itertools.count(0, 900.0).__next__
    file = files.File("set.bin", len(CONTENT), "")
    with server(respond(CONTENT)) as url, pytest.raises(ConnectionError, match=r"slower than 32,768 bytes/s"):
        files._download(source(url), file, [tmp_path], timeout_s=5.0, clock=clock)
    assert list(tmp_path.rglob("*.*")) == []


def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    sent: list[int] = []

    def pour(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"\r\n")
        while len(sent) < 10_000:
            connection.sendall(b"x" * 65536)
            sent.append(65536)

    with server(pour) as url, pytest.raises(ConnectionError, match="got at least"):
        files.find(source(url), 0, root=tmp_path, download=True, timeout_s=5)
    assert len(sent) < 1_000


def test_a_failing_disk_is_told_as_such_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_atomic", full)
    with server(respond(CONTENT)) as url, pytest.raises(OSError, match="No space left on device") as error:
        files.find(source(url), 0, root=tmp_path, download=True, timeout_s=5)
    assert not isinstance(error.value, ConnectionError)


def test_downloads_go_to_the_root_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(respond(CONTENT)) as url:
        assert files.find(source(url), 0, root=None, download=True).is_relative_to(tmp_path / "cache")
        monkeypatch.setenv("NNOPT_DATA", str(tmp_path / "variable"))
        (tmp_path / "cache" / "nnopt" / "tiny" / "raw" / "set.bin").unlink()
        assert files.find(source(url), 0, root=None, download=True).is_relative_to(tmp_path / "variable")


def test_a_timeout_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"timeout_s must be > 0, got 0"):
        files.find(source("http://127.0.0.1:9/"), 0, root=tmp_path, download=True, timeout_s=0)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_an_idx_file_round_trips(shape: list[int], seed: int) -> None:
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    assert torch.equal(files.parse_idx(header + values.numpy().tobytes(), "x"), values)


def test_a_hand_worked_idx_file_is_read_row_by_row() -> None:
    content = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
    assert files.parse_idx(content, "x").tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "x must be an IDX file of unsigned bytes"),
        (b"<html>", "x must be an IDX file of unsigned bytes"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "x must be an IDX file of unsigned bytes"),
        (bytes([0, 0, 8, 2, 0, 0, 0, 1]), "x must have a header of 12 bytes, got 8"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "x must hold 3 values, got 2"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "x must hold 1 values, got 2"),
    ],
)
def test_a_bad_idx_file_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        files.parse_idx(content, "x")
