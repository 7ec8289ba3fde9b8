"""What devices and precisions may be called: known before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from densecli.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp16")


def parse_device(name: str) -> tuple[str, int | None]:
    """Kind (auto, cuda, mps, cpu) and number (of `cuda:N`) of a device. Raises UsageError for another word."""
    kind, colon, number = name.partition(":")
    if kind not in ("auto", "cuda", "mps", "cpu") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"--device {name}: unknown device; use auto, cuda, cuda:N, mps or cpu")
    return kind, int(number) if colon else None


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices of a comma list. Raises UsageError where there is none, and for a word that is none."""
    devices = tuple(word.strip() for word in text.split(",") if word.strip())
    if not devices:
        raise UsageError(f"--device {text}: no device named; use auto, cuda, cuda:N, mps, cpu or a comma list of these")
    for device in devices:
        parse_device(device)
    return devices


def check_precision(name: str) -> None:
    """Raises UsageError for another word than `auto` and PRECISIONS."""
    if name not in (*PRECISIONS, "auto"):
        raise UsageError(f"--precision {name}: unknown precision; use auto, fp32, bf16 or fp16")
