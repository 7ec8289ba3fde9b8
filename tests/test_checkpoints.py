"""Registry, names, search order, and verification of checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import platformdirs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from densecli import checkpoints, wording
from densecli.doctor import weights
from densecli.errors import CheckpointError, EnvironmentProblem, UsageError
from densecli.model_names import named
from densecli.remote.staging import staging_folder

WEIGHTS = b"weights" * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, an empty cache folder, and none of densecli's variables."""
    for variable in ("DENSECLI_REGISTRY", "DENSECLI_CHECKPOINTS", "DENSECLI_CHECKPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def add_registry(monkeypatch: pytest.MonkeyPatch, folder: Path, document: object) -> Path:
    file = folder / "mine.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    monkeypatch.setenv("DENSECLI_REGISTRY", str(file))
    return file


def mine(**changes: object) -> dict[str, object]:
    values = {"file": "mine.pt", "size": len(WEIGHTS), "sha256": SHA256, "config": "mine.yaml"}
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> checkpoints.CheckpointEntry:
    add_registry(monkeypatch, tmp_path, {"checkpoints": {"mine": mine()}})
    return checkpoints.load_registry().entry("mine")


# The registry


def test_shipped_registry_holds_the_published_facts() -> None:
    registry = checkpoints.load_registry()
    facts = {name: (entry.file, entry.size, entry.sha256[:8]) for name, entry in registry.entries.items()}
    assert facts == {
        "tiny": ("sam2.1_hiera_tiny.pt", 156008466, "7402e0d8"),
        "small": ("sam2.1_hiera_small.pt", 184416285, "6d1aa6f3"),
        "base-plus": ("sam2.1_hiera_base_plus.pt", 323606802, "a2345aed"),
        "large": ("sam2.1_hiera_large.pt", 898083611, "2647878d"),
    }
    assert registry.entries["base-plus"].config == "configs/sam2.1/sam2.1_hiera_b+.yaml"


def test_urls_are_those_of_meta_and_then_hugging_face() -> None:
    registry = checkpoints.load_registry()
    assert registry.urls(registry.entry("base-plus")) == [
        "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_base_plus.pt",
        "https://huggingface.co/facebook/sam2.1-hiera-base-plus/resolve/main/sam2.1_hiera_base_plus.pt",
    ]


def test_url_variable_comes_first_and_only_replaces_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINT_URL", "http://a.example/x, file:///mnt/y/ ,")
    registry = checkpoints.load_registry()
    urls = registry.urls(registry.entry("tiny"))
    assert urls[:2] == ["http://a.example/x/sam2.1_hiera_tiny.pt", "file:///mnt/y/sam2.1_hiera_tiny.pt"]
    assert len(urls) == 4
    only = registry.urls(registry.entry("tiny"), ["https://b.example/{name}"])
    assert only == ["https://b.example/tiny/sam2.1_hiera_tiny.pt"]


@pytest.mark.parametrize("bad", ["ftp://a.example", "a.example/x", "/mnt/y"])
def test_bad_url_variable_is_a_usage_error(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINT_URL", bad)
    registry = checkpoints.load_registry()
    with pytest.raises(UsageError, match=r"\$DENSECLI_CHECKPOINT_URL.*" + bad):
        registry.urls(registry.entry("tiny"))


def test_own_registry_adds_checkpoints_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"checkpoints": {"mine": mine(sha256=SHA256.upper())}, "sources": ["http://mirror.example/"]}
    file = add_registry(monkeypatch, tmp_path, document)
    registry = checkpoints.load_registry()
    assert list(registry.entries) == ["tiny", "small", "base-plus", "large", "mine"]
    entry = registry.entry("mine")
    assert (entry.registry, entry.sha256, entry.config) == (file, SHA256, "mine.yaml")
    # A public server must not be asked for somebody's own checkpoint; a mirror may hold the public ones.
    assert registry.urls(entry) == ["http://mirror.example/mine.pt"]
    assert registry.urls(registry.entry("tiny"))[-1] == "http://mirror.example/sam2.1_hiera_tiny.pt"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "the file is None"),
        ("[1, 2]", "the file is"),
        ("checkpoints: [", "cannot be read"),
        ("# " + "x" * (1 << 20), "cannot be read: larger than 1 MiB"),
        ("a: 2024-13-45", "cannot be read"),
        ({"checkpoint": {}}, "checkpoint is not a known key. Did you mean 'checkpoints'"),
        ({"checkpoints": []}, "checkpoints is []"),
        ({"sources": "http://a.example"}, "sources is 'http://a.example'"),
        ({"sources": ["http://a.example", "b.example"]}, "sources[1] is 'b.example'"),
        ({"checkpoints": {"mine": None}}, "checkpoints.mine is None"),
        ({"checkpoints": {5: mine()}}, "checkpoints.5 is 5"),
        ({"checkpoints": {"starter": mine()}}, "checkpoints.starter is 'starter'"),
        ({"checkpoints": {"mine": mine(size=None)}}, "checkpoints.mine.size is missing"),
        ({"checkpoints": {"mine": mine(size="7000")}}, "checkpoints.mine.size is '7000'"),
        ({"checkpoints": {"mine": mine(size=True)}}, "checkpoints.mine.size is True"),
        ({"checkpoints": {"mine": mine(size=0)}}, "checkpoints.mine.size is 0"),
        ({"checkpoints": {"mine": mine(sha256="abc")}}, "checkpoints.mine.sha256 is 'abc'"),
        ({"checkpoints": {"mine": mine(sha256=12)}}, "checkpoints.mine.sha256 is 12"),
        ({"checkpoints": {"mine": mine(config="")}}, "checkpoints.mine.config is ''"),
        ({"checkpoints": {"mine": mine(file="../../.bashrc")}}, "checkpoints.mine.file is '../../.bashrc'"),
        ({"checkpoints": {"mine": mine(file="/etc/passwd")}}, "checkpoints.mine.file is '/etc/passwd'"),
        ({"checkpoints": {"mine": mine(file="..")}}, "checkpoints.mine.file is '..'"),
        ({"checkpoints": {"mine": mine(sha265=SHA256)}}, "checkpoints.mine.sha265 is not a known key"),
        ({"checkpoints": {"Large": mine()}}, "checkpoints.Large: "),
        ({"checkpoints": {"mine": mine(file="sam2.1_hiera_tiny.pt")}}, "checkpoints.mine.file: "),
    ],
)
def test_mistakes_in_a_registry_name_file_and_key(
    document: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = add_registry(monkeypatch, tmp_path, document)
    with pytest.raises(UsageError) as caught:
        checkpoints.load_registry()
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_registry_file_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_REGISTRY", str(tmp_path / "absent.yaml"))
    with pytest.raises(UsageError, match=r"absent\.yaml cannot be read"):
        checkpoints.load_registry()


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["checkpoints", "sources", "mine", "file", "size", "sha256", "config"]) | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(document=json_like)
def test_any_document_is_a_registry_or_a_usage_error(
    document: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    before = os.environ.get("DENSECLI_REGISTRY")
    os.environ["DENSECLI_REGISTRY"] = str(file)
    try:
        registry = checkpoints.load_registry()
    except UsageError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
    else:
        assert {"tiny", "small", "base-plus", "large"} <= set(registry.entries)
    finally:
        os.environ.pop("DENSECLI_REGISTRY")
        if before is not None:
            os.environ["DENSECLI_REGISTRY"] = before


# Names


@pytest.mark.parametrize(
    ("given_name", "canonical"),
    [
        ("tiny", "tiny"),
        ("LARGE", "large"),
        ("base-plus", "base-plus"),
        ("base_plus", "base-plus"),
        ("Base_Plus", "base-plus"),
        ("b+", "base-plus"),
        ("sam2.1_hiera_small", "small"),
        ("sam2.1_hiera_small.pt", "small"),
    ],
)
def test_names_are_understood(given_name: str, canonical: str) -> None:
    assert checkpoints.load_registry().entry(given_name).name == canonical


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="'larg'.*Did you mean 'large'.*tiny, small, base-plus, large"):
        checkpoints.locate("larg")
    with pytest.raises(UsageError) as caught:
        checkpoints.locate("zzzzzz")
    assert "Did you mean" not in str(caught.value)


