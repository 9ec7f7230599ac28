"""How much a run's detectors owe to the rules: every union, upsampling and tail from one pass (methods 3.8)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_json
from ..data.dataset import Dataset
from ..data.labellers import Labeller, Labels
from ..data.labelling import base_of
from ..errors import BadInput, IncompleteRun
from ..measure.audit import AuditRow, audit_rows
from ..measure.counters import Counters
from ..measure.planes import with_both_unions
from ..options import RUN, UPSAMPLING, ScoreOptions, with_options
from ..store.partials import Ledger, save_arrays, with_prefix
from ..store.rundir import RunDir
from ..store.tables import save_audit
from .ahead import read_ahead
from .control import Control, Meter
from .counting import finish_shards, groups_of
from .scoring import Network, Scoring, choose_labellers, find_data, open_scoring
from .settings import (
    AUDITED,
    check_name,
    compare_settings,
    forget_audit,
    keep_in,
    options_to_settings,
    scored_tail,
    settings_in,
    stage_of_audit,
)

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 1
COUNTERS_PART = 2
"""Part of the memory that counters may take at once."""


@dataclass(frozen=True)
class Case:
    """One layer under one upsampling and one tail; the unions come of the same counters."""

    position: int
    upsample: str
    tail: Fraction

    @property
    def prefix(self) -> str:
        """Of its counters among those of a shard."""
        return f"{self.position}/{self.upsample}/{self.tail.numerator}-{self.tail.denominator}"


@dataclass(frozen=True)
class Audit:
    """A run opened for its audit."""

    work: Scoring
    ledger: Ledger
    unions: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def has_touch(self) -> bool:
        """Whether masks are looked at for touching labels."""
        return "mask-touch" in self.unions

    def empty(self, case: Case) -> Counters:
        """Counters to be filled for a case."""
        rules = self.work.rules
        n_categories = rules.n_categories * (2 if self.has_touch else 1)
        return Counters(self.work.layers[case.position].n_units, rules.n_concepts, n_categories)

    def cases(self) -> Iterator[Case]:
        """Layer by layer; tails extracted, then the one asked for."""
        for position, layer in enumerate(self.work.run.manifest["layers"]):
            for upsample in UPSAMPLING:
                if upsample != "rf" or layer["field"] is not None:
                    for tail in self.work.thresholds[position]:
                        yield Case(position, upsample, tail)

    def passes(self) -> list[list[Case]]:
        """Cases whose counters are in memory together, at least one."""
        room, found, total = self.work.options.memory // COUNTERS_PART, list[list[Case]](), 0
        rules = self.work.rules
        n_rows = 2 * rules.n_concepts + 2 * rules.n_categories + 1
        for case in self.cases():
            needed = 8 * n_rows * self.work.layers[case.position].n_units
            if not found or total + needed > room:
                found.append([])
                total = 0
            found[-1].append(case)
            total += needed
        return found


def audit(
    run: RunDir | str | os.PathLike[str] = RUN,
    data: Dataset | str | os.PathLike[str] | None = None,
    *,
    labels: Labels | None = None,
    model: nn.Module | str | None = None,
    weights: str | None = None,
    trust_model: bool = False,
    options: ScoreOptions | None = None,
    control: Control | None = None,
    **named: Any,
) -> list[AuditRow] | None:
    """Detectors and unique concepts under every union, upsampling and extracted tail, from one pass over the run.

    Parameters
    ----------
    run, data, labels, model, weights, trust_model, options, control, **named
        As for `score`. `tail` adds one to those extracted; `union` and `upsample` are left out, as all are taken, and
        so is what is kept beside results.

    Returns
    -------
    list of AuditRow, or None
        Layer by layer, also written into the run as audit.json and tables/audit.csv; None while other workers have
        shards to finish: the same call by any of them writes it then. Upsampling `rf` where the layer's field map is
        known; union `mask-touch` where it goes with the labels (methods 3.4).

    Raises
    ------
    BadInput
        Something given cannot be used, or the audit was begun with other options.
    IncompleteRun
        Shards of `extract` are missing or damaged.
    Stopped
        `control` asked for it; the same call resumes.
    """
    control = control or Control()
    options = with_options(options or ScoreOptions(), named)
    plain = ScoreOptions(threads=1, memory=1)
    for name in (*AUDITED, "block_by"):
        if name != "tail" and getattr(options, name) != getattr(plain, name):
            got = f"{getattr(options, name)!r} for an audit, which goes through the rules and keeps nothing beside"
            raise BadInput(f"--{name.replace('_', '-')}", got, "none", "leave it out")
    opened = run if isinstance(run, RunDir) else RunDir(run)
    check_name(options.name)
    labellers = choose_labellers(opened, data, labels)
    finished = find_finished(opened, data, labellers, options)
    if finished is not None:
        return finished
    network = Network(model, weights, trust_model)
    work = open_scoring(opened, data, labellers, options, control, network, is_new=False)
    opened_audit = open_audit(work)
    keep_in(opened, opened_audit.ledger, options, opened_audit.settings, forget_audit)
    count_cases(opened_audit, control)
    return None if opened_audit.ledger.missing() else join_cases(opened_audit)


def open_audit(work: Scoring) -> Audit:
    """The unions that go with the labels, and the settings."""
    unions: tuple[str, ...] = ("paper", "all-images")
    try:
        work = replace(work, rules=replace(work.rules, union="mask-touch"))
        unions += ("mask-touch",)
    except ValueError:  # pixels that are not judged
        pass
    ledger = work.run.ledger(stage_of_audit(work.options.name))
    return Audit(work, ledger, unions, to_audit_settings(work.settings, work.run, work.options))


def to_audit_settings(settings: dict[str, Any], run: RunDir, options: ScoreOptions) -> dict[str, Any]:
    """What an audit depends on, of what a scoring depends on."""
    tails = [*run.manifest["identity"]["tails"]]
    if (asked := str(scored_tail(run, options))) not in tails:
        tails.append(asked)
    return {key: value for key, value in settings.items() if key not in AUDITED} | {"tails": tails}


def find_finished(
    run: RunDir,
    data: Dataset | str | os.PathLike[str] | None,
    labellers: Sequence[Labeller],
    options: ScoreOptions,
) -> list[AuditRow] | None:
    """The rows of an equal audit that are written already. BadInput where it was begun otherwise."""
    made = None if options.overwrite else settings_in(run.ledger(stage_of_audit(options.name)))
    if made is None:
        return None
    asked = to_audit_settings(options_to_settings(options, scored_tail(run, options), labellers), run, options)
    if data is not None:
        asked |= {"data": base_of(find_data(run, data, labellers)[0]).fingerprint()}
    compare_settings(made, asked)
    return load_audit(run.results_path(options.name) / "audit.json")


def load_audit(path: Path) -> list[AuditRow] | None:
    """The rows of audit.json; None where there is no such file."""
    try:
        return [AuditRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IncompleteRun(f"{path}: damaged ({error}); audit again with --overwrite") from error


def count_cases(audited: Audit, control: Control) -> None:
    """Count every shard that is this worker's, unclaimed and not finished."""
    passes = audited.passes()
    if len(passes) > 1:
        control.say(f"audit: {len(passes)} passes over each shard, as --memory holds no more counters at once")

    def count(shard: int, meter: Meter) -> dict[str, Any]:
        arrays: dict[str, Any] = {}
        for number, cases in enumerate(passes):
            for case, counters in count_shard_cases(audited, cases, shard, control).items():
                arrays |= with_prefix(case.prefix, counters.to_arrays())
            if number == 0:
                meter.advance(len(audited.work.run.rows(shard)))
        return {"file": save_arrays(audited.ledger.data_path(shard), arrays)}

    finish_shards(audited.work, audited.ledger, count, "audit", control)


