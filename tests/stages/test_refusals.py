"""Bad input, each with its line and its exit code; damage that is found; limits that are kept."""

import errno
import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import streamdissect as sd
from streamdissect.cli import main


@pytest.fixture
def copied(scenes, tmp_path):
    """A copy of the dataset that a test may spoil."""
    return shutil.copytree(scenes, tmp_path / "copy")


@pytest.fixture
def said(capsys):
    """`said(code, "word", ..., arguments=[...])`: the command fails with the code in one line that holds the words."""

    def call(code, *words, arguments):
        assert main([str(a) for a in arguments]) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("streamdissect ")]
        assert len(lines) == 1, lines
        assert all(word in lines[0] for word in words), lines[0]
        return lines[0]

    return call


def extracting(nets, data, out, *more, build="build", layers="block1.act"):
    return ["extract", "--model", f"{nets}:{build}", "--data", data, "--layers", layers, "--out", out, *more]


def test_unknown_layer_names_the_nearest(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", layers="blok1.act")
    said(2, "layers", "'blok1.act'", "block1.act", arguments=arguments)
    assert not (tmp_path / "run").exists()


def test_wrong_weights_name_their_keys(said, nets, scenes, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file(
        {"block1.conv.weight": torch.zeros(5, 3, 3, 3), "tail.weight": torch.zeros(1)}, tmp_path / "w.safetensors"
    )
    arguments = extracting(nets, scenes, tmp_path / "run", "--weights", tmp_path / "w.safetensors")
    said(2, "w.safetensors", "block1.conv.bias", "tail.weight", arguments=arguments)


def test_truncated_image(said, nets, copied, tmp_path):
    path = copied / "images" / "scene-00013.png"
    path.write_bytes(path.read_bytes()[:3000])
    said(
        2,
        "scene-00013.png",
        arguments=extracting(nets, copied, tmp_path / "run", "--batch-size", 4, "--shard-images", 4),
    )
    info = sd.info(tmp_path / "run")
    assert info["shards_done"] >= 3, "shards before the damaged image are kept"


def test_label_map_of_the_wrong_size(said, nets, copied, tmp_path):
    path = copied / "images" / "labels" / "object_0" / "scene-00004.png"
    Image.open(path).resize((30, 31), Image.Resampling.NEAREST).save(path)
    words = "scene-00004.png", "31 rows x 30 columns", "32 x 32"
    said(2, *words, arguments=extracting(nets, copied, tmp_path / "run"))


def test_label_number_without_an_entry(said, nets, copied, tmp_path):
    table = (copied / "label.csv").read_text().splitlines()
    (copied / "label.csv").write_text("\n".join(line for line in table if not line.startswith("1,")) + "\n")
    said(2, "label number 1,", arguments=extracting(nets, copied, tmp_path / "run"))


def test_labels_may_be_mended_after_the_forward_passes(said, nets, scenes, copied, tmp_path):
    """Activations depend on the images alone; each scoring remembers the labels that it counted."""
    out = tmp_path / "run"
    path = copied / "images" / "labels" / "object_0" / "scene-00009.png"  # not among those looked at before the work
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert main([str(a) for a in extracting(nets, copied, out, "--limit", "first:19", "--workers", 0)]) == 0
    said(2, "scene-00009.png", "damaged", arguments=["score", out])
    path.write_bytes(whole)
    assert main(["score", str(out), "--overwrite"]) == 0
    table = copied / "label.csv"
    table.write_text(table.read_text() + "99,new,object(0),0,0,\n")
    assert main(["score", str(out)]) == 0, "what was counted is printed again"
    said(2, "labels of the data (digest)", "--name", arguments=["score", out, "--data", copied])
    assert main(["score", str(out), "--data", str(copied), "--name", "more"]) == 0
    assert "new" not in sd.score(out).concept_name
    assert "new" in sd.score(out, name="more", data=copied).concept_name


def test_a_model_whose_code_changed_is_another(said, nets, scenes, tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(nets.read_text())
    arguments = extracting(code, scenes, tmp_path / "run")
    assert main([str(a) for a in arguments]) == 0
    code.write_text(nets.read_text().replace("* self.scale", "* self.scale * 2"))
    said(2, "model file", arguments=arguments)


def test_cores_are_part_of_the_identity_and_the_remedy_says_so(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", "--threads", 1)
    assert main([str(a) for a in arguments]) == 0
    said(2, "torch threads", "give --threads 1", arguments=[*arguments[:-1], 2])


def test_overwrite_removes_runs_and_nothing_else(said, nets, scenes, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"tool": "another"}')
    (other / "notes.txt").write_text("mine")
    said(2, "run.json is no run's", arguments=extracting(nets, scenes, other, "--overwrite"))
    assert (other / "notes.txt").exists() and (other / "run.json").exists()
    out = tmp_path / "run"
    arguments = [str(a) for a in extracting(nets, scenes, out)]
    assert main(arguments) == 0
    (out / "notes.txt").write_text("mine")
    assert main([*arguments, "--overwrite"]) == 0 and (out / "notes.txt").read_text() == "mine"


def test_verify_reads_everything_that_was_written(said, nets, scenes, tmp_path):
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, scenes, out, "--shard-images", 5)]) == 0
    assert main(["score", str(out)]) == 0 and main(["verify", str(out)]) == 0
    first, second = (out / "partial" / "score" / f"00000{i}.npz" for i in range(2))
    kept = first.read_bytes()
    shutil.copy(second, first)
    said(3, "000000.npz", "--overwrite", arguments=["verify", out])
    first.write_bytes(kept)
    (out / "dissection.h5").write_bytes(b"garbage")
    said(3, "dissection.h5", arguments=["verify", out])
    assert main(["score", str(out), "--overwrite"]) == 0
    state = next((out / "partial" / "extract" / "workers").glob("*.npz"))
    state.write_bytes(state.read_bytes()[:-50])
    assert "extract again with --overwrite" in said(3, state.name, arguments=["verify", out])


def test_run_of_another_model_dataset_or_option(said, nets, scenes, copied, tmp_path):
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, scenes, out)]) == 0
    said(2, "model", arguments=extracting(nets, scenes, out, build="build?width=5"))
    said(2, "weights (their digest)", arguments=extracting(nets, scenes, out, "--weights", "random"))
    Image.new("RGB", (64, 64)).save(copied / "images" / "scene-00003.png")
    said(2, "images of the data (their digest)", arguments=extracting(nets, copied, out))
    said(2, "batch size", "got 7", "32", arguments=extracting(nets, scenes, out, "--batch-size", 7))
    said(2, "data", "images of run", arguments=["score", out, "--data", copied])
    assert main(["score", str(out)]) == 0
    said(2, "--union", "all-images", "--name", arguments=["score", out, "--union", "all-images"])
    assert main(["score", str(out), "--union", "all-images", "--name", "other"]) == 0
    assert (out / "scores" / "other" / "summary.json").exists()
    assert main(["score", str(out)]) == 0
    assert main(["score", str(out), "--union", "all-images", "--overwrite"]) == 0
    assert json.loads((out / "summary.json").read_text())["rule"]["union"] == "all-images"


