"""The work of `densecli tune`: check, read, run the model once, say where the page is, serve it until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densecli import errors
from densecli.console import Console
from densecli.model_names import check_named, names_file
from densecli.presets import Preset, is_shipped, load_preset
from densecli.sinks.candidates import is_candidates
from densecli.sources import local_path
from densecli.wording import reason_of, shown_input

# Seconds that the model has for ending its batch of points when the page is closed.
_PATIENCE = 5.0


def tune(
    image: str,
    console: Console,
    *,
    preset: str,
    overrides: Sequence[str],
    port: int,
    open_browser: bool,
    **segmenter_options: Any,
) -> int:
    """Serve the page for one image. Returns the exit code; raises DensecliError.

    segmenter_options: model, device, precision, checkpoint_dir and config of Segmenter.
    """
    _check_web()
    loaded = load_preset(preset, overrides)
    # What a user may have mistyped comes before anything that takes time.
    with _listening(port) as listening:
        tuning = _tuning(image, console, loaded, segmenter_options)
        from densecli.tune.server import application, serve

        token = secrets.token_urlsafe(16)
        app = application(tuning, _origin(image, preset, tuning, segmenter_options), token, console.failure)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"
        console.result(url, "")
        console.notice(f"{shown_input(image)}: the page is open to this machine only; Ctrl-C ends it")
        if open_browser:
            _open(url, console)
        try:
            serve(app, listening)
        except KeyboardInterrupt:
            console.notice("tune: closed")
        if not tuning.jobs.stop(_PATIENCE):
            # A thread deep in a library does not listen, and would crash the interpreter on its way out.
            os._exit(errors.EXIT_OK)
    return errors.EXIT_OK


def _check_web() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise errors.EnvironmentProblem(
            f"densecli tune needs starlette and uvicorn; run: {sys.executable} -m pip install 'densecli[web]'"
        ) from error


def _listening(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0: any that is free. Raises UsageError where the port is taken or not allowed."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # on Windows, it would let two programs share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise errors.UsageError(
            f"--port {port}: cannot be used ({reason_of(error)}); leave it out to get a free one"
        ) from None
    return listening


def _tuning(image: str, console: Console, preset: Preset, options: dict[str, Any]) -> Any:
    shown = shown_input(image)
    if is_candidates(image):
        from densecli.image_candidates import ImageCandidates

        kept = ImageCandidates.load(local_path(image) or image)
        kept.check_model(options["model"], shown, "give the photo")
        from densecli.tune.state import Tuning

        return Tuning(kept, preset, None)
    check_named(options)
    from densecli.sources import read_image

    loaded = read_image(image)
    for notice in loaded.notices:
        console.notice(f"{shown}: {notice}")
    from densecli.segmenter import Segmenter
    from densecli.tune.controls import MODEL_KEYS
    from densecli.tune.state import FLOOR, Tuning

    segmenter = Segmenter(preset=preset, **options)
    for notice in segmenter.notices:
        console.notice(notice)
    values = segmenter.resolved
    # What the model has to be asked for besides is left to the page, for the values that it then has.
    grid = values.generator.model_copy(update=dict.fromkeys(MODEL_KEYS, False))
    found = segmenter.with_values(values.model_copy(update={"generator": grid}))(
        loaded, lambda done, total: console.progress(shown, done, total, "point"), keep_candidates=FLOOR
    )
    console.progress_done()
    console.notice(f"{shown}: {found.funnel_line()}")
    for warning in found.warnings:
        console.warning(f"{shown}: {warning}")
    assert found.proposals is not None
    return Tuning(found.proposals, preset, segmenter)


def _origin(image: str, preset: str, tuning: Any, options: dict[str, Any]) -> Any:
    from densecli.tune.export import Origin

    base = load_preset(preset)
    told: list[str] = []
    if not is_candidates(image):
        model = options["model"]
        # auto may choose another model on another day.
        told += [
            "-m",
            tuning.model["name"] if model == "auto" else _from_anywhere(model) if names_file(model) else model,
        ]
        for option, default in (("device", "auto"), ("precision", "auto"), ("checkpoint_dir", None), ("config", None)):
            if options[option] != default:
                value = options[option]
                name = option.replace("_", "-")
                told += [f"--{name}", _from_anywhere(value) if isinstance(value, Path) else str(value)]
    return Origin(_from_anywhere(image), base.name if is_shipped(base) else _from_anywhere(preset), base, told)


def _from_anywhere(given: str | os.PathLike[str]) -> str:
    """A path as it is found from any folder; names and URLs as they are."""
    name = os.fspath(given)
    local = local_path(name)
    return os.path.abspath(local) if local is not None and os.path.exists(local) else name


def _open(url: str, console: Console) -> None:
    # Without a display, Python may start a browser for text, in this terminal.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        console.notice("tune: there is no display to open a browser on; open the address above yourself")
        return
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