def test_command_lines_are_for_the_shell_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """cmd.exe takes single quotes for a part of the name."""
    arguments = ["--dir", r"C:\my weights"]
    assert wording.command_line(arguments) == r"--dir 'C:\my weights'"
    monkeypatch.setattr(wording, "os", SimpleNamespace(name="nt"))
    assert wording.command_line(arguments) == r'--dir "C:\my weights"'


def test_fetch_command() -> None:
    assert checkpoints.fetch_command("large") == "densecli download-checkpoints large"


# Folders


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(tmp_path / "variable"))
    folders = checkpoints.search_dirs(tmp_path / "option")
    assert folders[:3] == [tmp_path / "option", tmp_path / "variable", tmp_path / "work" / "checkpoints"]
    assert "densecli" in folders[3].parts
    assert len(folders) == 4
    assert all(folder.is_absolute() for folder in checkpoints.search_dirs(Path("relative")))


def test_download_dir_is_the_first_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = checkpoints.search_dirs()[-1]
    assert checkpoints.download_dir() == cache
    (tmp_path / "work" / "checkpoints").mkdir()
    assert checkpoints.download_dir() == tmp_path / "work" / "checkpoints"
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(tmp_path / "variable"))
    assert checkpoints.download_dir() == tmp_path / "variable"
    assert checkpoints.download_dir(tmp_path / "option") == tmp_path / "option"


