"""What of a run's activations is stored, and compressed how, from those of its first images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..options import ExtractOptions
from ..quantile import tail_rank
from ..store.codecs import choose_codec, packed_share

Samples = Mapping[str, NDArray[np.floating]]
"""Stored activations (B, K, h, w) of the first images, by layer."""

HEADROOM = 1.25
"""A store is planned so many times as large as the first images let expect."""
PARTS = (1 / 8, 3 / 8, 5 / 8, 7 / 8)
"""Parts of the images after which it is asked how many maps are still kept."""
STORED = {
    "full": "all activations are stored",
    "candidates": "only the maps that may exceed a threshold are stored",
    "none": "no activations are stored, score will run the network again",
}


def choose_spill(
    samples: Samples, n_images: int, options: ExtractOptions, is_brought: bool
) -> tuple[str, dict[str, str]]:
    """full, candidates or none, and the codec of each layer.

    What is asked for, unless that is `auto`: then everything, or with `options.max_disk` the first of the three that is
    expected to fit. Expected is what the first images come to, compressed, a quarter more; or all activations as they
    are, where that is less. Of candidates the share that is kept falls as the bound rises; it is estimated at four
    places of the run.

    Parameters
    ----------
    samples : layer -> (B, K, h, w)
    n_images : int
        Of the run.
    is_brought : bool
        Whether the activations are somebody else's and cannot be made once more: then none of them is no choice.

    Raises
    ------
    BadInput
        What is asked for is expected to exceed `options.max_disk`, or cannot be.
    """
    asked, limit = options.spill, options.max_disk
    if asked == "none" and is_brought:
        raise BadInput("--spill", "'none'", "full or candidates", "activations that are brought are not made again")
    choices = [asked] if asked != "auto" else ["full"] if limit is None else ["full", "candidates", "none"]
    if is_brought and "none" in choices:
        choices.remove("none")
    if asked == "auto" and (options.thresholds == "sketch" or options.codec == "none"):
        choices = [each for each in choices if each != "candidates"]
    expected = 0
    for spill in choices:
        codecs = {name: layer_codec(sample, spill, options) for name, sample in samples.items()}
        if spill == "none" or limit is None:
            return spill, codecs
        expected = expect_bytes(samples, codecs, n_images, spill, options)
        if expected <= limit:
            return spill, codecs
    got = f"about {expected} bytes of activations with --spill {choices[-1]}"
    remedy = "raise it, leave --spill out, or take fewer images (--limit) or layers"
    raise BadInput("--max-disk", got, f"at most {limit}", remedy)


def layer_codec(sample: NDArray[np.floating], spill: str, options: ExtractOptions) -> str:
    """The codec asked for, or the one that suits; maps that are left out are to take no room."""
    if options.codec != "auto":
        return options.codec
    if spill == "candidates":
        return choose_codec(candidates_of(sample, options, 1.0), ("zstd", "lz4"))
    return choose_codec(sample)


def expect_bytes(
    samples: Samples, codecs: Mapping[str, str], n_images: int, spill: str, options: ExtractOptions
) -> int:
    """Of the store, by the first images."""
    total = 0
    for name, sample in samples.items():
        whole = sample[0].nbytes * n_images
        parts = [sample] if spill == "full" else [candidates_of(sample, options, part) for part in PARTS]
        shares = [packed_share(part, codecs[name]) for part in parts]
        total += min(whole, round(HEADROOM * whole * sum(shares) / len(shares)))
    return total


def expect_disk(
    samples: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any], options: ExtractOptions
) -> dict[str, int]:
    """Bytes of the activations of a run that is planned, by the first images; see `choose_spill`."""
    spill, codecs = (
        manifest["identity"]["spill"],
        {each["array"]["name"]: each["array"]["codec"] for each in manifest["layers"]},
    )
    n_images = int(manifest["plan"]["n_images"])
    return {"activations": 0 if spill == "none" else expect_bytes(samples, codecs, n_images, spill, options)}


def candidates_of(sample: NDArray[np.floating], options: ExtractOptions, part: float) -> NDArray[np.floating]:
    """A sample as it is stored once a part of all images has been seen, if all are like these; see keeping.py.

    The largest m of all values, m = floor(p n), are then the share p / part of those that came.
    """
    values = sample.transpose(1, 0, 2, 3).reshape(sample.shape[1], -1)
    n = values.shape[1]
    above = min(n - 1, int(tail_rank(max(options.tails), n) / part))
    floor = np.partition(values, n - 1 - above, axis=1)[:, n - 1 - above]
    return np.where((sample.max(axis=(2, 3)) < floor)[..., None, None], sample.dtype.type(-np.inf), sample)
