"""`densecli doctor` as a user runs it: table, JSON, exit codes, and faults that are really there."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from densecli.cli import tree
from densecli.doctor import flags
from tests.conftest import CHECKOUT, Command, Finished

# Everything that `doctor` may need itself; it must work where nothing else is installed.
LIGHT = (
    "typer rich yaml _yaml platformdirs click shellingham markdown_it mdurl pygments typing_extensions annotated_doc "
    "pydantic pydantic_core typing_inspection annotated_types"  # newer versions of typer use these
)


def rows(done: Finished) -> dict[str, dict[str, Any]]:
    """Checks by name of a --json run; also checks what holds for all of them."""
    document = json.loads(done.stdout)
    assert document["schema"] == "densecli/doctor/1"
    checks = document["checks"]
    assert all(list(check) == ["name", "seen", "status", "fix"] for check in checks)
    assert all(check["status"] in ("ok", "warning", "problem") for check in checks)
    assert all((check["fix"] is None) == (check["status"] == "ok") for check in checks)
    assert all("\n" not in check["seen"] for check in checks)
    assert document["ok"] is all(check["status"] != "problem" for check in checks)
    assert done.code == (0 if document["ok"] else 4)
    by_name = {check["name"]: check for check in checks}
    assert len(by_name) == len(checks)
    return by_name


def write(folder: Path, name: str, text: str) -> dict[str, str]:
    """A module that comes before the installed ones; returns the environment in which it does."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}"}


def test_a_healthy_machine(clean_environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['densecli', 'doctor', '--json']\n"
        "from densecli.cli.app import _run\n"
        "code = _run()\n"
        "heavy = {'torch', 'cv2', 'numpy', 'sympy', 'sam2'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr) if heavy else None\n"
        "sys.exit(code)"
    )
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=clean_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""  # and with it: nothing heavy was imported into the process of the command
    seen = rows(Finished(done.returncode, done.stdout, done.stderr))
    assert done.returncode == 0
    for name in (
        "python",
        "sympy",
        "numpy",
        "opencv",
        "pytorch",
        "torchvision",
        "sam2",
        "numba",
        "run on cpu",
        "starter",
    ):
        assert seen[name]["status"] == "ok", seen[name]
    assert re.search(r"starter finds \d+ masks", seen["run on cpu"]["seen"])
    assert "densecli does not need" in seen["sam2"]["seen"]
    assert "GB free" in seen["memory cpu"]["seen"]
    assert seen["checkpoints"]["status"] == "warning"
    assert seen["checkpoints"]["fix"].endswith("-m densecli download-checkpoints large")
    assert seen["checkpoints"]["fix"].startswith(sys.executable)
    assert time.monotonic() - begin < 60  # about 6 s on two idle cores


def test_torch_that_does_not_import(run_densecli: Command, tmp_path: Path) -> None:
    text = "raise OSError('libcudart.so.13: cannot open shared object file: No such file or directory')"
    environment = write(tmp_path / "first", "torch/__init__.py", text)
    write(tmp_path / "first", "torch-2.9.1.dist-info/METADATA", "")
    done = run_densecli("doctor", cwd=tmp_path, environment=environment)
    assert (done.code, done.stderr) == (4, "")
    begins = [line for line in done.lines if line.startswith("problem  pytorch")]
    assert len(begins) == 1 and "libcudart.so.13" in begins[0]
    fix = done.lines[done.lines.index(begins[0]) + 1]
    assert fix == f"    fix: {sys.executable} -m pip install --force-reinstall --no-cache-dir torch"
    assert re.fullmatch(r"\d problems and 1 warning: densecli cannot run properly; .*", done.lines[-1])
    assert "\x1b" not in done.stdout
    quiet = run_densecli("doctor", "-q", cwd=tmp_path, environment=environment)
    assert quiet.code == 4 and not any(line.startswith("ok ") for line in quiet.lines)
    # And the command that it would have stopped says where to go, on its last line.
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    done = run_densecli("segment", "x.png", cwd=tmp_path, environment=environment)
    assert (done.code, done.stdout) == (4, "")
    (error,) = done.errors
    assert "libcudart.so.13" in error
    assert done.stderr.splitlines() == [f"densecli: error: {error}", "run densecli doctor"]
    done = run_densecli("segment", "x.png", "-v", cwd=tmp_path, environment=environment)
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1] == "run densecli doctor"


