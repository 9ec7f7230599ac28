"""What a stage's time went into, and which part of the machine it waited for."""

from __future__ import annotations

from collections.abc import Mapping

IN_TURN = {
    "waiting for images": "decoding images (raise --workers; pack the data into one file)",
    "forward passes": "the forward passes",
    "waiting for the recording": "the recording",
    "labels": "labels (they are kept for the next scoring)",
    "waiting for activations": "reading activations",
    "counting": "counting (raise --threads)",
}
"""Parts that follow one another, and what bounds a stage that spends most in them."""
BEHIND = ("writing", "thresholds", "saving the state")
"""Parts of the recording, which runs beside the forward passes."""


def describe_profile(seconds: Mapping[str, float], wall_seconds: float) -> list[str]:
    """Lines: each part's time and share of the whole, what is left, and what bounds the stage."""
    lines = []

    def add(name: str, took: float, beside: str = "") -> None:
        lines.append(f"  {name:<26}{took:8.2f} s {100 * took / wall_seconds:5.1f} %{beside}")

    in_turn = {name: seconds[name] for name in IN_TURN if name in seconds}
    for name, took in in_turn.items():
        add(name, took)
    add("the rest", max(0.0, wall_seconds - sum(in_turn.values())))
    behind = {name: seconds[name] for name in BEHIND if name in seconds}
    for name, took in behind.items():
        add(name, took, "  beside these")
    if in_turn:
        most = max(in_turn, key=in_turn.__getitem__)
        what = IN_TURN[most]
        if behind and most == "waiting for the recording":
            what += f", most of it {max(behind, key=behind.__getitem__)}"
        lines.append(f"bound by {what}")
    return [f"profile: {wall_seconds:.2f} s", *lines]
