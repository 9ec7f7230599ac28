"""`score --audit`: each row is that of a scoring by its rules; it resumes, and is written once."""

import csv
import json
import shutil
from dataclasses import asdict, fields
from fractions import Fraction

import pytest

import streamdissect as sd
from streamdissect.cli import main
from streamdissect.measure.audit import AuditRow
from streamdissect.stages.audit import audit
from streamdissect.stages.control import Control

LAYERS = ["block1.act", "block2.conv"]
SUMMED_UP = ("units", "detectors", "unique_top", "unique_by_category", "unique_any", "mean_best_iou")


def extracted(nets, data, out, **named):
    options = {"shard_images": 6, "batch_size": 4, "tails": (Fraction(1, 20), Fraction(1, 100))}
    sd.extract(f"{nets}:build", data, LAYERS, out, **options | named)
    return out


@pytest.fixture(scope="module")
def run(nets, scenes, tmp_path_factory):
    return extracted(nets, scenes, tmp_path_factory.mktemp("audit") / "run")


@pytest.fixture(scope="module")
def rows(run):
    return audit(run)


@pytest.fixture
def copy(run, rows, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def facts_of(run, layer, name, **named):
    """The summary of a layer by a scoring of that name."""
    return sd.score(run, name=name, **named).layers[layer].summary


def assert_rows_of_scorings(rows, run, prefix="", **named):
    """Every row equals what a scoring by its rules sums up."""
    assert rows
    for row in rows:
        rules = {"upsample": row.upsample, "union": row.union, "tail": Fraction(row.tail)}
        name = prefix + "-".join(map(str, (row.upsample, row.union, rules["tail"].denominator)))
        facts = facts_of(run, row.layer, name, **rules, **named)
        assert (row.upsample, row.tail, row.union) == (facts["upsample"], facts["tail"], facts["union"])
        for key in SUMMED_UP:
            assert getattr(row, key) == facts[key], (row, key)


def assert_plain_row(rows, run, layer, **named):
    """The scoring without a word on its rules is among the rows."""
    facts = facts_of(run, layer, None, **named)
    rules = layer, facts["upsample"], facts["tail"], "paper"
    (row,) = [row for row in rows if (row.layer, row.upsample, row.tail, row.union) == rules]
    assert all(getattr(row, key) == facts[key] for key in SUMMED_UP)


def test_every_row_is_that_of_a_scoring(run, rows):
    assert len(rows) == 2 * 3 * 2 * 3  # layers, upsamplings, tails, unions
    assert len({tuple(asdict(row).values())[:4] for row in rows}) == len(rows)
    assert {row.upsample for row in rows} == {"rf", "half_pixel", "corners"}
    assert {row.tail for row in rows} == {"1/20", "1/100"}
    assert len({row.detectors for row in rows}) > 3 and len({row.mean_best_iou for row in rows}) > 20
    assert_rows_of_scorings(rows, run)
    for layer in LAYERS:
        assert_plain_row(rows, run, layer)


def test_under_other_settings(nets, tmp_path):
    """One tail more than extracted, a grid of its own, labels counted repeatedly, `>=`."""
    data = sd.open_dataset("synth:?n=9&seed=3&size=44")
    run = extracted(nets, data, tmp_path / "run", shard_images=4)
    named = {"mask_size": (20, 24), "multiplicity": "multiset", "mask_test": "ge", "iou": Fraction(1, 50)}
    found = audit(run, tail=Fraction(1, 30), **named)
    assert {row.tail for row in found} == {"1/20", "1/100", "1/30"}
    assert_rows_of_scorings([row for row in found if row.tail == "1/30"], run, **named)
    assert_plain_row(found, run, LAYERS[1], **named)


def test_pixels_that_are_not_judged_leave_mask_touch_out(run):
    found = audit(run, name="ignore", unlabelled="ignore")
    assert {row.union for row in found} == {"paper", "all-images"} and len(found) == 24
    assert_rows_of_scorings(
        [row for row in found if row.upsample == "corners"], run, unlabelled="ignore", overwrite=True
    )


def test_without_a_field_map_there_is_no_rf(nets, scenes, tmp_path):
    run = extracted(nets, scenes, tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    manifest["layers"][1]["field"] = None
    (run / "run.json").write_text(json.dumps(manifest))
    found = audit(run)
    assert {row.upsample for row in found if row.layer == LAYERS[1]} == {"half_pixel", "corners"}
    assert {row.upsample for row in found if row.layer == LAYERS[0]} == {"rf", "half_pixel", "corners"}


def test_a_run_without_activations_is_audited_too(nets, scenes, rows, tmp_path):
    assert audit(extracted(nets, scenes, tmp_path / "run", spill="none")) == rows


def test_little_memory_takes_several_passes_and_says_so(run, rows):
    said = []

    class Telling(Control):
        def say(self, text):
            said.append(text)

    assert audit(run, name="small", memory=1 << 16, control=Telling()) == rows
    assert any("passes over each shard, as --memory" in text for text in said)


def test_each_chunk_is_read_once(run, rows, monkeypatch):
    from streamdissect.store.activations import ActivationStore

    read, real = [], ActivationStore.iter_chunks

    def spying(self, layer, part, most):
        for found in real(self, layer, part, most):
            read.append((layer, found[0]))
            yield found

    monkeypatch.setattr(ActivationStore, "iter_chunks", spying)
    assert audit(run, name="once") == rows
    assert sorted((layer, row) for layer, part in read for row in part) == sorted(
        (layer, row) for layer in LAYERS for row in range(20)
    )


def test_stopped_it_resumes(run, rows):
    class Stopping(Control):
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 12:
                self.stop()
            super().check()

    with pytest.raises(sd.Stopped):
        audit(run, name="stopped", control=Stopping())
    done = list((run / "partial" / "audit-stopped").glob("0*.json"))
    assert 0 < len(done) < 4
    times = [path.stat().st_mtime_ns for path in done]
    assert audit(run, name="stopped") == rows
    assert [path.stat().st_mtime_ns for path in done] == times, "finished shards are not counted again"


def test_workers_share_it(run, rows):
    assert audit(run, name="shared", shard=(0, 2)) is None
    assert not (run / "scores" / "shared" / "audit.json").exists()
    assert audit(run, name="shared", shard=(1, 2)) == rows


def test_it_is_kept_and_read_again(run, rows, monkeypatch):
    content = json.loads((run / "audit.json").read_text())
    assert content["rows"] == [asdict(row) for row in rows]
    assert content["rule"]["tails"] == ["1/20", "1/100"] and "union" not in content["rule"]
    with open(run / "tables" / "audit.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    types = {field.name: {"int": int, "float": float, "str": str}[field.type] for field in fields(AuditRow)}
    assert [AuditRow(**{key: types[key](text) for key, text in line.items()}) for line in lines] == rows
    monkeypatch.setattr("streamdissect.stages.audit.open_scoring", None)
    assert audit(run) == rows
    with pytest.raises(sd.BadInput, match="--iou: got '1/10', expected '1/25'"):
        audit(run, iou=Fraction(1, 10))
    with pytest.raises(sd.BadInput, match="--tails: got"):
        audit(run, tail=Fraction(1, 50))


def test_scoring_and_audit_leave_each_other_alone(copy, rows):
    sd.score(copy)
    sd.score(copy, overwrite=True)
    assert (copy / "tables" / "audit.csv").exists() and audit(copy) == rows
    assert audit(copy, overwrite=True) == rows
    assert (copy / "tables" / "units.csv").exists() and (copy / "summary.json").exists()


def test_verify_reads_the_partials(copy):
    sd.verify(copy)
    path = copy / "partial" / "audit" / "000001.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(sd.IncompleteRun, match=r"audit/000001\.npz.*score --audit --overwrite"):
        sd.verify(copy)


def test_damage_is_named(copy):
    (copy / "audit.json").write_text('{"rows": [{}]}')
    with pytest.raises(sd.IncompleteRun, match=r"audit\.json: damaged.*audit again with --overwrite"):
        audit(copy)


@pytest.mark.parametrize(
    "named",
    [
        {"union": "all-images"},
        {"upsample": "rf"},
        {"blocks": 8},
        {"blocks": 8, "block_by": "prefix"},
        {"keep_masks": True},
    ],
)
def test_what_an_audit_goes_through_is_not_chosen(run, named):
    with pytest.raises(sd.BadInput, match="leave it out"):
        audit(run, **named)


def test_the_command_prints_a_table(run, rows, capsys):
    assert main(["score", str(run), "--audit"]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["layer", "upsample", "tail", "union", "detectors"]
    assert [line.split()[:5] for line in lines] == [
        [row.layer, row.upsample, row.tail, row.union, str(row.detectors)] for row in rows
    ]
    assert last.startswith("table:") and "audit.csv" in last
    assert main(["score", str(run), "--audit", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"run": str(run), "name": None, "rows": [asdict(row) for row in rows]}
    assert main(["score", str(run), "--audit", "--name", "shared2", "--shard", "0/2"]) == 0
    assert "the worker that ends last" in capsys.readouterr().err
    assert main(["score", str(run), "--audit", "--union", "all-images"]) == 2
    assert "--union" in capsys.readouterr().err
