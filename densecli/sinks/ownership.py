"""Before anything takes the place of what is there: densecli wrote it, or it stays and its name is told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from densecli.errors import OutputError
from densecli.output_names import COCO, REPORT, YOLO
from densecli.places import Place
from densecli.sources.own_outputs import (
    HEAD_BYTES,
    TAIL_BYTES,
    YOLO_MARK,
    is_empty,
    is_own_coco,
    is_own_folder,
    is_own_report,
    is_own_video,
    is_own_yolo,
    says_own,
)

KEPT = "somebody worked on it, it stays as it is; remove it to have it written anew"
"""Said of a file that people correct by hand."""


def refuse_foreign(outputs: Iterable[Path], place: Place, known: Collection[str] = ()) -> None:
    """Raise OutputError where an output of an image would take the place of something that densecli did not write.

    known: outputs, relative to the place's folder and posix, that a record tells to be densecli's. Folders are looked
    into all the same: as they are replaced whole, what somebody put into one would go.
    """
    unknown = [
        path
        for path in outputs
        if place.is_whole(path, None) and (path.is_dir() or path.relative_to(place.folder).as_posix() not in known)
    ]
    for path in unknown:
        if place.found(path) is not None:
            own = says_own(path.name, place.head(path, HEAD_BYTES))
        else:
            place.sample(path)
            own = is_own_folder(str(path.parent), path.name, marked=True) or is_empty(str(path))
            place.let_go(path)
        if not own:
            raise _foreign(place, path)


def refuse_foreign_datasets(kinds: Sequence[str], place: Place) -> None:
    """The same of data sets; labelme looks at each of its files itself, as people correct them. Raises OutputError."""
    if "coco" in kinds:
        path = place.folder / COCO
        if place.is_whole(path, None) and not is_own_coco(place.head(path, HEAD_BYTES)):
            raise _foreign(place, path)
    if "yolo" in kinds:
        path = place.folder / YOLO
        if place.apart:
            is_own = YOLO_MARK.encode() in place.head(path / "data.yaml", HEAD_BYTES)
        else:
            is_own = is_own_yolo(str(path)) or (path.is_dir() and is_empty(str(path)))
        if place.is_whole(path, None) and not is_own:
            raise _foreign(place, path)


def refuse_linked_folders(path: Path, place: Place) -> None:
    """Raise OutputError where a folder of a data set, on the way to a file of it, is a link.

    A file of numbers does not tell who wrote it, and an output folder of somebody else may lead to the user's own. The
    data set itself may be a link.
    """
    top, *folders, _ = path.relative_to(place.folder).parts
    folder = place.folder / top
    for name in folders:
        folder /= name
        if folder.is_symlink():
            raise OutputError(
                f"{place.shown(folder)}: is a link, which densecli never makes of a folder of a data set; remove it, "
                "or choose another --output-dir"
            )


def refuse_foreign_report(place: Place) -> None:
    """The same of the report. Raises OutputError."""
    path = place.folder / REPORT
    if place.is_whole(path, None) and not is_own_report(place.head(path, HEAD_BYTES)):
        raise _foreign(place, path, "or write --no-report")


def refuse_foreign_video(path: Path, place: Place) -> None:
    """The same of an overlay video. Raises OutputError."""
    if place.is_whole(path, None) and not is_own_video(place.tail(path, TAIL_BYTES)):
        raise _foreign(place, path, "and run again: all but this video is done then, or choose another --output-dir")


def _foreign(place: Place, path: Path, otherwise: str = "or choose another --output-dir") -> OutputError:
    return OutputError(f"{place.shown(path)}: is there and was not written by densecli; move it away, {otherwise}")
