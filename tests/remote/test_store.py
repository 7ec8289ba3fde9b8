"""Stores: complete or absent, tried again where that helps, and the reason on one line where it does not."""

from __future__ import annotations

import asyncio
import errno
import ftplib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from densecli.errors import EnvironmentProblem, OutputError, UsageError
from densecli.remote import store as store_module
from densecli.remote.store import Store, StoreError


class Troubled(MemoryFileSystem):
    """A file system in memory whose writes fail as `troubles` says: for names that hold a text, so many times."""

    protocol = "troubled"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    troubles: list[tuple[str, Exception, int]] = []
    calls = 0

    def _write(self, path: str) -> None:
        Troubled.calls += 1
        for number, (text, error, times) in enumerate(self.troubles):
            if text in path and times:
                self.troubles[number] = (text, error, times - 1)
                raise error

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._write(rpath)
        super().put_file(lpath, rpath, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self._write(path)
        super().pipe_file(path, value, **options)


class Halving(LocalFileSystem):
    """Writes half of a file whose name holds `half`, and breaks off."""

    protocol = "halving"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("halving://")))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        data = Path(lpath).read_bytes()
        if b"half" in data:
            Path(rpath).write_bytes(data[: len(data) // 2])
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        super().put_file(lpath, rpath, **options)


class Connected(LocalFileSystem):
    """One connection each, as for SFTP: of use to the thread that made it, until it breaks (after `lives` calls)."""

    protocol = "connected"
    made: list[Connected] = []
    lives = 1_000_000

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.thread = threading.get_ident()
        self.calls = 0
        Connected.made.append(self)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("connected://")))

    def _use(self) -> None:
        # Paramiko's would wait for ever for the answer that another thread has read.
        assert self.thread == threading.get_ident(), "the connection of another thread"
        self.calls += 1
        if self.calls > self.lives:
            raise OSError("Socket is closed")

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self._use()
        super().put_file(lpath, rpath, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self._use()
        super().pipe_file(path, value, **options)

    def cat_file(self, path: str, **options: Any) -> Any:
        self._use()
        return super().cat_file(path, **options)

    def get_file(self, rpath: str, lpath: Any, **options: Any) -> None:
        self._use()
        if not Path(rpath).exists():
            raise ftplib.error_perm("550 No such file or directory.")  # as fsspec's FTP does
        super().get_file(rpath, lpath, **options)

    def rm_file(self, path: str) -> None:
        self._use()
        if not Path(path).exists():
            raise ftplib.error_perm("550 No such file or directory.")
        super().rm_file(path)

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        self._use()
        return super().ls(path, detail, **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(store_module, "WAITS", (0.001, 0.002, 0.003))
    monkeypatch.setattr(store_module, "_ATOMIC", store_module._ATOMIC | {"troubled"})
    fsspec.register_implementation("troubled", Troubled, clobber=True)
    fsspec.register_implementation("halving", Halving, clobber=True)
    fsspec.register_implementation("connected", Connected, clobber=True)
    Troubled.troubles, Troubled.calls = [], 0
    Connected.made, Connected.lives = [], 1_000_000
    Connected.clear_instance_cache()
    yield
    Troubled.store.clear()


def reset() -> OSError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def file(folder: Path, text: str) -> Path:
    path = folder / "local.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("scheme", ["troubled", "local"])
def test_there_and_back(scheme: str, tmp_path: Path) -> None:
    store = Store(f"{scheme}://{tmp_path}/out/")
    assert store.read("a/x.txt") is None and not store.get("a/x.txt", tmp_path / "y") and list(store.names()) == []
    name = f"a/{os.fsdecode(b'latin-')}\udce9.txt"
    for text in ("one", "two!"):  # the second takes the first one's place
        store.put(file(tmp_path, text), "a/x.txt")
        store.put_bytes(text.encode(), name)
    assert store.get("a/x.txt", tmp_path / "deep" / "y") and (tmp_path / "deep" / "y").read_text() == "two!"
    assert store.read(name) == b"two!"
    assert [(found, facts and facts[0]) for found, facts in store.names()] == [("a", None)]
    assert sorted((found, facts and facts[0]) for found, facts in store.names("a")) == [
        ("latin-\\udce9.txt", 4),
        ("x.txt", 4),
    ]
    for _ in range(2):
        store.remove("a/x.txt")
    assert store.read("a/x.txt") is None and not (tmp_path / "y").exists()
    store.check()
    assert [found for found, _ in store.names()] == ["a"]


def test_what_passes_is_tried_again(tmp_path: Path) -> None:
    Troubled.troubles = [("x.txt", reset(), 3)]
    store = Store("troubled://bucket/out")
    store.put(file(tmp_path, "text"), "x.txt")
    assert store.read("x.txt") == b"text" and Troubled.calls == 4


def test_what_does_not_pass_is_this_files_trouble_or_the_stores(tmp_path: Path) -> None:
    Troubled.troubles = [("x.txt", reset(), 99)]
    store = Store("troubled://bucket/out")
    with pytest.raises(OutputError, match=r"^troubled://bucket/out/x.txt: cannot be used \(Connection reset by peer\)"):
        store.put(file(tmp_path, "text"), "x.txt")
    store.put(file(tmp_path, "text"), "y.txt")  # others go on
    Troubled.troubles = [("", reset(), 99)]
    with pytest.raises(StoreError, match=r"^troubled://bucket/out: cannot be used .*; check the network") as raised:
        store.put(file(tmp_path, "text"), "z.txt")
    assert raised.value.exit_code == 4
    calls = Troubled.calls
    for call in (lambda: store.put_bytes(b"", "w"), lambda: store.read("y.txt"), lambda: list(store.names())):
        with pytest.raises(StoreError):  # and nothing waits for it any more
            call()
    assert Troubled.calls == calls


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Access Denied"), "permission denied (Access Denied); check your credentials"),
        (OSError(errno.ENOSPC, "No space left on device"), "there is no space left; free some"),
        (OSError(errno.EROFS, "Read-only file system"), "permission denied (Read-only file system)"),
        (FileNotFoundError("The specified bucket does not exist"), "make the bucket or folder first"),
        (type("NoCredentialsError", (Exception,), {})("Unable\nto locate"), "no credentials for troubled:// are set ("),
    ],
)
def test_what_cannot_pass_is_not_tried_again(error: Exception, said: str, tmp_path: Path) -> None:
    Troubled.troubles = [("", error, 99)]
    with pytest.raises(StoreError) as raised:
        Store("troubled://bucket/out").put(file(tmp_path, "text"), "x.txt")
    assert Troubled.calls == 2  # once, and a look whether anything can be written
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_closed_it_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WAITS", (60.0,))
    Troubled.troubles = [("", reset(), 99)]
    store = Store("troubled://bucket/out")
    store.close()
    with pytest.raises(StoreError):
        store.put(file(tmp_path, "text"), "x.txt")


