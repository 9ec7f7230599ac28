"""Scored runs side by side, by groups: what may be compared, and what each run gives (methods 3.5, 4 - 6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from ..alignmentoptions import as_names
from ..errors import BadInput, IncompleteRun
from ..measure.comparison import (
    Comparison,
    Member,
    detected_concepts,
    join_measures,
    measure_alignment,
    measure_layer,
    measure_robustness,
    measure_rotations,
    rows_of,
)
from ..measure.dissection import Dissection
from ..store.results import load_dissection
from ..store.rundir import RunDir
from .control import Control
from .experiments import experiments_of, load_experiment
from .settings import BESIDE_SETTINGS, check_name, show_setting

Groups = Mapping[str, Sequence[str | os.PathLike[str]] | str | os.PathLike[str]]

FREE = (*BESIDE_SETTINGS, "directions", "upsample")
"""Settings of a scoring that may differ: what is kept beside, which directions of a layer are looked at, and how the
upsampling was asked for; what layers were upsampled by must be the same."""
TERMS = {
    "rotate": (),
    "pca": ("concepts", "samples", "phi", "centred", "min_images"),
    "perturb": ("images", "seed", "thresholds_from", "labels_warp"),
}
"""Settings in which experiments must agree to be compared."""


@dataclass(frozen=True)
class Asked:
    """A run of a group."""

    group: str
    run: str
    layer: str | None
    """None: those that `layers` lets through."""


@dataclass
class Found:
    """What a run gives: its layers in numbers, and the experiments made with it."""

    asked: Asked
    result: Dissection
    """Its layers left out, which are large."""
    known: tuple[str, ...]
    """All its layers."""
    members: dict[str, Member]
    """The layers that are compared, in what every scoring has."""
    upsample: dict[str, str]
    """How each of them was upsampled."""
    experiments: dict[str, dict[str, Any]]
    """By name: the settings, as far as they are TERMS."""
    measures: dict[str, dict[str, dict[str, float]]]
    """By experiment and layer."""
    notes: list[str] = field(default_factory=list)
    """What is left out of it, and why."""


def compare_runs(
    groups: Groups | Sequence[str],
    *,
    layers: Sequence[str] = (),
    name: str | None = None,
    control: Control | None = None,
) -> Comparison:
    """Measure scored runs by groups; see `reporting.comparison.compare`, which also writes it down."""
    control = control or Control()
    check_name(name)
    layers = as_names(layers)
    asked = ask(groups)
    found: list[Found] = []
    for each in asked:
        control.check()
        found.append(measure_run(each, name, layers))
        check_alike(found[0], found[-1])
        check_single(found)
    for pattern in layers:
        known = dict.fromkeys(layer for each in found for layer in each.known)
        if not any(matches(layer, [pattern]) for layer in known):
            raise BadInput("--layers", repr(pattern), f"layers of the runs: {', '.join(known)}", "correct it")
    notes = [note for each in found for note in each.notes] + leave_out(found)
    members = [member for each in found for member in members_of(each)]
    first = found[0].result
    category = [first.category_name[g] for g in first.concept_category.tolist()]
    comparison = Comparison(
        rows=rows_of(members),
        concept_name=first.concept_name,
        concept_category=tuple(category),
        category_name=first.category_name,
        measures=join_measures(members),
        about=describe(found, name),
    )
    base, *later = comparison.groups
    compared = {row.group for _, row in comparison.pairs()}
    notes += [
        f"{group} has no layer in common with {base}: name one of each, as RUN@LAYER"
        for group in later
        if group not in compared
    ]
    return replace(comparison, notes=tuple(notes))


def ask(groups: Groups | Sequence[str]) -> list[Asked]:
    """The runs of every group.

    Parameters
    ----------
    groups : mapping or sequence of str
        Name -> runs, each `RUN` or `RUN@LAYER`; or words as on the command line, `GROUP=RUN,RUN` or `RUN`.
    """
    if isinstance(groups, (str, os.PathLike)):
        groups = [os.fspath(groups)]
    if isinstance(groups, Mapping):
        pairs = [
            (str(group), [runs] if isinstance(runs, (str, os.PathLike)) else list(runs))
            for group, runs in groups.items()
        ]
    else:
        pairs = [pair for word in groups for pair in read_word(word)]
    if not pairs:
        raise BadInput("runs", "none", "at least one: RUN or GROUP=RUN,RUN", "name scored runs")
    for i, (group, runs) in enumerate(pairs):
        if not group or not runs:
            raise BadInput("runs", repr(group), "GROUP=RUN,RUN", "name the group and its runs")
        if group in [other for other, _ in pairs[:i]]:
            raise BadInput("runs", f"{group!r} twice", "each group once", f"write {group}=RUN,RUN")
    return [Asked(group, *split_layer(run)) for group, runs in pairs for run in runs]


def read_word(word: str) -> list[tuple[str, list[str | os.PathLike[str]]]]:
    """`GROUP=RUN,RUN`, or runs that are groups of their own; a word that is a run's directory is just that."""
    if RunDir.exists(word):
        return [(plain(word), [word])]
    group, equals, runs = word.partition("=")
    if equals:
        return [(group.strip(), [run for run in runs.split(",") if run])]
    return [(plain(run), [run]) for run in word.split(",") if run]


