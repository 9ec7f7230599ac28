"""Everything the commands print: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from ..ranks import Rank
from ..stages.control import Control, Meter

if TYPE_CHECKING:
    from ..measure.audit import AuditRow
    from ..measure.dissection import Dissection

LOG_SECONDS = 30.0
"""Between two lines of progress where there is no terminal."""
BEST_PER_CATEGORY = 3


def show(text: str) -> None:
    """A result, for the user or the next program."""
    print(text, flush=True)


def show_json(value: Any) -> None:
    """One JSON object; NaN and infinities, which JSON has not, are null."""
    show(json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """A value for JSON with null for every number that is none."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """A message beside the results."""
    print(text, file=sys.stderr, flush=True)


class Prefixed(io.TextIOBase):
    """Lines for another stream with a word before each, written whole so that those of several processes do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix
        self._begun: dict[int, str] = {}
        """By thread: the line that it has begun."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun[threading.get_ident()] = (self._begun.get(threading.get_ident(), "") + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def speaking_as(rank: Rank | None) -> Iterator[None]:
    """Of several ranks the first alone gives results, and all messages say whose they are."""
    if rank is None:
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(Prefixed(sys.stderr, f"[{rank}] ")))
        if rank.index:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        yield


class TerminalControl(Control):
    """Says what happens on stderr: a bar on a terminal, else a line now and then."""

    def say(self, text: str) -> None:
        note(text)

    @contextmanager
    def metering(self, what: str, total: int, unit: str) -> Iterator[Meter]:
        if not sys.stderr.isatty():
            yield LineMeter(what, total, unit)
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=what, unit=f" {unit}s", file=sys.stderr, dynamic_ncols=True) as bar:
            yield BarMeter(bar)


class BarMeter(Meter):
    """A bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, n: int) -> None:
        self._bar.update(n)


class LineMeter(Meter):
    """A line every LOG_SECONDS."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._begin = self._told = time.monotonic()

    def advance(self, n: int) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._told >= LOG_SECONDS:
            self._told = now
            rate = self._done / (now - self._begin)
            left = (self._total - self._done) / rate
            note(f"{self._what}: {self._done}/{self._total} {self._unit}s, {rate:.1f}/s, {left:.0f} s left")


def show_scored(result: Dissection, run: str, name: str | None, as_json: bool) -> None:
    """The result of a scoring, and where its files are."""
    if as_json:
        show_json(result.summary)
        return
    show_dissection(result)
    folder = run if name is None else f"{run}/scores/{name}"
    show(f"tables: {folder}/tables/units.csv; everything: {folder}/dissection.h5")


AUDIT_HEAD = ["layer", "upsample", "tail", "union", "detectors", "unique: top", "by category", "any", "mean best IoU"]


def show_audit(rows: Sequence[AuditRow], run: str, name: str | None, as_json: bool) -> None:
    """An audit as a table, and where its files are."""
    if as_json:
        show_json({"run": run, "name": name, "rows": [asdict(row) for row in rows]})
        return
    lines = [AUDIT_HEAD]
    for row in rows:
        counts = (row.detectors, row.unique_top, row.unique_by_category, row.unique_any)
        rules = [row.layer, row.upsample, row.tail, row.union]
        lines.append([*rules, *map(str, counts), f"{row.mean_best_iou:.4f}"])
    show_table(lines)
    folder = run if name is None else f"{run}/scores/{name}"
    show(f"table: {folder}/tables/audit.csv; with the rules: {folder}/audit.json")


def show_dissection(result: Dissection) -> None:
    """The result on a page: what each layer detects, by which rules, and what it took."""
    summary = result.summary
    rule = summary["rule"]
    show(f"{summary['model']} on {summary['data']}: {summary['images']} images, {summary['concepts']} concepts")
    show(
        f"rule: tail {rule['tail']}, IoU > {rule['iou']}, union {rule['union']}, mask test {rule['mask_test']}, "
        f"{rule['multiplicity']}, unlabelled {rule['unlabelled']}, mask size {rule['mask_size']}"
    )
    if rule["labels"]:
        show(f"labels: {', '.join(spec for spec, _ in rule['labels'])}, beside the dataset's own")
    for name, layer in result.layers.items():
        show_layer(result, name, layer.summary)
    show("")
    for stage, seconds in summary["seconds"].items():
        parts = ", ".join(f"{key} {value:.1f}" for key, value in seconds.items())
        show(
            f"{stage}: {sum(seconds.values()):.1f} s ({parts}); peak memory {summary['peak_bytes'][stage] / 1e6:.0f} MB"
        )


def show_layer(result: Dissection, name: str, facts: Mapping[str, Any]) -> None:
    """One layer."""
    attributes = result.layers[name].attributes
    by_category = ", ".join(f"{category} {n}" for category, n in facts["unique_by_each_category"].items())
    field = f", field {attributes['field_map']}" if attributes["field_map"] else ""
    least, most = facts["detectable_share"]
    show("")
    show(f"{name}: {facts['units']} units, upsampling {facts['upsample']}{field}")
    show(f"  detectors {facts['detectors']}, unique: {facts['unique_top']} by top concept, "
         f"{facts['unique_by_category']} by category ({by_category}), {facts['unique_any']} by any unit")  # fmt: skip
    show(
        f"  detectable: concepts on {100 * least:.3g} % to {100 * most:.3g} % of their category's pixels "
        f"(masks cover {100 * facts['mask_share']:.2g} %); active maps {100 * facts['active_map_share']:.1f} %"
    )
    odd = ", ".join(f"{n} {flag}" for flag, n in facts["flags"].items() if n)
    if odd:
        show(f"  units with flags: {odd}")
    if facts["flags"]["SHORT"]:
        show("  SHORT: too few activations for any to lie above the threshold; take more images or a larger --tail")
    for line in best_lines(result, name):
        show(line)


def best_lines(result: Dissection, name: str) -> Iterator[str]:
    """The best units of each category."""
    layer = result.layers[name]
    for g, category in enumerate(result.category_name):
        best = layer.best_iou_by_category[:, g]
        order = (-best).argsort(kind="stable")[:BEST_PER_CATEGORY].tolist()
        shown = [
            f"{result.concept_name[layer.best_concept_by_category[k, g]]} {best[k]:.3f} (unit {k})"
            for k in order
            if best[k] > 0
        ]
        yield f"  {category:<10} {', '.join(shown) if shown else 'nothing'}"


def show_table(rows: list[list[str]]) -> None:
    """Columns side by side; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        show("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