def test_float16_overflow(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", build="loud")
    said(2, "layer block1.act, unit", "65504", "--dtype float32", arguments=arguments)
    assert main([str(a) for a in [*arguments, "--dtype", "float32"]]) == 0


def test_activations_that_are_no_numbers(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", build="broken", layers="block1.act,block2.conv")
    said(2, "layer block1.act, unit 0", "nan", "--allow-nonfinite", arguments=arguments)
    assert main([str(a) for a in [*arguments, "--allow-nonfinite"]]) == 0
    result = sd.score(tmp_path / "run")
    assert all(layer.unit_area_all.sum() == 0 for layer in result.layers.values())
    assert all(layer["flags"]["NONFINITE"] == layer["units"] for layer in result.summary["layers"].values())


def test_no_images_and_no_labelled_images(said, nets, copied, tmp_path):
    index = (copied / "index.csv").read_text().splitlines()
    (copied / "index.csv").write_text(index[0] + "\n")
    said(2, "index.csv", "no image", arguments=extracting(nets, copied, tmp_path / "run"))
    bare = [",".join(line.split(",")[:6]) + "," * (index[0].count(",") - 5) for line in index[1:]]
    (copied / "index.csv").write_text("\n".join([index[0], *bare]) + "\n")
    out = tmp_path / "run"
    assert main([str(a) for a in extracting(nets, copied, out)]) == 0
    said(2, "no labelled image", arguments=["score", out])
    said(2, "--labelled-only", arguments=extracting(nets, copied, tmp_path / "other", "--labelled-only"))


def test_images_of_different_sizes(said, nets, copied, tmp_path):
    lines = (copied / "index.csv").read_text().splitlines()
    cells = lines[3].split(",")
    path = copied / "images" / cells[0]
    Image.open(path).resize((50, 40)).save(path)
    cells[2:4] = "40", "50"
    (copied / "index.csv").write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]) + "\n")
    out = tmp_path / "run"
    said(2, "scene-00002.png", "64x64", "40x50", "--input-size", arguments=extracting(nets, copied, out))
    assert main([str(a) for a in extracting(nets, copied, out, "--input-size", 64, 64)]) == 0