def test_imports_that_hang(run_densecli: Command, tmp_path: Path) -> None:
    environment = write(tmp_path / "first", "torch/__init__.py", "import time\nwhile True: time.sleep(1)")
    limit = 9  # seconds; an import that takes a sixth of it has a warning
    begin = time.monotonic()
    environment |= {"DENSECLI_DOCTOR_TIMEOUT": str(limit)}
    done = run_densecli("doctor", "--json", cwd=tmp_path, environment=environment)
    seen = rows(done)
    assert time.monotonic() - begin < limit + 17
    assert seen["pytorch"]["status"] == "problem" and "the import hangs" in seen["pytorch"]["seen"]
    assert seen["sam2"]["status"] == "problem" and "torch" in seen["sam2"]["seen"]
    assert not any(name.startswith("run on") for name in seen)
    assert seen["sympy"]["status"] == "ok"


def test_nothing_but_the_light_packages(clean_environment: dict[str, str], tmp_path: Path) -> None:
    """torch, torchvision, cv2, numpy, sympy and sam2 are really not there."""
    folder = tmp_path / "light"
    folder.mkdir()
    for name in LIGHT.split():
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            source = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
            (folder / source.name).symlink_to(source)
    environment = {**clean_environment, "PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}"}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "densecli", "doctor", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seen = rows(Finished(done.returncode, done.stdout, done.stderr))
    assert done.stderr == ""
    for name, package in (("pytorch", "torch"), ("numpy", "numpy"), ("opencv", "opencv-python"), ("sympy", "sympy")):
        assert seen[name]["status"] == "problem", seen[name]
        assert "not installed" in seen[name]["seen"] and package in seen[name]["fix"]


