"""How options are found and read, and what a wrong one says."""

import subprocess
import sys
from fractions import Fraction

import pytest

from streamdissect import granted, options
from streamdissect.cli import COMMANDS, arguments, build_parser, main
from streamdissect.errors import BadInput


@pytest.fixture
def parsed(monkeypatch):
    """`parsed(["extract", ...])`: the values a command line stands for."""

    def call(line):
        parser, modules = build_parser()
        given = parser.parse_args(line)
        return arguments.resolve(modules[given.command].OPTIONS, given, given.command)

    return call


def test_a_flag_wins_over_a_variable_a_variable_over_the_file(parsed, tmp_path, monkeypatch):
    config = tmp_path / "run.toml"
    config.write_text('[extract]\nbatch_size = 8\nlayers = ["a", "b*"]\nmean = [0.1, 0.2, 0.3]\nlabelled_only = true\n'
                      'input_size = [64, 48]\ntail = "1/50"\n[score]\niou = 0.1\n')  # fmt: skip
    line = ["extract", "--config", str(config)]
    values = parsed(line)
    assert values["batch_size"] == 8 and values["layers"] == "a,b*" and values["mean"] == (0.1, 0.2, 0.3)
    assert values["labelled_only"] is True and values["input_size"] == (64, 48) and values["tail"] == (Fraction(1, 50),)
    monkeypatch.setenv("STREAMDISSECT_BATCH_SIZE", "16")
    monkeypatch.setenv("STREAMDISSECT_LABELLED_ONLY", "0")
    assert parsed(line)["batch_size"] == 16 and parsed(line)["labelled_only"] is False
    assert parsed([*line, "--batch-size", "32"])["batch_size"] == 32
    assert parsed(["score", "--config", str(config)])["iou"] == Fraction(1, 10)
    assert "batch_size" not in parsed(["score"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("[extract]\nbatchsize = 8\n", ["'batchsize'", "batch_size"]),
        ("extract = 3\n", ["[extract]"]),
        ("[extract\n", ["TOML"]),
        ("[extract]\nbatch_size = 'many'\n", ["--batch-size", "'many'"]),
        ("[extract]\nlabelled_only = 7\n", ["--labelled-only", "7"]),
        ("[extrct]\nbatch_size = 8\n", ["'extrct'", "[extract]"]),
        ("batch_size = 8\n", ["'batch_size'", "tables"]),
        ("[extract]\nbatch_size = 8\n", ["--config", "--model, --data and --layers"]),
    ],
)
def test_a_wrong_file_is_refused(text, words, tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text(text)
    assert main(["extract", "--config", str(config)]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["extract", "--config", str(tmp_path / "no.toml")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["extract", "--config", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_config_and_debug_from_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STREAMDISSECT_CONFIG", str(tmp_path / "no.toml"))
    assert main(["score"]) == 2 and "no.toml" in capsys.readouterr().err
    monkeypatch.delenv("STREAMDISSECT_CONFIG")
    monkeypatch.setenv("STREAMDISSECT_DEBUG", "1")
    assert main(["score", str(tmp_path)]) == 2 and "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, words",
    [
        (["extract", "--batch", "3"], ["--batch", "did you mean --batch-size?"]),
        (["extract", "--batch-size"], ["expected one argument"]),
        (["extract", "--batch-size", "0"], ["--batch-size", "'0'", "from 1"]),
        (["extract", "--threads", "²"], ["--threads", "from 1"]),
        (["extract", "--dtype", "float61"], ["--dtype", "'float61'", "did you mean float16?"]),
        (["extract", "--mean", "1", "2"], ["--mean"]),
        (["extract", "--std", "1", "2", "0"], ["--std", "positive"]),
        (["extract", "--limit", "last:3"], ["--limit", "first:NUMBER"]),
        (["extract", "--tail", "1/200,0.005"], ["--tail", "each tail once"]),
        (["extract", "--shard", "4/4"], ["--shard", "'4/4'"]),
        (["extract", "--shard", "array"], ["--shard", "SLURM_ARRAY_TASK_ID"]),
        (["extract", "--data", "x"], ["no --model and no --layers", "give all three"]),
        (["extract", "--model", "x", "--data", "x", "--layers", "x", "--memory", "much"], ["--memory", "4GiB"]),
        (["score", "--tail", "0"], ["--tail", "1/200"]),
        (["score", "--iou", "1.5"], ["--iou", "'1.5'"]),
        (["score", "--mask-size", "big"], ["--mask-size", "112x112"]),
        (["score", "--union", "papers"], ["--union", "did you mean paper?"]),
        (["score", "--name", "../x"], ["run"]),
        (["layers", "--model", "shipped"], ["--input-size"]),
        (["layers", "--model", "nowhere.py:f"], ["nowhere.py"]),
        (["layers"], ["--model"]),
        (["extrakt"], ["extrakt"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option_gets_one_line_and_code_2(line, words, tmp_path):
    done = subprocess.run([sys.executable, "-m", "streamdissect", *line], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr


def test_a_misspelt_variable_is_not_ignored(monkeypatch, capsys):
    monkeypatch.setenv("STREAMDISSECT_BATCHSIZE", "4")
    assert main(["info"]) == 2
    assert "STREAMDISSECT_BATCHSIZE, expected the name of an option; did you mean STREAMDISSECT_BATCH_SIZE?" in (
        capsys.readouterr().err
    )
    monkeypatch.delenv("STREAMDISSECT_BATCHSIZE")
    for name in ("BATCH_SIZE", "RUN", "KERNELS", "TEST_SHARED", "GOLDEN_CSV", "REQUIRE_EXT", "OF_ANOTHER_PROGRAM"):
        monkeypatch.setenv(f"STREAMDISSECT_{name}", "auto")
    assert main(["info"]) == 0


def test_debug_shows_where(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "streamdissect", "score", "nowhere", "--debug"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_shares_are_exact():
    for text, value in (("0.005", Fraction(1, 200)), ("1/200", Fraction(1, 200)), ("5e-3", Fraction(1, 200))):
        assert options.parse_share(text, "--tail") == value
    for text in ("0", "1", "-1/2", "x", "1/0", "nan", "inf", "", "1/3/4"):
        with pytest.raises(BadInput):
            options.parse_share(text, "--tail")


def test_sizes_and_bytes():
    assert options.parse_bytes("4GiB", "") == 4 << 30 and options.parse_bytes("500 MB", "") == 500_000_000
    assert options.parse_bytes("1.5k", "") == 1500 and options.parse_bytes("1e9", "") == 10**9
    for text in ("", "x", "4 GiX", "-1", "0", "nan", "1e99"):
        with pytest.raises(BadInput):
            options.parse_bytes(text, "--memory")
    assert options.parse_size("112x96", "") == (112, 96) and options.parse_mask_size("image") == "image"
    for text in ("112", "0x3", "ax3", "1x2x3"):
        with pytest.raises(BadInput):
            options.parse_size(text, "--input-size")


def test_slurm_arrays(monkeypatch):
    for name, value in (("ID", "7"), ("MIN", "3"), ("MAX", "9"), ("STEP", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert options.parse_shard("array") == (2, 4)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "13")
    assert granted.cpu_count() == 13


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    _, modules = build_parser()
    assert all(option.flag in text for option in modules[command].OPTIONS)


def test_no_command_prints_the_help(capsys):
    assert main([]) == 0
    assert "extract" in capsys.readouterr().out


def test_info_names_the_kernels(capsys):
    assert main(["info"]) == 0
    assert "kernels" in capsys.readouterr().out