def test_a_full_disk(said, nets, scenes, tmp_path, monkeypatch):
    from streamdissect.store.activations import ActivationStore

    real, calls = ActivationStore.write, []

    def write(self, layer, shard, maps, kept):
        calls.append(shard)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.file(layer, shard)))
        return real(self, layer, shard, maps, kept)

    monkeypatch.setattr(ActivationStore, "write", write)
    out = tmp_path / "run"
    arguments = extracting(nets, scenes, out, "--shard-images", 4, "--batch-size", 4)
    said(1, "the disk is full", "resumes", arguments=arguments)
    assert sd.info(out)["shards_done"] == 3
    assert main([str(a) for a in arguments]) == 0
    monkeypatch.undo()
    clean = tmp_path / "clean"
    assert main([str(a) for a in extracting(nets, scenes, clean, "--shard-images", 4, "--batch-size", 4)]) == 0
    first, second = sd.score(out), sd.score(clean)
    assert (first.iou["block1.act"] == second.iou["block1.act"]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_file_that_cannot_grow(nets, scenes, tmp_path, command):
    import resource

    arguments = [str(a) for a in extracting(nets, scenes, tmp_path / "run", "--codec", "none")]
    script = "import signal, sys\nfrom streamdissect.cli import main\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    command(*arguments, check=0)
    command("verify", tmp_path / "run", check=0)


def test_damage_is_found_and_repaired(said, nets, scenes, tmp_path):
    out = tmp_path / "run"
    arguments = [str(a) for a in extracting(nets, scenes, out, "--shard-images", 5, "--codec", "zstd")]
    assert main(arguments) == 0
    file = out / "activations.zarr" / "block1.act" / "c" / "2" / "0" / "0" / "0"
    before = file.read_bytes()
    file.write_bytes(before[:1000] + bytes([before[1000] ^ 1]) + before[1001:])
    said(3, "c/2/0/0/0", "not what was written", "delete", arguments=["verify", out])
    said(3, "c/2/0/0/0", "damaged", arguments=["score", out])
    file.unlink()
    said(3, "missing", arguments=["score", out])
    assert main(arguments) == 0
    assert file.read_bytes() == before
    assert main(["verify", str(out)]) == 0
    assert main(["score", str(out)]) == 0
    state = next((out / "partial" / "extract" / "workers").glob("*.npz"))
    state.write_bytes(state.read_bytes()[:-100])
    said(3, state.name, arguments=["verify", out])
    said(3, state.name, "--overwrite", arguments=["score", out, "--name", "x"])


def test_no_run_and_runs_of_another_format(said, tmp_path):
    said(2, "no such directory", arguments=["score", tmp_path / "nowhere"])
    said(2, "no run.json", arguments=["score", tmp_path])
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    said(2, "format 99", arguments=["score", tmp_path])
    for content in ('{"schema', "[]", '{"schema_version": 1}'):
        (tmp_path / "run.json").write_text(content)
        said(3, "damaged", arguments=["score", tmp_path])


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_damaged_manifest_is_made_good_by_overwrite(content, nets, scenes, tmp_path):
    arguments = [str(a) for a in extracting(nets, scenes, tmp_path / "run")]
    assert main(arguments) == 0
    (tmp_path / "run" / "run.json").write_text(content)
    assert main(arguments) in (2, 3)
    assert main([*arguments, "--overwrite"]) == 0 and main(["score", str(tmp_path / "run")]) == 0


def test_what_a_kill_leaves_of_run_json_is_no_other_content(nets, scenes, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json.aside-deadbeef").write_text("{")
    assert main([str(a) for a in extracting(nets, scenes, tmp_path / "run")]) == 0


def test_a_run_that_another_worker_makes_meanwhile_is_joined(nets, scenes, tmp_path, monkeypatch):
    import streamdissect.stages.extract as stage

    real, out = stage.plan_work, tmp_path / "run"
    named = {"shard_images": 5, "threads": 1}

    def meanwhile(work, control):
        monkeypatch.undo()
        sd.extract(f"{nets}:build", scenes, ["block1.act"], out, shard=(0, 2), **named)
        return real(work, control)

    monkeypatch.setattr(stage, "plan_work", meanwhile)
    sd.extract(f"{nets}:build", scenes, ["block1.act"], out, shard=(1, 2), **named)
    assert sd.info(out)["shards_done"] == 4
    stage.refuse_other_content(out)


def test_a_network_that_fails_on_this_size(said, nets, scenes, tmp_path):
    arguments = extracting(nets, scenes, tmp_path / "run", build="flat", layers="1")
    said(2, "model", "64x64", "--input-size", arguments=arguments)
    said(2, "model", "--input-size", arguments=["layers", "--model", f"{nets}:flat", "--data", scenes])


def test_overwrite_beside_other_workers(said, nets, scenes, tmp_path):
    from streamdissect.store.claims import Claims

    out = tmp_path / "run"
    arguments = extracting(nets, scenes, out, "--shard-images", 5)
    assert main([str(a) for a in arguments]) == 0 and main(["score", str(out)]) == 0
    for more in ([*arguments, "--overwrite", "--shard", "0/2"], ["score", out, "--overwrite", "--shard", "1/2"]):
        said(2, "--overwrite", "--shard", arguments=more)
    script = "import sys\nfrom pathlib import Path\nfrom streamdissect.store.claims import Claims\n"
    script += "print(Claims(Path(sys.argv[1])).take(3), flush=True)\nsys.stdin.read()"
    for stage, command in (("extract", arguments), ("score", ["score", out])):
        folder = out / "partial" / stage / "claims"
        call = [sys.executable, "-c", script, str(folder)]
        with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"True\n"
            said(2, "--overwrite", "shard 3", "at work", arguments=[*command, "--overwrite"])
        Claims(folder).forget(3)
    assert main(["score", str(out), "--overwrite"]) == 0


def test_tables_of_layers_with_like_names(nets, scenes, tmp_path):
    sd.extract(f"{nets}:alike", scenes, ["a:relu", "a_relu"], tmp_path / "run")
    sd.score(tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "tables").iterdir())
    assert names == ["a_relu-result.csv", "a_relu_-result.csv", "units.csv"]


def test_a_run_that_cannot_be_written_to_is_scored_in_parts(nets, scenes, tmp_path, monkeypatch):
    def refuse(self, content):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    sd.extract(f"{nets}:build", scenes, ["block1.act"], tmp_path / "run", dtype="float32", thresholds="histogram")
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    part = sd.score_partial(tmp_path / "run", shards=[0])
    assert list(part.shards) == [0]


def test_output_that_is_something_else(said, nets, scenes, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    said(2, "--out", arguments=extracting(nets, scenes, tmp_path / "letters", "--overwrite"))
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_limits_of_disk_and_memory(said, nets, scenes, tmp_path):
    out = tmp_path / "run"
    said(2, "--max-disk", arguments=extracting(nets, scenes, out, "--max-disk", "10kB", "--spill", "full"))
    said(2, "--memory", arguments=extracting(nets, scenes, out, "--memory", "100kB", "--shard-images", 20))
    assert not out.exists()
    assert main([str(a) for a in extracting(nets, scenes, out, "--dry-run")]) == 0
    assert not out.exists()


def test_a_repair_that_comes_out_different_is_never_taken(said, nets, scenes, tmp_path, monkeypatch):
    out = tmp_path / "run"
    arguments = extracting(nets, scenes, out, "--shard-images", 10, "--codec", "none")
    assert main([str(a) for a in arguments]) == 0
    assert main(["score", str(out)]) == 0 and main(["clean", str(out)]) == 0
    import streamdissect.stages.extract as stage

    real = stage.forward_shard

    def other(work, maps, *rest):
        seconds = real(work, maps, *rest)
        for values in maps.values():
            values *= 2
        return seconds

    monkeypatch.setattr(stage, "forward_shard", other)
    for _ in range(3):
        said(3, "came out different", "--overwrite", arguments=arguments)
    said(3, "missing", arguments=["score", out, "--name", "again"])
    monkeypatch.undo()
    assert main([str(a) for a in arguments]) == 0 and main(["score", str(out), "--name", "again"]) == 0


def test_lost_commits_and_damaged_partials_are_made_again(said, nets, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("streamdissect.stages.recording.COMMIT_SECONDS", 0)  # each shard is committed by itself
    monkeypatch.setattr("streamdissect.stages.recording.STATE_SHARE", 0)
    out = tmp_path / "run"
    arguments = [str(a) for a in extracting(nets, scenes, out, "--shard-images", 5)]
    assert main(arguments) == 0 and main(["score", str(out)]) == 0
    expected = (out / "tables" / "units.csv").read_text()
    (out / "partial" / "extract" / "000001.json").write_text("")
    said(3, "000001.json", "delete it", arguments=arguments)
    (out / "partial" / "extract" / "000001.json").unlink()
    with pytest.MonkeyPatch.context() as patch:  # by the files that lie there: computed anew they might be others
        patch.setattr("streamdissect.stages.extract.forward_shard", None)
        assert main(arguments) == 0
    assert main(["verify", str(out)]) == 0
    (out / "summary.json").unlink()
    (out / "partial" / "score" / "000002.npz").write_bytes(b"")
    assert main(["score", str(out)]) == 0
    assert (out / "tables" / "units.csv").read_text() == expected
    (out / "summary.json").unlink()
    damaged = (out / "partial" / "score" / "000002.npz").read_bytes()
    (out / "partial" / "score" / "000002.npz").write_bytes(damaged[:300] + b"\0\1\2\3" + damaged[304:])
    said(3, "000002.npz", "delete it", arguments=["score", out])
    (out / "partial" / "score" / "000002.npz").unlink()
    assert main(["score", str(out)]) == 0
    assert (out / "tables" / "units.csv").read_text() == expected
    (out / "partial" / "extract" / "000001.json").unlink()
    (out / "activations.zarr" / "block1.act" / "c" / "1" / "0" / "0" / "0").unlink()
    said(3, "lost together with its commit", "--overwrite", arguments=arguments)
