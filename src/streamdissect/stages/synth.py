"""Built-in scenes as a Broden directory."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.broden_writer import write_broden
from ..data.synthetic import SyntheticScenes
from ..objects import require_local


def synth(out: str | os.PathLike[str], n: int = 256, seed: int = 0, size: int = 112) -> Path:
    """Write built-in scenes as a Broden directory, with `facts.json`, which tells what is planted in them.

    Parameters
    ----------
    out : path
        New or empty.
    n, seed, size : int
        See `SyntheticScenes`.

    Returns
    -------
    Path
        Of the directory.

    Raises
    ------
    BadInput
        A number is out of range, or the directory holds something.
    StorageFailure
        A file cannot be written.
    """
    require_local(out, "OUT", "a directory")
    write_broden(SyntheticScenes(n, seed, size), out)
    return Path(out)