def test_a_broken_pydantic_stops_no_examination(run_densecli: Command, tmp_path: Path) -> None:
    """typer parses options with it."""
    text = "raise SystemError('The installed pydantic-core version (2.27.0) is incompatible')"
    environment = write(tmp_path / "first", "pydantic/__init__.py", text)
    write(tmp_path / "first", "torch/__init__.py", "raise ImportError('broken')")  # makes it quick
    done = run_densecli("doctor", "--json", cwd=tmp_path, environment=environment)
    seen = rows(done)
    assert done.stderr == ""
    assert seen["python"]["status"] == "ok" and "broken" in seen["pytorch"]["seen"]
    # What only typer can answer is answered by the command that mends it, and not by "run densecli doctor".
    done = run_densecli("doctor", "--deeep", cwd=tmp_path, environment=environment)
    (error,) = done.errors
    assert (done.code, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "pydantic" in error and "incompatible" in error and "; run " in error


@pytest.mark.parametrize("command", ["doctor", "segment"])
def test_without_typer(command: str, clean_environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "densecli", command],
        cwd=tmp_path,
        env={**clean_environment, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("densecli: error: typer: not installed; run ")
    assert done.stderr.endswith(" install typer\n") and done.stderr.count("\n") == 1


def test_flags_are_those_that_typer_knows() -> None:
    doctor = typer.main.get_command(tree.commands).commands["doctor"]  # type: ignore[attr-defined]
    known = {option: parameter.name for parameter in doctor.params for option in parameter.opts}
    assert known == flags.FLAGS
    assert flags.read(["--deep", "-y"]) == {"deep": True, "yes": True}
    assert flags.read([]) == {} and flags.read(["--deep", "--help"]) is None


def test_sam2_is_missing(run_densecli: Command, tmp_path: Path) -> None:
    text = "raise ModuleNotFoundError(\"No module named 'sam2'\", name='sam2')"
    environment = write(tmp_path / "first", "sam2/__init__.py", text)
    write(tmp_path / "first", "sam2-1.dist-info/METADATA", "")
    row = rows(run_densecli("doctor", "--json", cwd=tmp_path, environment=environment))["sam2"]
    assert (row["status"], row["seen"]) == ("problem", "not installed")
    assert row["fix"].startswith("SAM2_BUILD_CUDA=0 ") and "--no-build-isolation" in row["fix"]


def test_started_from_the_parent_of_a_checkout_of_sam2(run_densecli: Command, tmp_path: Path) -> None:
    """A folder that has no sam2.modeling: `python -m densecli` takes the installed one, other programs would not."""
    (tmp_path / "sam2" / "sam2").mkdir(parents=True)
    (tmp_path / "sam2" / "__init__.py").touch()
    seen = rows(run_densecli("doctor", "--json", cwd=tmp_path))
    assert seen["shadowing"]["status"] == "warning" and str(tmp_path / "sam2") in seen["shadowing"]["seen"]
    assert seen["sam2"]["status"] == "ok"
    seen = rows(run_densecli("doctor", "--json", cwd=tmp_path, environment={"PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}))
    assert seen["sam2"]["status"] == "problem" and str(tmp_path / "sam2") in seen["sam2"]["seen"]


def test_an_old_driver(run_densecli: Command, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncase "$1" in --query-gpu*) echo "Tesla K80, GPU-1, 11441, 11000";; --query-c*) ;;\n'
        '*) echo "| Driver Version: 418.87.00   CUDA Version: 10.1 |";; esac\n'
    )
    program.chmod(0o755)
    # A broken torch makes it quick; the row of the driver comes all the same.
    environment = write(tmp_path / "first", "torch/__init__.py", "raise ImportError('broken')")
    environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    seen = rows(run_densecli("doctor", "--json", cwd=tmp_path, environment=environment))
    if importlib.util.find_spec("pynvml") is None:
        assert "driver 418.87.00 (CUDA 10.1)" in seen["cuda"]["seen"]
        assert "Tesla K80" in seen["gpu 0"]["seen"]


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_on_a_terminal(columns: int, run_densecli: Command, tmp_path: Path) -> None:
    environment = write(tmp_path / "first", "torch/__init__.py", "raise ImportError('broken ' * 30)")
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        run_densecli.argv("doctor"),
        cwd=tmp_path,
        env={**run_densecli.environment, **environment, "COLUMNS": str(columns), "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    screen = b""
    try:
        while block := os.read(leader, 4096):
            screen += block
    except OSError:  # how Linux says that the other side is closed
        pass
    _, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (4, b"")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.decode()).replace("\r", "").splitlines()
    assert re.fullmatch(r"STATUS +CHECK +SEEN *", lines[0])
    column = lines[0].index("SEEN")
    table = [line for line in lines[1:-1] if not line.startswith("    fix: ")]
    assert max(len(line.rstrip()) for line in table) <= columns
    # Every row keeps to its columns, continued lines too.
    assert all(line[column - 2 : column] == "  " for line in table)
    assert any(line[:column].isspace() for line in table)
    # Commands are not broken into lines, so that they can be copied.
    fixes = [line for line in lines if line.startswith("    fix: ")]
    assert len(fixes) >= 2 and any(line.endswith("download-checkpoints large") for line in fixes)


def test_checkpoints_and_leftovers(run_densecli: Command, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    entry = "{file: mine.pt, size: 10, sha256: '%s', config: mine.yaml}" % ("0" * 64)
    (tmp_path / "registry.yaml").write_text(f"checkpoints:\n  mine: {entry}\n")
    (folder / "mine.pt").write_bytes(bytes(10))
    (folder / "sam2.1_hiera_tiny.pt").write_bytes(b"cut off")
    (folder / "sam2.1_hiera_small.pt.part").write_bytes(b"begun")
    environment = write(tmp_path / "first", "torch/__init__.py", "raise ImportError('broken')")  # makes it quick
    environment["DENSECLI_REGISTRY"] = str(tmp_path / "registry.yaml")
    seen = rows(run_densecli("doctor", "--json", "--deep", cwd=tmp_path, environment=environment))
    assert seen["checkpoint mine"]["status"] == "problem" and "sha256" in seen["checkpoint mine"]["seen"]
    assert seen["checkpoint tiny"]["status"] == "warning" and "7 bytes" in seen["checkpoint tiny"]["seen"]
    assert seen["leftovers"]["fix"].endswith("download-checkpoints small")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--yes"], {}, "--fix"),
        (["--fix"], {}, "--yes"),
        ([], {"DENSECLI_DOCTOR_TIMEOUT": "soon"}, "$DENSECLI_DOCTOR_TIMEOUT"),
    ],
)
def test_usage(
    arguments: list[str], environment: dict[str, str], said: str, run_densecli: Command, tmp_path: Path
) -> None:
    done = run_densecli("doctor", *arguments, cwd=tmp_path, environment=environment)
    assert (done.code, done.stdout) == (2, "")
    (error,) = done.errors
    assert said in error and done.stderr.count("\n") == 1  # and no pointer to doctor: this is no fault of the machine


def test_fix_asks_and_takes_no_for_an_answer(run_densecli: Command, tmp_path: Path) -> None:
    environment = write(tmp_path / "first", "torch/__init__.py", "raise ImportError('broken')")  # makes it quick
    write(tmp_path / "first", "sympy/__init__.py", "raise ImportError('half of sympy')")
    info = tmp_path / "first" / "sympy-1.12.dist-info"
    write(tmp_path / "first", f"{info.name}/METADATA", "Name: sympy\nVersion: 1.12\n")
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        run_densecli.argv("doctor", "--fix", "--json"),
        cwd=tmp_path,
        env={**run_densecli.environment, **environment},
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(follower)
    os.write(leader, b"n\n")
    stdout, stderr = child.communicate(timeout=60)
    os.close(leader)
    row = rows(Finished(child.returncode, stdout, stderr))["sympy"]
    assert child.returncode == 4 and row["status"] == "problem" and "half of sympy" in row["seen"]
    assert stderr.splitlines()[0] == row["fix"] and "Run this command?" in stderr
    assert info.exists()


def test_a_library_that_breaks_while_segmenting(run_densecli: Command, tmp_path: Path, photo: Any) -> None:
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "x.png")
    text = "raise AttributeError(\"module 'omegaconf' has no attribute 'rational'\")"
    environment = write(tmp_path / "first", "hydra/__init__.py", text)
    done = run_densecli("segment", "x.png", cwd=tmp_path, environment=environment)
    assert (done.code, done.stdout) == (4, "")
    assert done.stderr.splitlines()[-1] == "run densecli doctor"
    assert any("'rational'" in error for error in done.errors)


@pytest.mark.parametrize("name", ["sympy", "torchvision"])
def test_what_a_run_does_not_need_may_hang(name: str, run_densecli: Command, tmp_path: Path, photo: Any) -> None:
    """sympy is what imports hang in; it comes with torch.compile, and torchvision brings that in."""
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "x.png")
    environment = write(tmp_path / "first", f"{name}/__init__.py", "import time\nwhile True: time.sleep(1)")
    arguments = ("-m", "starter", "-d", "cpu", "--set", "points_per_side=4")
    done = run_densecli("segment", "x.png", *arguments, cwd=tmp_path, environment=environment)
    assert done.code == 0, done.stderr