def plain(run: str) -> str:
    """A run's path as the name of its group."""
    return run.rstrip("/") or run


def split_layer(run: str | os.PathLike[str]) -> tuple[str, str | None]:
    """`RUN@LAYER` -> run, layer."""
    text = os.fspath(run)
    path, at, layer = text.rpartition("@")
    return (path, layer) if at and not RunDir.exists(text) else (text, None)


def measure_run(asked: Asked, name: str | None, patterns: Sequence[str]) -> Found:
    """Read the results of one run."""
    run = RunDir(asked.run)
    folder = run.results_path(name)
    if not (folder / "summary.json").exists():
        name_option = f" --name {name}" if name else ""
        got = f"{asked.run!r}, not scored{' under that name' * bool(name)}"
        raise BadInput("run", got, "one that is", f"run: streamdissect score {asked.run}{name_option}")
    result = load_dissection(folder / "dissection.h5")
    known = ", ".join(result.layers)
    if asked.layer is not None and asked.layer not in result.layers:
        raise BadInput(f"run {asked.run}", f"layer {asked.layer!r}", f"one of its layers: {known}", "correct it")
    chosen = [asked.layer] if asked.layer is not None else [each for each in result.layers if matches(each, patterns)]
    if not chosen:
        raise BadInput(f"run {asked.run}, --layers", ", ".join(patterns), f"some of its layers: {known}", "correct it")
    found = Found(
        asked=asked,
        result=replace(result, layers={}),
        known=tuple(result.layers),
        members={layer: measure_member(asked, result, layer) for layer in chosen},
        upsample={layer: str(result.layers[layer].attributes["upsample"]) for layer in chosen},
        experiments={},
        measures={},
    )
    for experiment in experiments_of(run, name):
        try:
            measure_experiment(found, experiment, load_experiment(run, name, experiment, result))
        except IncompleteRun as error:
            found.notes.append(f"{asked.run}: {error}")
    return found


def measure_member(asked: Asked, result: Dissection, layer: str) -> Member:
    """One layer in what every scoring has."""
    detects, best_iou = detected_concepts(result, layer)
    units, measures = len(result.layers[layer].n), measure_layer(result, layer)
    return Member(asked.group, asked.run, layer, units, measures, detects, best_iou)


def matches(layer: str, patterns: Sequence[str]) -> bool:
    """Whether a layer is among names and globs; there being none, it is."""
    return not patterns or any(layer == each or fnmatchcase(layer, each) for each in patterns)


def measure_experiment(found: Found, experiment: str, loaded: Any) -> None:
    """Add what an experiment says of the layers."""
    known: dict[str, Callable[[Any, str], dict[str, float]]] = {
        "perturb": measure_robustness,
        "rotate": measure_rotations,
        "pca": measure_alignment,
    }
    measure = known[experiment]
    found.measures[experiment] = {layer: measure(loaded, layer) for layer in found.members}
    found.experiments[experiment] = {term: loaded.about.get(term) for term in TERMS[experiment]}