def test_download_dir_takes_a_folder_that_was_asked_for_though_it_does_not_exist(tmp_path: Path) -> None:
    assert checkpoints.download_dir(Path("checkpoints")) == tmp_path / "work" / "checkpoints"


def test_find_prefers_earlier_folders_and_passes_over_wrong_sizes(
    entry: checkpoints.CheckpointEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(tmp_path / "variable"))
    assert checkpoints.locate("mine").path is None
    assert checkpoints.locate("mine") == checkpoints.Location(None, None)
    folders = checkpoints.search_dirs(tmp_path / "option")
    for folder in reversed(folders):
        folder.mkdir(parents=True)
        (folder / "mine.pt").write_bytes(WEIGHTS)
        assert checkpoints.locate("mine", tmp_path / "option").path == folder / "mine.pt"
    (tmp_path / "option" / "mine.pt").write_bytes(WEIGHTS[:-1])
    (tmp_path / "variable" / "mine.pt").unlink()
    (tmp_path / "variable" / "mine.pt").mkdir()
    location = checkpoints.locate("mine", tmp_path / "option")
    assert location.path == tmp_path / "work" / "checkpoints" / "mine.pt"
    assert location.problem is not None
    assert f"{tmp_path}/option/mine.pt has 6999 bytes instead of 7000" in location.problem
    assert f"{tmp_path}/variable/mine.pt is not a file" in location.problem


# Verification


