"""Files appear complete or not at all, whatever goes wrong; nothing is left behind; errors are one line."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from densecli.errors import OutputError
from densecli.files import check_writable, complete_file, complete_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.png"
    with complete_file(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".png"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_there_stays_when_writing_fails(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").touch()
    with pytest.raises(error), complete_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("ne")
        raise error
    with pytest.raises(error), complete_folder(tmp_path / "f") as temporary:
        (temporary / "new").touch()
        raise error
    assert names(tmp_path) == ["a.txt", "f"]
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path / "f") == ["old"]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with complete_folder(tmp_path / "f") as temporary:
            (temporary / content).touch()
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["two"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with complete_folder(tmp_path / "f") as temporary:
        (temporary / "old").touch()
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "f" and Path(source).name != "old":
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError, match="Input/output error"), complete_folder(tmp_path / "f") as temporary:
        (temporary / "new").touch()
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["old"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_are_those_of_any_other_new_file(tmp_path: Path) -> None:
    code = (
        "import os; os.umask(0o027)\n"
        "from pathlib import Path; from densecli.files import complete_file, complete_folder\n"
        "with complete_file(Path('a')) as t: t.touch()\n"
        "with complete_folder(Path('f')) as t: pass\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "f")]
    assert modes == [0o640, 0o750]


def _parent_is_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "a"


def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop" / "a"


@pytest.mark.parametrize("writer", [complete_file, complete_folder])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_parent_is_a_file, "is a file, not a folder"),
        (_name_too_long, "name is too long"),
        (_loop, "is a file, not a folder"),
    ],
)
def test_paths_that_cannot_be(
    writer: Callable[[Path], AbstractContextManager[Path]],
    make: Callable[[Path], Path],
    said: str,
    tmp_path: Path,
) -> None:
    target = make(tmp_path)
    before = names(tmp_path)
    with pytest.raises(OutputError, match=said) as raised, writer(target) as temporary:
        if temporary.is_file():
            temporary.touch()
    assert str(target) in str(raised.value) and "\n" not in str(raised.value)
    assert names(tmp_path) == before


def test_a_folder_in_the_way_of_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("precious")
    with pytest.raises(OutputError, match="is a folder where a file must go"), complete_file(tmp_path / "d"):
        pass
    with pytest.raises(OutputError, match="is a file where a folder must go"), complete_folder(tmp_path / "f"):
        pass
    assert names(tmp_path) == ["d", "f"]
    assert (tmp_path / "f").read_text() == "precious"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_while_writing_are_explained_on_one_line(number: int, said: str, tmp_path: Path) -> None:
    target = tmp_path / "two\nlines"
    with pytest.raises(OutputError, match=said) as raised, complete_file(target) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(raised.value) and r"two\nlines" in str(raised.value)
    assert names(tmp_path) == []


def test_check_writable_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b", Path("relative/c"), Path(".")):
        check_writable(folder)
    assert names(tmp_path) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OutputError, match="is a file, not a folder"):
            check_writable(folder)


@pytest.mark.parametrize(("make", "call"), [(complete_file, "open"), (complete_folder, "mkdir")])
def test_ctrl_c_while_the_system_makes_it_leaves_nothing(tmp_path: Path, monkeypatch, make, call: str) -> None:
    """The signal is handled when the system call is over: the file is there, and nothing has its name yet."""
    real = getattr(os, call)

    def interrupted(path, *rest, **options):
        made = real(path, *rest, **options)
        if ".densecli-tmp-" not in str(path):
            return made
        if call == "open":
            os.close(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "result.png"):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