def check_alike(first: Found, other: Found) -> None:
    """BadInput naming the first rule in which two runs differ; their networks, layers and seeds may."""
    where, here = f"run {other.asked.run}", first.asked.run
    made, rule = first.result.summary["rule"], other.result.summary["rule"]
    for key, value in rule.items():
        if key in FREE or made.get(key) == value:
            continue
        remedy = "compare runs on the same images and labels" if key == "data" else "score all alike, with a --name"
        thing = f"{where}, labels of the data (digest)" if key == "data" else f"{where}, --{key.replace('_', '-')}"
        raise BadInput(thing, show_setting(key, value), f"{show_setting(key, made.get(key))}, as in run {here}", remedy)
    one, two = first.result, other.result
    if one.summary["images"] != two.summary["images"]:
        got, expected = (f"{each.summary['images']} images counted" for each in (two, one))
        raise BadInput(where, got, f"{expected}, as in run {here}", "score all images of both")
    if sorted(one.image_name) != sorted(two.image_name):
        got = f"{len(two.image_name)} images"
        raise BadInput(where, got, f"the {len(one.image_name)} images of run {here}", "extract both on the same images")
    if (one.concept_name, one.category_name) != (two.concept_name, two.category_name):
        raise BadInput(where, "other concepts", f"those of run {here}", "compare runs on the same labels")
    mode = next(iter(first.upsample.values()))
    for each in (first, other):
        for layer, got in each.upsample.items():
            if got != mode:
                thing, remedy = f"run {each.asked.run}, layer {layer}", "score all with --upsample half_pixel"
                raise BadInput(f"{thing}, --upsample", repr(got), f"{mode!r}, as in run {here}", remedy)


def check_single(found: Sequence[Found]) -> None:
    """BadInput where a group holds a layer of the last run twice: it would count as two."""
    last = found[-1]
    place = os.path.realpath(last.asked.run)
    for each in found[:-1]:
        is_same = each.asked.group == last.asked.group and os.path.realpath(each.asked.run) == place
        if is_same and each.members.keys() & last.members.keys():
            got = f"{last.asked.run} twice in group {last.asked.group!r}"
            raise BadInput("runs", got, "each run once", "drop the repeated one")


def leave_out(found: Sequence[Found]) -> list[str]:
    """Drop experiments that were not made on the same terms everywhere, and say so."""
    notes = []
    for experiment in TERMS:
        having = [each for each in found if experiment in each.experiments]
        for each in having[1:]:
            first = having[0]
            terms = [
                term
                for term in TERMS[experiment]
                if each.experiments[experiment][term] != first.experiments[experiment][term]
            ]
            if terms:
                names = ", ".join(terms)
                notes.append(f"{experiment} is left out: {first.asked.run} and {each.asked.run} differ in {names}")
                for one in having:
                    one.measures.pop(experiment)
                break
    return notes


def members_of(found: Found) -> list[Member]:
    """The layers of one run, with what experiments say of them."""
    members = []
    for layer, member in found.members.items():
        measures = dict(member.measures)
        for of in found.measures.values():
            measures |= of[layer]
        members.append(replace(member, measures=measures))
    return members


def describe(found: Sequence[Found], name: str | None) -> dict[str, Any]:
    """What was compared, ready for JSON."""
    first = found[0].result
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        summary = each.result.summary
        groups.setdefault(each.asked.group, []).append(
            {
                "run": each.asked.run,
                "layers": list(each.members),
                "model": summary["model"],
                "weights": summary["weights"],
                "directions": summary["rule"].get("directions"),
            }
        )
    return {
        "name": name,
        "rule": {key: value for key, value in first.summary["rule"].items() if key not in FREE},
        "upsample": next(iter(found[0].upsample.values())),
        "data": first.summary["data"],
        "images": len(first.image_name),
        "concepts": len(first.concept_name),
        "groups": groups,
    }