def test_a_missing_device_points_to_doctor(run_densecli: Command, tmp_path: Path, photo: Any) -> None:
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "x.png")
    done = run_densecli("segment", "x.png", "-d", "cuda", cwd=tmp_path, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert done.code == 4
    assert done.stderr.splitlines()[-1] == "run densecli doctor" and len(done.errors) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fix_mends_a_broken_sympy(clean_environment: dict[str, str], tmp_path: Path) -> None:
    """The known breakage, in a virtual environment of its own that finds everything else in the one of the tests."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    python = str(home / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "sympy==1.12", "mpmath==1.4.0a0"]
    subprocess.run(install, check=True, timeout=300)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    # Behind its own site-packages.
    Path(site, "zz_tests.pth").write_text(
        "\n".join(dict.fromkeys(sysconfig.get_path(k) for k in ("purelib", "platlib")))
    )

    def doctor(*arguments: str) -> Finished:
        done = subprocess.run(
            [python, "-m", "densecli", "doctor", *arguments],
            cwd=tmp_path,
            env=clean_environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    broken = doctor("--json")
    seen = rows(broken)
    assert seen["run on cpu"]["status"] == "ok"  # which uses neither
    assert "sympy 1.12, mpmath 1.4.0a0" in seen["sympy"]["seen"]
    assert "module 'mpmath' has no attribute 'rational'" in seen["sympy"]["seen"]
    fix = seen["sympy"]["fix"]
    assert fix.startswith(f"{python} -m pip install --force-reinstall 'sympy") and "'mpmath>=1.3,<1.4'" in fix
    # What fails because of it names the same cure.
    assert {seen[name]["fix"] for name in ("sympy", "torchvision")} == {fix}
    assert all(row["fix"] == fix for row in seen.values() if row["status"] == "problem")

    mended = doctor("--json", "--fix", "--yes")
    seen = rows(mended)
    assert mended.code == 0, mended.stderr
    assert fix in mended.stderr
    assert seen["sympy"]["status"] == seen["torchvision"]["status"] == seen["run on cpu"]["status"] == "ok"
    assert "mpmath 1.3" in seen["sympy"]["seen"]
    again = doctor("--fix", "--yes")
    assert again.code == 0 and "nothing to do" in again.stderr
