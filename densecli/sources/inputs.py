"""What the user named, sorted out: folders, patterns, lists and files, and what the outputs of each are called."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePath

from densecli.errors import DensecliError, InputError
from densecli.sources.folders import LocalFolder, facts_of, folder_at
from densecli.sources.list_names import ListedFile, ListNames, place_number, place_numbers, stem_of
from densecli.sources.lists import InputList
from densecli.sources.names import distinct_names, name_candidates, stem_and_suffix
from densecli.sources.own_outputs import is_own_file, is_own_folder
from densecli.sources.patterns import AnyPattern, has_magic, split_pattern
from densecli.sources.tree_names import file_name, is_image, is_video
from densecli.sources.urls import local_path, location_of, url_scheme
from densecli.sources.video_files import names_video
from densecli.sources.walking import Entry, Everything, Skipped, Trouble, walk
from densecli.wording import counted, shown_name


class Inputs:
    """The inputs of a run."""

    def __init__(self, inputs: Sequence[str], recursive: bool, skipped: Skipped) -> None:
        self._inputs, self._recursive, self._skipped = inputs, recursive, skipped

    def entries(self) -> Iterator[Entry | Trouble]:
        """Files in order, videos whole; and what could not be read."""
        groups = _grouped(self._inputs)
        names = distinct_names(
            [
                list(name_candidates(given)) if kind == "file" else _root_names(given, kind)
                for (given, *_), kind in groups
            ]
        )
        alone = len(groups) == 1
        for ((given, *more), kind), name in zip(groups, names, strict=True):
            try:
                if more:
                    yield from self._patterns([given, *more], "" if alone else f"{name}/")
                elif kind == "file":
                    yield from self._file(given, name, names_video(given))
                elif kind == "list":
                    yield from self._list(given, "" if alone else f"{name}/")
                else:
                    yield from self._tree(given, kind, "" if alone else f"{name}/", self._skipped)
            except DensecliError as error:
                yield Trouble(given, error)

    def _file(self, given: str, stem: str, is_video: bool) -> Iterator[Entry]:
        local = local_path(given)
        if local is not None and is_own_file(*os.path.split(local)):
            self._skipped.counts["densecli output"] += 1
            return
        yield Entry(given, given, stem, is_video, lambda: (None, None) if local is None else facts_of(local))

    def _patterns(self, patterns: Sequence[str], prefix: str) -> Iterator[Entry | Trouble]:
        """What several patterns of one folder find, named as what lies in one folder."""
        folder = folder_at(split_pattern(patterns[0])[0] or ".")
        selections = [split_pattern(pattern)[1] for pattern in patterns]
        for pattern, selection in zip(patterns, selections, strict=True):
            probed = Skipped()
            if folder is None or next(walk(folder, prefix, selection, probed), None) is None:
                yield Trouble(pattern, _unmatched(pattern, probed.counts))
        if folder is not None:
            here = isinstance(folder, LocalFolder) and folder.path == "."
            yield from walk(LocalFolder("") if here else folder, prefix, AnyPattern(selections), self._skipped)

    def _tree(self, given: str, kind: str, prefix: str, skipped: Skipped) -> Iterator[Entry | Trouble]:
        if kind == "pattern":
            root, pattern = split_pattern(given)
            folder = folder_at(root) if root else LocalFolder("")
            before = skipped.counts.copy()
            found = walk(folder, prefix, pattern, skipped) if folder is not None else iter(())
            first = next(found, None)
            if first is None:
                raise _unmatched(given, skipped.counts - before)
            yield first
            yield from found
            return
        folder = folder_at(given)
        if folder is None:
            raise InputError(f"{shown_name(given)}: does not exist; check the path")
        if isinstance(folder, LocalFolder):
            if folder.path == ".":
                folder = LocalFolder("")
            else:
                head, tail = os.path.split(os.path.abspath(folder.path))
                if is_own_folder(head, tail):
                    skipped.counts["densecli output"] += 1
                    return
        yield from walk(folder, prefix, Everything(self._recursive), skipped)

    def _list(self, given: str, prefix: str) -> Iterator[Entry | Trouble]:
        with ExitStack() as stack:
            listed = InputList(given, stack)
            crowded = _crowded(listed)
            names = self._names(listed, crowded)
            for path in listed.paths():
                try:
                    for found in self._line(listed, path, crowded, names):
                        yield replace(found, stem=prefix + found.stem) if isinstance(found, Entry) else found
                except DensecliError as error:
                    yield Trouble(path, error)

    def _line(
        self, listed: InputList, path: str, crowded: frozenset[int], names: ListNames
    ) -> Iterator[Entry | Trouble]:
        if not _is_name(path):
            raise InputError(f"{shown_name(path)}: a NUL character is in it; write one name a line in the list")
        kind = _kind(path)
        if kind == "list":
            raise InputError(f"{shown_name(path)}: is a list inside a list; give it to `densecli batch` itself")
        if kind == "file":
            file = _of_line(listed, path)
            name = names.name(file)
            if name is None:
                self._skipped.counts["listed twice"] += 1
            else:
                yield from self._file(path, name, file.is_video)
            return
        is_crowded = bool(crowded) and place_number(_place(listed, path)) in crowded
        for found in self._listed_tree(listed, path, kind, self._skipped):
            if not is_crowded or not isinstance(found, Entry):
                yield found
            elif (name := names.name(_of_tree(listed, found))) is None:
                self._skipped.counts["listed twice"] += 1
            else:
                yield replace(found, stem=name)

    def _names(self, listed: InputList, crowded: frozenset[int]) -> ListNames:
        """Names for the files that have a line of their own, and for all in crowded places."""
        names = ListNames()
        skipped = Skipped(folders=set(self._skipped.folders), fresh_output=self._skipped.fresh_output)
        for path in filter(_is_name, listed.paths()):
            is_crowded = bool(crowded) and _is_tree(path) and place_number(_place(listed, path)) in crowded
            if is_crowded and (kind := _kind(path)) in ("folder", "pattern"):
                with contextlib.suppress(DensecliError):  # the run will meet it, and say so
                    for found in self._listed_tree(listed, path, kind, skipped):
                        if isinstance(found, Entry):
                            names.add(_of_tree(listed, found))
            names.add(_of_line(listed, path))
        names.settle()
        return names

    def _listed_tree(self, listed: InputList, path: str, kind: str, skipped: Skipped) -> Iterator[Entry | Trouble]:
        place = listed.relative(_root(path, kind))
        yield from self._tree(path, kind, place and f"{place}/", skipped)


def _is_name(path: str) -> bool:
    return "\0" not in path


def _of_line(listed: InputList, path: str) -> ListedFile:
    return ListedFile.of_line(path, listed.relative(path), names_video(path))


def _of_tree(listed: InputList, entry: Entry) -> ListedFile:
    return ListedFile.of_tree(entry.path, listed.relative(entry.path), entry.stem, entry.is_video)


def _crowded(listed: InputList) -> frozenset[int]:
    """Numbers of the places in which what a folder or pattern of the list finds may lie beside what other lines name.

    Only there all files must be known before the first can be named.
    """
    trees: set[int] = set()
    crowded: set[int] = set()
    for path in filter(_is_name, listed.paths()):
        if _is_tree(path):
            number = place_number(_place(listed, path))
            (crowded if number in trees else trees).add(number)
    if not trees:
        return frozenset()
    for path in filter(_is_name, listed.paths()):
        if _is_tree(path):
            own, *above = place_numbers(_place(listed, path))
            if shared := trees.intersection(above):
                crowded |= {own, *shared}
        else:
            crowded |= trees.intersection(place_numbers(stem_of(listed.relative(path))))
    return frozenset(crowded)


def _is_tree(path: str) -> bool:
    """Whether a line stands for a folder's files, or for those that a pattern finds."""
    if _is_pattern(path):
        return True
    # To ask of every image of a list would take long where the disk is far away; and of a bucket in any case.
    name = file_name(path)
    if is_image(name) or is_video(name):
        return False
    if (local := local_path(path)) is not None:
        return os.path.isdir(local)
    return "." not in PurePath(path).name and url_scheme(path) not in ("http", "https")


