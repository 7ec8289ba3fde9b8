"""What one run of `densecli batch` is asked to do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from densecli.errors import UsageError
from densecli.remote.staging import local_folder, output_url, staging_folder
from densecli.sinks import CANDIDATES, WriteOptions, parse_kinds
from densecli.wording import shown_name

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class SegmenterOptions:
    """Arguments of Segmenter but the device: the same for every worker."""

    preset: Any = "dense"
    """A name, a file, or a loaded Preset."""
    model: str = "auto"
    precision: str = "auto"
    checkpoint_dir: Path | None = None
    config: Path | None = None
    keep_candidates: bool = False
    """Keep what the engine proposes; set by BatchJob.worker_options."""


@dataclass(frozen=True)
class BatchJob:
    """What to read, how, and what to write. Raises UsageError for what cannot be.

    inputs: as the user gave them. kinds: as for `--save`, a list or with commas; kept as
    `parse_kinds` gives them.
    """

    inputs: Sequence[str]
    output_dir: Path
    kinds: Sequence[str] = ("overlay", "json")
    write_options: WriteOptions = field(default_factory=WriteOptions)
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)
    devices: Sequence[str] = ("auto",)
    recursive: bool = False
    every: int = 1
    max_frames: int | None = None
    overwrite: bool = False
    """Redo inputs that are complete already."""
    fail_fast: bool = False
    shard: tuple[int, int] | None = None
    """(I, N), I from 1 to N: this run does the I-th of N parts of the inputs."""
    engine: str = "local"
    workers: int | None = None
    """Processes (local) or actors (ray) that each hold the model; None: one a device."""
    report: bool = True
    watch: bool = False
    """Go on for ever, with files that arrive; until Ctrl-C."""
    poll_seconds: float = 2.0

    output_url: str | None = None
    """Where the outputs go in the end, if not to a folder of this machine; `output_dir` must then be its
    `staging_folder`, which the run empties."""

    def __post_init__(self) -> None:
        if isinstance(self.inputs, (str, os.PathLike)):
            raise UsageError(f"inputs {self.inputs!r}: give a list, of one if there is one")
        object.__setattr__(self, "inputs", [os.fspath(given) for given in self.inputs])
        folder = os.fspath(self.output_dir)
        if output_url(folder) is not None:
            raise UsageError(f"--output-dir {shown_name(folder)}: is a URL; give it as output_url")
        object.__setattr__(self, "output_dir", local_folder(folder))
        kinds = self.kinds if isinstance(self.kinds, str) else ",".join(self.kinds)
        object.__setattr__(self, "kinds", parse_kinds(kinds))
        if self.output_url is not None and self.output_dir != staging_folder(self.output_url, self.shard):
            raise UsageError(f"output_dir {self.output_dir}: for {self.output_url}, give staging_folder(URL, shard)")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine}: unknown engine; use {' or '.join(ENGINES)}")
        for option, number in (("every", self.every), ("max-frames", self.max_frames), ("workers", self.workers)):
            if number is not None and number < 1:
                raise UsageError(f"--{option} {number}: give 1 or more")
        if self.watch and self.shard:
            raise UsageError("--watch and --shard do not go together: which file is whose changes as files arrive")

    @property
    def worker_options(self) -> SegmenterOptions:
        """For the workers: with what the kinds need of them."""
        return replace(self.segmenter, keep_candidates=CANDIDATES in self.kinds)

    def takes(self, frame: int) -> bool:
        """Whether a frame, by its number in its video, is one of those that were asked for."""
        return frame % self.every == 0 and (self.max_frames is None or frame // self.every < self.max_frames)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """(I, N) of `I/N`, I counted from 1. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give I/N with I from 1 to N, such as 1/4")
    return int(match[1]), int(match[2])