def test_where_files_grow_under_their_names_they_get_them_last(tmp_path: Path) -> None:
    store = Store(f"halving://{tmp_path}/out")
    store.put(file(tmp_path, "whole"), "a/x.txt")
    with pytest.raises(OutputError, match=r"out/a/x.txt: cannot be used \(Connection reset by peer\)"):
        store.put(file(tmp_path, "half of it"), "a/x.txt")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a", "x.txt"]
    assert (tmp_path / "out" / "a" / "x.txt").read_text() == "whole"


def test_a_connection_is_used_by_one_thread_only(tmp_path: Path) -> None:
    store = Store(f"connected://{tmp_path}/out")
    all_there = threading.Barrier(4)

    def send(name: str) -> None:
        all_there.wait(60)  # none of the four does the work of two
        store.put(path, name)
        assert store.read(name) == b"text"

    path = file(tmp_path, "text")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, ["a", "b", "c", "d"]))
    assert sorted(name for name, _ in store.names()) == ["a", "b", "c", "d"]
    assert len({one.thread for one in Connected.made}) == len(Connected.made) == 5


def test_a_connection_that_broke_is_made_anew(tmp_path: Path) -> None:
    store = Store(f"connected://{tmp_path}/out")
    Connected.lives = 3
    path = file(tmp_path, "text")
    for name in "abcdef":
        store.put(path, name)
        assert store.read(name) == b"text"
    assert len(Connected.made) == 4


def test_an_absent_file_is_absent_whatever_the_error(tmp_path: Path) -> None:
    store = Store(f"connected://{tmp_path}/out")
    assert not store.get("x.txt", tmp_path / "y") and not (tmp_path / "y").exists()
    store.remove("x.txt")
    store.put_bytes(b"text", "x.txt")
    assert store.get("x.txt", tmp_path / "y") and (tmp_path / "y").read_text() == "text"
    assert len(Connected.made) == 1


def test_urls_that_cannot_be_stores() -> None:
    with pytest.raises(UsageError, match="wtf:// is not a known kind of URL"):
        Store("wtf://bucket/out")
    with pytest.raises(EnvironmentProblem, match="writing .*needs a package that is missing|needs s3fs"):
        Store("dropbox://bucket/out")


def test_what_a_library_left_behind_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Where parts of a file are sent side by side the first error is raised; asyncio would log the others' tracebacks,
    which without a handler go to stderr.
    """

    async def fail() -> None:
        raise OSError("the network is gone")

    async def leave_behind() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        del task

    Store("memory://left-behind")
    asyncio.run(leave_behind())
    assert caplog.records == []
