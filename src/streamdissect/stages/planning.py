"""What a run will be, decided before the work: its identity, its layers, its shards, its memory and disk."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numpy.typing import NDArray

from ..errors import BadInput
from ..measure.fieldmap import FieldMap
from ..options import BATCH, ExtractOptions
from ..quantile import LARGEST_CAPACITY, BinnedTail, BufferedTail, Histogram, KllSketch, ReqSketch, tail_rank
from ..store.activations import LayerArray, choose_chunk
from ..store.rundir import RunDir
from .control import Control
from .gathering import StreamPlan
from .memoryplan import Division, megabytes
from .spilling import STORED, choose_spill

SHARD_BYTES, SHARD_IMAGES = 64 << 20, 512
"""Activations of all layers in one shard, by default, and how many images at most, so that small maps make several."""
FIELD_NAMES = {
    "state": "weights (their digest)",
    "code": "model file (its digest)",
    "data": "images of the data (their digest)",
    "which_images": "images chosen (their digest)",
    "structure": "network (digest of its parts, their settings and their code)",
}
"""Fields of the identity whose names say too little."""
STATE_PART, SHARD_PART = 2, 8
"""Parts of the memory that the thresholds' state and a shard may take."""
REQ_K, KLL_K = 50, 1024
"""Of sketched thresholds, 0.26 % of the tail, and of sketched distributions, 0.11 % of all: standard errors."""


