"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.generated import Keyboards
from training.evaluation.people import AgainstPeople


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def people_table(figures: AgainstPeople) -> str:
    rows = [
        [name, f"{np.mean(r.overlap):.3f}", f"{np.mean(r.masks):.1f}", _share(float(np.mean(r.coverage)))]
        for name, r in figures.rows.items()
    ]
    return markdown(["Masks", "Mean best IoU", "Masks a photo", "Coverage"], rows)


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0%}"


def calibration_table(figures: AgainstPeople) -> str:
    binned, correlation, error = figures.calibration()
    rows = [
        [f"{b['from']:.1f}–{b['to']:.1f}", f"{b['count']:,}", f"{b['measured']:.3f}", f"{b['stable']:.0%}"]
        for b in binned
    ]
    table = markdown(["Predicted IoU", "Candidates", "Measured", "Stability ≥ 0.9"], rows)
    return f"{table}\n\nCorrelation {correlation:.2f}, mean absolute error {error:.3f}."


def edges_table(figures: dict[str, list[float]]) -> str:
    rows = [[kind, *(f"{v:.2f}" for v in values)] for kind, values in figures.items()]
    rows.append(["mean", *(f"{v:.2f}" for v in np.mean(list(figures.values()), 0))])
    return markdown(["Generated scenes", "Boundary F", "Precision", "Recall"], rows)


def keyboards_line(k: Keyboards) -> str:
    return (
        f"`keyboard-fix` on {k.scenes} generated keyboards: one mask is the keyboard in {k.found:.0%} of the scenes "
        f"(mean best IoU {k.best:.2f}), and nothing is left of its keys in {k.alone:.0%} "
        f"({k.pieces:.1f} pieces on average)."
    )
