"""The report's pictures where outputs do not stay here: made while an image's outputs are, then sent after them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densecli.output_names import ENDINGS
from densecli.places import Place
from densecli.report.entries import Entry
from densecli.report.pictures import PictureMaker, files_of, key_of


@dataclass(frozen=True)
class SentPictures:
    """Like PictureMaker, for a place whose files are elsewhere. Thread-safe."""

    place: Place

    def make(self, entry: Entry) -> list[Path]:
        """The files for an entry whose outputs are on this machine; to be sent after them. Raises OutputError."""
        key = PictureMaker(self.place.folder)(entry)
        return [] if key is None else list(files_of(self.place.folder, key))

    def __call__(self, entry: Entry) -> str | None:
        """The key, as PictureMaker gives it; outputs are fetched where the picture is missing or older than they are.

        Raises OutputError or StoreError.
        """
        if entry.status != "done":
            return None
        mains = [self._output(entry, suffix) for suffix in (ENDINGS["json"], ENDINGS["overlay"])]
        outputs = [path for path in mains if path is not None]
        times = [facts[1] or 0 for path in outputs if (facts := self.place.found(path)) is not None]
        if not times:
            return None
        key = key_of(outputs[0].relative_to(self.place.folder))
        made = [self.place.found(path) for path in files_of(self.place.folder, key)]
        if all(facts is not None and (facts[1] or 0) >= max(times) for facts in made):
            return key
        brought = [path for path in outputs if self.place.bring(path)]
        try:
            files = self.make(entry)
            self.place.send(files)
        finally:
            for path in brought:
                self.place.let_go(path)
        return key if files else None

    def _output(self, entry: Entry, suffix: str) -> Path | None:
        return next((self.place.folder / output for output in entry.outputs if output.endswith(suffix)), None)
