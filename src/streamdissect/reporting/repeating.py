"""The commands that would make a run again."""

from __future__ import annotations

from shlex import quote
from typing import Any

from ..options import ExtractOptions, ScoreOptions
from ..store.rundir import RunDir

EXTRACT = ("split", "seed", "labelled_only", "mean", "std", "device", "amp", "compile", "batch_size", "dtype",
           "thresholds", "distributions", "top_images", "spill", "codec", "layout", "prefix_tokens", "grid",
           "allow_nonfinite")  # fmt: skip
"""Of the identity of a run, options that are named where they are not the default."""
SCORE = ("approximate", "union", "mask_test", "multiplicity", "unlabelled", "blocks", "keep_masks")
"""The same of the settings of a scoring."""


def commands(run: RunDir, settings: dict[str, Any], name: str | None) -> list[str]:
    """`extract` and `score`, with every option that is not the default; not all runs are made by `extract`."""
    is_extracted = not (run.is_captured or run.is_recorded)
    return ([extract_command(run)] if is_extracted else []) + [score_command(run, settings, name)]


def extract_command(run: RunDir) -> str:
    """How the activations were made."""
    found, made = run.manifest["identity"], run.manifest["model"]
    words = ["--model", made["spec"]]
    words += ["--weights", made["weights"]] if made["weights"] else []
    words += ["--data", run.manifest["data"]["spec"], *labels_of(run.manifest["data"].get("labels", []))]
    words += ["--layers", ",".join(map(str, found["layers"])), "--input-size", *map(str, found["input_size"])]
    words += ["--tail", ",".join(found["tails"])] if found["tails"] != ["1/200"] else []
    if found["limit"] is not None:
        words += ["--limit", f"{'first:' if found['is_first'] else ''}{found['limit']}"]
    defaults = ExtractOptions()
    for option in EXTRACT:
        default = "full" if option == "spill" else getattr(defaults, option)  # what `auto` comes to
        words += option_words(option, found.get(option), default)
    return command("extract", [*words, "--threads", str(found["torch_threads"]), "--out", str(run.path)])


def score_command(run: RunDir, settings: dict[str, Any], name: str | None) -> str:
    """How they were scored."""
    words = labels_of([spec for spec, _ in settings["labels"]])
    defaults = ScoreOptions()
    words += ["--tail", settings["tail"], "--iou", settings["iou"]]
    words += ["--upsample", settings["upsample"]] if settings["upsample"] != "auto" else []
    words += ["--mask-size", settings["mask_size"]] if settings["mask_size"] != defaults.mask_size else []
    for option in SCORE:
        words += option_words(option, settings.get(option), getattr(defaults, option))
    words += ["--block-by", settings["block_by"]] if settings.get("block_by") else []
    if directions := settings.get("directions"):
        words += ["--directions", directions["file"]]
        words += ["--bias", directions["bias"]] if directions["bias"] else []
        words += ["--relu"] if directions["relu"] else []
        words += ["--layer", directions["layer"]] if directions["layer"] else []
    words += ["--name", name] if name else []
    return command("score", [str(run.path), *words])


def labels_of(specs: list[str]) -> list[str]:
    """The labellers of images."""
    return ["--labels", ",".join(specs)] if specs else []


def option_words(option: str, value: Any, default: Any) -> list[str]:
    """An option and its words; none where it has its default."""
    plain = list(value) if isinstance(value, tuple) else value
    if plain == (list(default) if isinstance(default, tuple) else default) or value is None or value is False:
        return []
    flag = f"--{option.replace('_', '-')}"
    if value is True:
        return [flag]
    return [flag, *map(str, plain)] if isinstance(plain, list) else [flag, str(value)]


def command(name: str, words: list[str]) -> str:
    """As it is typed."""
    return " ".join(["streamdissect", name, *map(quote, words)])