@dataclass(frozen=True)
class Plan:
    """A run before it is made."""

    manifest: dict[str, Any]
    """Content of run.json."""
    shard_bytes: int
    total_bytes: int
    """Of activations, before compression."""
    division: Division | None = None
    """Of the memory, where it was asked for."""
    disk: dict[str, int] | None = None
    """Bytes by what takes them, where that was asked for."""

    @property
    def is_partial(self) -> bool:
        """Whether only candidates are stored."""
        return bool(self.manifest["identity"]["spill"] == "candidates")

    def describe(self) -> str:
        """The plan in a few lines."""
        plan = self.manifest["plan"]
        lines = [
            f"{plan['n_images']} images, {plan['shard_images']} to a shard ({self.shard_bytes / 1e6:.1f} MB), "
            + (f"{self.total_bytes / 1e6:.1f} MB in all before compression" if self.total_bytes else "none stored")
            + ("; only the maps that may exceed a threshold are kept" if self.is_partial else "")
        ]
        for layer in self.manifest["layers"]:
            spec, field = LayerArray.from_json(layer["array"]), layer["field"]
            lines.append(
                f"  {spec.name}: {spec.n_units} units, {spec.grid[0]}x{spec.grid[1]}, {spec.dtype}, "
                f"codec {spec.codec}, {spec.chunk_images} images a chunk, field {field['text'] if field else 'unknown'}"
            )
        if self.division is not None:
            lines += self.division.describe()
        if self.disk is not None:
            parts = ", ".join(f"{what} {megabytes(n_bytes)}" for what, n_bytes in self.disk.items())
            lines.append(f"disk: about {megabytes(sum(self.disk.values()))}: {parts}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For --json: what run.json will be, the memory and the disk."""
        memory = None if self.division is None else self.division.to_json()
        return self.manifest | {"memory": memory, "disk": self.disk}


def plan_run(
    identity: dict[str, Any],
    about: dict[str, Any],
    samples: dict[str, NDArray[Any]],
    fields: dict[str, FieldMap | None],
    n_images: int,
    input_size: tuple[int, int],
    options: ExtractOptions,
    control: Control,
    state_memory: int | None = None,
) -> Plan:
    """Decide everything that stays fixed over a run.

    Parameters
    ----------
    identity : dict
        What makes two runs the same run; goes into run.json.
    about : dict
        Where model and data were found; goes there too.
    samples : layer -> (B, K, h, w)
        Stored activations of the first images.
    fields : layer -> FieldMap or None
    input_size : (rows, columns)
        Of the network's input.
    state_memory : int, optional
        Bytes for which the forms of thresholds and distributions are chosen; none: as for all the memory.

    Raises
    ------
    BadInput
        The memory does not do, or the store would exceed `options.max_disk`; see `choose_spill`.
    """
    image_bytes = sum(sample[0].nbytes for sample in samples.values())
    shard_images = options.shard_images or fit_shard(image_bytes, n_images, options)
    if image_bytes * shard_images > options.memory // 2:
        raise BadInput(
            "--memory",
            f"{options.memory} bytes for shards of {image_bytes * shard_images}",
            "at least twice a shard",
            "raise it, or give a smaller --shard-images",
        )
    spill, codecs = choose_spill(samples, n_images, options, bool(identity.get("captured") or identity.get("recorded")))
    if options.max_disk is not None and options.spill == "auto":
        control.say(f"--max-disk {options.max_disk / 1e6:.1f} MB: {STORED[spill]}")
    for_state = options if state_memory is None else replace(options, memory=state_memory)
    layers = []
    for name, sample in samples.items():
        _, n_units, h, w = sample.shape
        chunk = choose_chunk(shard_images, sample[0].nbytes)
        spec = LayerArray(name, n_units, (h, w), str(sample.dtype), codecs[name], chunk)
        streams, sketch = choose_streams(spec, n_images, for_state, len(samples), control)
        layers.append(
            {
                "array": spec.to_json(),
                "streams": streams.to_json(),
                "sketch": None if sketch is None else sketch.to_json(),
                "distribution": options.distributions == "full",
                "field": describe_field(fields[name]),
            }
        )
    manifest = {
        "identity": identity | {"spill": spill},
        **about,
        "plan": {
            "n_images": n_images,
            "shard_images": shard_images,
            "n_shards": -(-n_images // shard_images),
            "input_size": list(input_size),
            "top_images": options.top_images,
        },
        "layers": layers,
        "versions": versions(),
    }
    return Plan(manifest, image_bytes * min(shard_images, n_images), 0 if spill == "none" else image_bytes * n_images)


def fit_shard(image_bytes: int, n_images: int, options: ExtractOptions) -> int:
    """Images to a shard: whole batches of about SHARD_BYTES, fewer where the memory or the run is small."""
    most = max(1, min(SHARD_BYTES, options.memory // SHARD_PART) // image_bytes)
    most = min(most, n_images, SHARD_IMAGES)
    batch_size = options.batch_size or BATCH
    return most // batch_size * batch_size or most


def choose_streams(
    spec: LayerArray, n_images: int, options: ExtractOptions, n_layers: int, control: Control
) -> tuple[StreamPlan, StreamPlan | None]:
    """Whence a layer's thresholds come, exact in one pass where the memory does; and its distributions, if not thence.

    float16 has a value for each bin of a histogram, which then tells both.
    """
    n = n_images * spec.grid[0] * spec.grid[1]
    room = options.memory // STATE_PART // n_layers
    sketch = StreamPlan(KllSketch.kind, (KLL_K, options.seed)) if options.distributions == "full" else None
    if options.thresholds == "sketch":
        return StreamPlan(ReqSketch.kind, (REQ_K, options.seed)), sketch
    if options.thresholds == "histogram" or (spec.dtype == "float16" and sketch is not None):
        if spec.dtype == "float32":
            return StreamPlan(Histogram.kind), sketch
        needed = Histogram.state_bytes(spec.n_units)
        fits = needed <= room
        is_asked = options.thresholds == "histogram"
        if not fits:
            instead = "" if is_asked else "; the thresholds are exact nevertheless, the distributions are sketched"
            control.say(f"layer {spec.name}: histograms may take {needed / 1e6:.0f} MB, beyond --memory{instead}")
        if fits or is_asked:
            return StreamPlan(Histogram.kind), None
    capacity = max(tail_rank(p, n) for p in options.tails) + 1
    if capacity > LARGEST_CAPACITY:
        got = f"{options.thresholds!r} with {n} activations a unit"
        raise BadInput(
            "--thresholds", got, "up to 2**32 above the threshold", "take histogram or sketch, or a smaller --tail"
        )
    if spec.dtype == "float16":
        return StreamPlan(BinnedTail.kind, (capacity,)), sketch
    needed = BufferedTail.state_bytes(spec.n_units, capacity)
    if needed > room:
        control.say(
            f"layer {spec.name}: the exact float32 thresholds would take {needed / 1e6:.0f} MB in one pass, more than "
            f"--memory allows; they are found exactly in two (bins, then a second pass when scoring)"
        )
        return StreamPlan(BinnedTail.kind, (capacity,)), sketch
    return StreamPlan(BufferedTail.kind, (capacity,)), sketch


def describe_field(field: FieldMap | None) -> dict[str, Any] | None:
    """A field map for run.json."""
    if field is None:
        return None
    return {
        "rows": field.rows.to_json(),
        "columns": field.columns.to_json(),
        "source": field.source,
        "global": field.is_global,
        "text": str(field),
    }


def versions() -> dict[str, str]:
    """Of what bears on the numbers."""
    found = {"python": platform.python_version()}
    for name in ("streamdissect", "torch", "numpy", "zarr", "h5py", "Pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def require_identity(run: RunDir, identity: dict[str, Any]) -> None:
    """BadInput naming the first field in which a run differs from what was asked for."""
    made = run.manifest["identity"]
    for key in sorted(made.keys() | identity.keys()):
        if made.get(key) != identity.get(key) and (key, identity.get(key)) != ("spill", "auto"):  # as was chosen
            hint = f"give --threads {made.get(key)}, " if key == "torch_threads" else ""
            raise BadInput(
                f"run {run.path}, {FIELD_NAMES.get(key, key.replace('_', ' '))}",
                shorten(identity.get(key)),
                f"{shorten(made.get(key))} as when it was made",
                f"{hint}use another --out, or start anew with --overwrite",
            )


def shorten(value: Any) -> str:
    """A value for a message of one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def plain(value: Any) -> Any:
    """An option for run.json."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Fraction) else value