def test_verify_reads_the_file_once_and_then_trusts_the_stamp(
    entry: checkpoints.CheckpointEntry, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(WEIGHTS)
    assert not checkpoints.is_verified(entry, path)
    checkpoints.verify(entry, path)
    assert checkpoints.is_verified(entry, path)
    status = path.stat()
    assert json.loads((tmp_path / "mine.pt.stamp").read_text()) == {
        "size": len(WEIGHTS),
        "mtime_ns": status.st_mtime_ns,
        "sha256": SHA256,
    }
    # Other bytes under the same size and time: only a call that reads the file can notice.
    path.write_bytes(b"X" + WEIGHTS[1:])
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    checkpoints.verify(entry, path)
    with pytest.raises(CheckpointError, match="sha256"):
        checkpoints.verify(entry, path, use_stamp=False)
    assert not checkpoints.is_verified(entry, path), "the stamp of a damaged file must go"


def test_verify_reads_again_after_a_change(entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(WEIGHTS)
    checkpoints.verify(entry, path)
    path.write_bytes(b"X" + WEIGHTS[1:])
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.verify(entry, path)
    message = str(caught.value)
    assert str(path) in message and SHA256 in message and "densecli download-checkpoints mine" in message
    assert "\n" not in message


def test_a_stamp_is_written_through_no_link(entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    """Others may write in a folder of checkpoints that is shared, and foresee names."""
    path, mine = tmp_path / "mine.pt", tmp_path / "other"
    path.write_bytes(WEIGHTS)
    mine.write_text("mine")
    for link in (f"mine.pt.stamp.{os.getpid()}.part", "mine.pt.stamp"):
        (tmp_path / link).symlink_to(mine)
    checkpoints.verify(entry, path)
    assert checkpoints.is_verified(entry, path) and mine.read_text() == "mine"


def test_stamp_of_another_checkpoint_does_not_count(
    entry: checkpoints.CheckpointEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(WEIGHTS)
    checkpoints.verify(entry, path)
    add_registry(monkeypatch, tmp_path, {"checkpoints": {"mine": mine(sha256="0" * 64)}})
    with pytest.raises(CheckpointError, match="sha256"):
        checkpoints.verify(checkpoints.load_registry().entry("mine"), path)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\xff\xfe", b'{"size": 7000}', b"null"])
def test_a_damaged_stamp_is_ignored(garbage: bytes, entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(WEIGHTS)
    checkpoints.stamp_path(path).write_bytes(garbage)
    assert not checkpoints.is_verified(entry, path)
    checkpoints.verify(entry, path)
    assert checkpoints.is_verified(entry, path)


def test_verify_without_a_stamp_where_none_can_be_written(entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(WEIGHTS)
    (tmp_path / "mine.pt.stamp").mkdir()  # stands in the way even of root
    checkpoints.verify(entry, path)
    checkpoints.verify(entry, path)
    assert sorted(p.name for p in tmp_path.glob("mine.pt*")) == ["mine.pt", "mine.pt.stamp"]
    path.write_bytes(WEIGHTS[1:] + b"X")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.verify(entry, path)


def test_verify_missing_and_short_files(entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.verify(entry, tmp_path / "mine.pt")
    (tmp_path / "mine.pt").write_bytes(WEIGHTS[:-1])
    with pytest.raises(CheckpointError, match="6999 bytes"):
        checkpoints.verify(entry, tmp_path / "mine.pt")


def test_starter_files_ship() -> None:
    weights, config = checkpoints.starter_files()
    assert weights.stat().st_size > 1_000_000
    assert isinstance(yaml.safe_load(config.read_text()), dict)


def test_no_heavy_imports() -> None:
    code = (
        "import densecli.checkpoints, densecli.download, densecli.cli.download_checkpoints, sys;"
        "print(sorted({'torch', 'cv2', 'numpy', 'sam2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The command in messages


def test_the_command_names_the_folder_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "densecli download-checkpoints mine"
    assert checkpoints.fetch_command("mine") == plain
    assert checkpoints.fetch_command("mine", checkpoints.download_dir()) == plain
    assert checkpoints.fetch_command("mine", "a b") == f"{plain} --dir 'a b'"
    assert checkpoints.fetch_command("mine", Path("~/x")) == f"{plain} --dir '~/x'"
    assert checkpoints.fetch_command("mine", "a\n\x1b[31m").isprintable()
    Path("checkpoints").mkdir()
    assert checkpoints.fetch_command("mine", "checkpoints") == plain
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", "~/set")
    assert checkpoints.fetch_command("mine", Path("~/set")) == plain
    assert checkpoints.fetch_command("mine", "checkpoints") == f"{plain} --dir checkpoints"
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", "~nobodyx/set")
    assert checkpoints.fetch_command("mine", "set") == f"{plain} --dir set"


def test_a_damaged_file_in_a_folder_that_was_given(entry: checkpoints.CheckpointEntry, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(bytes(len(WEIGHTS)))
    with pytest.raises(CheckpointError, match=f"`densecli download-checkpoints mine --dir {tmp_path}` fetches a good"):
        checkpoints.verify(entry, tmp_path / "mine.pt")
    with pytest.raises(CheckpointError, match=f"fetch it with: densecli download-checkpoints mine --dir {tmp_path}/x"):
        named("mine", tmp_path / "x", None)


# Without a home


@pytest.fixture(params=["this platformdirs", "an older one"])
def homeless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, without HOME."""

    def nobody(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwall", list)
    if request.param == "an older one":
        monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/densecli")


def test_a_user_without_a_home(homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.search_dirs(tmp_path) == [tmp_path, Path.cwd() / "checkpoints"]
    assert checkpoints.download_dir(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match=r"no home folder .*; give --dir, or set \$DENSECLI_CHECKPOINTS"):
        checkpoints.download_dir()
    with pytest.raises(EnvironmentProblem, match="no home folder .* set XDG_CACHE_HOME"):
        staging_folder("memory://bucket/out")
    Path("checkpoints").mkdir()
    assert checkpoints.download_dir() == Path.cwd() / "checkpoints"
    monkeypatch.setenv("DENSECLI_CHECKPOINTS", str(tmp_path / "set"))
    assert checkpoints.download_dir() == tmp_path / "set"


def test_the_command_for_a_user_without_a_home(homeless: None, tmp_path: Path) -> None:
    assert checkpoints.fetch_command("mine", tmp_path) == f"densecli download-checkpoints mine --dir {tmp_path}"


def test_doctor_of_a_user_without_a_home(homeless: None) -> None:
    rows = {row.name: row for row in weights.check_weights(deep=False)}
    assert {rows[name].status for name in ("starter", "leftovers", "disk space")} == {"ok"}
    assert rows["checkpoint folder"].seen == "this user has no home folder for downloads"
    assert (rows["checkpoint folder"].fix or "").startswith("export DENSECLI_CHECKPOINTS=")