def count_shard_cases(audited: Audit, cases: list[Case], shard: int, control: Control) -> dict[Case, Counters]:
    """The counters of some cases over a shard, each chunk of its maps read once."""
    work = audited.work
    counters = {case: audited.empty(case) for case in cases}
    named = work.how() | {"threads": work.options.threads}
    for part, rows in enumerate(groups_of(work.run.rows(shard))):
        images = work.labels.of_part(shard, part, work.recorded.images[rows.start : rows.stop], control)
        if audited.has_touch:
            images = [with_both_unions(image, work.rules) for image in images]
        shapes = {image.shape for image in images}
        for position in sorted({case.position for case in cases}):
            for held, maps in read_ahead(work.iter_maps(position, rows, control), work.options.threads):
                for case in cases:
                    if case.position == position:
                        counters[case].add(
                            maps,
                            work.used_thresholds(position, case.tail),
                            images[held.start - rows.start : held.stop - rows.start],
                            {shape: work.weights(position, shape, case.upsample) for shape in shapes},
                            **named,
                        )
    return counters


def join_cases(audited: Audit) -> list[AuditRow]:
    """The rows from the committed shards; and their files."""
    work, found = audited.work, list[AuditRow]()
    for case in audited.cases():
        counters, layer = audited.empty(case), work.layers[case.position].name
        for shard in range(work.run.n_shards):
            try:
                counters.merge(Counters.from_arrays(audited.ledger.load(shard, case.prefix)))
            except ValueError as error:
                raise IncompleteRun(f"layer {layer}: {error}; audit again with --overwrite") from error
        category, tau = work.data.concepts.category, work.options.iou
        found += audit_rows(counters, category, tau, audited.unions, layer, case.upsample, case.tail)
    save_audit(work.results / "tables", found)
    content = {"schema_version": SCHEMA_VERSION, "run": work.run.full_name, "rule": audited.settings}
    write_json(work.results / "audit.json", content | {"rows": [asdict(row) for row in found]})
    return found
