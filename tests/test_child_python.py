"""Child processes run the densecli of their parent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT


def test_a_child_takes_the_very_densecli_of_its_parent(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    """Where another one is installed, `python -m densecli` in a source folder has that folder last on its path."""
    other = tmp_path / "source" / "densecli"
    other.mkdir(parents=True)
    for name in ("__init__.py", "child_python.py"):
        shutil.copy(CHECKOUT / "densecli" / name, other / name)
    (tmp_path / "source" / "queue.py").write_text("x = 1\n")  # not to be taken for Python's own
    code = (
        f"import sys; sys.path.insert(0, {str(other.parent)!r}); import densecli; sys.path.append(sys.path.pop(0))\n"
        "from densecli.child_python import same_modules\n"
        "print(same_modules())"
    )
    ran = {"cwd": tmp_path, "env": clean_environment, "capture_output": True, "text": True, "check": True}
    begun = subprocess.run([sys.executable, "-c", code], **ran).stdout.strip()  # type: ignore[call-overload]
    code = f"{begun}; import queue; print(densecli.__file__, hasattr(queue, 'SimpleQueue'), len(set(sys.path)))"
    child = subprocess.run([sys.executable, "-c", code], **ran).stdout.split()  # type: ignore[call-overload]
    assert child[:2] == [str(other / "__init__.py"), "True"]
