"""`--dry-run`: what a run would do, without doing or writing any of it."""

from __future__ import annotations

import os
from typing import Any

from densecli import errors
from densecli.batch import finishing
from densecli.batch.destination import looked_at
from densecli.batch.job import BatchJob
from densecli.batch.manifest import SCHEMA, Record, to_line
from densecli.batch.outputs import is_complete, relative, same_masks
from densecli.batch.reusing import to_write
from densecli.batch.run import collection_of, nothing_found
from densecli.batch.workers import Description
from densecli.console import Console
from densecli.places import Place
from densecli.sinks.one_image import outputs_of
from densecli.sinks.ownership import refuse_foreign
from densecli.sources import local_path
from densecli.sources.collecting import Item, Mended
from densecli.wording import counted, shown_input, without_password


def rehearse(job: BatchJob, console: Console) -> int:
    """Print what would become of each input. Returns the exit code. Raises what the run itself would raise at once."""
    with looked_at(job) as (job, place):
        return _rehearse(job, place, console)


def _rehearse(job: BatchJob, place: Place, console: Console) -> int:
    kinds = finishing.image_kinds(job.kinds)
    description = Description.without_loading(job.segmenter, job.devices[0])
    for notice in description.notices:
        console.notice(notice)
    settings = description.fingerprint()
    to_do = complete = failed = 0
    collection, spanning = collection_of(job), finishing.Spanning(job, place)
    with Record(job.output_dir) as record:
        for found in collection:
            if isinstance(found, Mended):
                continue
            shown = shown_input(found.name)
            name = without_password(found.name)
            entry: dict[str, Any] = {"schema": SCHEMA, "input": name, "status": "planned", "error": None}
            entry |= {"seconds": None, "masks": None, "outputs": []}
            try:
                if not isinstance(found, Item):
                    raise found.error
                found.discard()
                outputs = outputs_of(found.stem, job.output_dir, kinds)
                earlier = record.of(found.stem)
                entry["outputs"] = relative(outputs, job.output_dir)
                if (
                    not job.overwrite
                    and is_complete(earlier, found, outputs, place, settings, job.write_options.alpha)
                    and spanning.can_rebuild(found)
                ):
                    complete += 1
                    entry["status"] = "skipped"
                    said = "complete already"
                else:
                    refuse_foreign(outputs.values(), place, (earlier or {}).get("outputs") or ())
                    if (local := local_path(found.source)) is not None and not os.path.exists(local):
                        raise errors.InputError("does not exist; check the path")
                    to_do += 1
                    wanted = None
                    if earlier is not None and not job.overwrite and same_masks(earlier, found, settings):
                        wanted = to_write(earlier, found.stem, outputs, place, job.write_options.alpha)
                    names = [place.shown(path) for path in (outputs if wanted is None else wanted).values()]
                    said = f"would write {', '.join(names) or 'data sets'}"
                    said += "" if wanted is None else ", without the model"
                spanning.ended(found, console)
            except errors.DensecliError as error:
                failed += 1
                entry |= {"status": "failed", "error": str(error).removeprefix(f"{shown}: ")}
                said = f"would fail: {entry['error']}"
            console.result(f"{shown}: {said}", to_line(entry) if console.json else "")
    parts = [f"{to_do:,} to do", f"{complete:,} complete already"]
    parts += [f"{failed:,} would fail"] if failed else []
    if skipped := collection.skipped:
        parts.append(f"{sum(skipped.values()):,} skipped ({counted(skipped)})")
    console.notice("; ".join(parts))
    if not (to_do or complete or failed or job.shard):
        raise errors.InputError(nothing_found(job))
    if not failed:
        return errors.EXIT_OK
    return errors.EXIT_SOME_FAILED if to_do or complete else errors.EXIT_NOTHING_SUCCEEDED
