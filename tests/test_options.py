"""Options given from Python: checked like those of the command line."""

from fractions import Fraction

import numpy as np
import pytest

import streamdissect as sd


@pytest.mark.parametrize(
    "named, words",
    [
        ({"dtype": "float64"}, "dtype"),
        ({"thresholds": "sorted"}, "thresholds"),
        ({"distributions": "some"}, "distributions"),
        ({"codec": "gz"}, "codec"),
        ({"amp": "x"}, "amp"),
        ({"limit": -3}, "limit"),
        ({"shard": (5, 2)}, "shard"),
        ({"batch_size": 0}, "batch_size"),
        ({"tails": (2,)}, "tails"),
        ({"tails": ("1/3", "2/6")}, "tails"),
        ({"input_size": 7}, "input_size"),
        ({"threads": 0}, "threads"),
        ({"mean": (0.5,)}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"std": (0, 0, 0)}, "std"),
        ({"std": (-1, 1, 1)}, "std"),
    ],
    ids=str,
)
def test_python_options_are_checked(named, words):
    with pytest.raises(sd.BadInput, match=words):
        sd.ExtractOptions(**named)


@pytest.mark.parametrize(
    "named, words",
    [
        ({"mask_test": ">="}, "mask_test"),
        ({"union": "papers"}, "union"),
        ({"iou": 2}, "iou"),
        ({"mask_size": 7}, "mask_size"),
        ({"upsample": "nearest"}, "upsample"),
        ({"backend": "cuda"}, "backend"),
    ],
    ids=str,
)
def test_python_score_options_are_checked(named, words):
    with pytest.raises(sd.BadInput, match=words):
        sd.ScoreOptions(**named)


def test_python_options_may_be_plain_numbers_and_texts():
    assert sd.ScoreOptions(tail=0.01, iou="1/20", mask_size="7x9").tail == Fraction(1, 100)
    assert sd.ScoreOptions(mask_size="7x9").mask_size == (7, 9)
    assert sd.ExtractOptions(limit=np.int64(3), input_size=[7, 9]).input_size == (7, 9)
    assert sd.ExtractOptions(tails=0.005).tails == sd.ExtractOptions(tails=["1/200"]).tails == (Fraction(1, 200),)