def _place(listed: InputList, path: str) -> str:
    """Where all that such a line finds lies: the folder, or that of the pattern."""
    return listed.relative(_root(path, "pattern" if _is_pattern(path) else "folder"))


def _is_pattern(path: str) -> bool:
    local = local_path(path)
    return has_magic(path) and not (local is not None and os.path.lexists(local))


def _root(path: str, kind: str) -> str:
    return split_pattern(path)[0] if kind == "pattern" else path


def _grouped(inputs: Sequence[str]) -> list[tuple[list[str], str]]:
    """The inputs with their kinds; patterns of one folder together, so that they share no outputs' names."""
    groups: list[tuple[list[str], str]] = []
    of_root: dict[str, list[str]] = {}
    for given in inputs:
        kind = _kind(given)
        if kind == "pattern" and (together := of_root.get(split_pattern(given)[0])) is not None:
            together.append(given)
            continue
        groups.append(([given], kind))
        if kind == "pattern":
            of_root[split_pattern(given)[0]] = groups[-1][0]
    return groups


def _unmatched(pattern: str, skipped: Counter[str]) -> InputError:
    """skipped: what lies there, by the reasons why it is no input."""
    if skipped:
        what = f"nothing that can be read matches this pattern ({counted(skipped)})"
    else:
        what = "nothing matches this pattern"
    return InputError(f"{shown_name(pattern)}: {what}; check it, and the folder")


def _kind(given: str) -> str:
    """`file`, `folder`, `pattern` or `list`."""
    local = local_path(given)
    if given == "-":
        return "list"
    if local is not None:
        if os.path.isdir(local):
            return "folder"
        if os.path.lexists(local):
            return "list" if local.lower().endswith(".txt") else "file"
        if has_magic(local):
            return "pattern"
        return "list" if local.lower().endswith(".txt") else "file"
    if has_magic(given):
        return "pattern"
    # Asking a bucket costs time: a name with a suffix of files is taken for a file.
    last = file_name(given)
    if last.lower().endswith(".txt"):
        return "list"
    if "." in last or url_scheme(given) in ("http", "https") or _is_no_folder(given):
        return "file"
    return "folder"


def _is_no_folder(url: str) -> bool:
    """Whether there is no such folder, or it cannot be known (reading it as a file will say why)."""
    try:
        return folder_at(url) is None
    except DensecliError:
        return True


def _root_names(given: str, kind: str) -> list[str]:
    """Candidates for the folder of a root's outputs: its name, then with the folders above it."""
    if given == "-":
        return ["stdin"]
    root = split_pattern(given)[0] if kind == "pattern" else given
    local = local_path(root)
    place = os.path.abspath(local) if local is not None else location_of(root)[1]
    inside = os.path.splitdrive(place)[1] if local is not None else place
    parts = [part for part in inside.replace(os.sep, "/").split("/") if part not in ("", ".", "..")] or ["root"]
    if kind == "list":
        parts[-1] = stem_and_suffix(file_name(given))[0]
    return ["_".join(parts[-count:]) for count in range(1, len(parts) + 1)]
