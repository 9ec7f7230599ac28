"""Whole networks in files: exported programs, which are read on trust, and the kinds that cannot be dissected."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import blake2b, file_digest
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.unflatten import InterpreterModule, UnflattenedModule

from ..errors import BadInput
from .weights import PICKLED, is_torchscript, read_state

EXPORTED = ".pt2"
TORCHSCRIPT = (".ts", ".torchscript")
WHOLE = (EXPORTED, *TORCHSCRIPT, *PICKLED, ".safetensors", ".onnx")
"""Endings of files that hold a network or its weights, and no code of Python."""
DYNAMIC = "dynamic_shapes=({0: torch.export.Dim('batch')},)"
EXPORT = f"torch.export.save(torch.export.export(model.eval(), (example,), {DYNAMIC}), 'model.pt2')"
"""What to type; `example` is a batch of two images."""


def load_program(spec: str, path: str, trust: bool) -> tuple[nn.Module, str]:
    """Modules with hooks that fire, from an exported program, and the digest of the file (blake2b, 32 hex digits).

    Raises
    ------
    BadInput
        The file is missing, damaged or something else, was not trusted, was exported in training mode, or takes more
        than images.
    """
    require_file(spec, path)
    if not path.endswith(EXPORTED) or is_torchscript(path):
        raise refused_file(spec, path)
    if not trust:
        got = f"{spec!r}, an exported program, which can run code when it is read"
        remedy = "give it if you trust where the file comes from"
        raise BadInput("model", got, "--trust-model (in Python trust_model=True) with it", remedy)
    with quiet_torch() as log:
        try:
            program = torch.export.load(path)
            refuse_inputs(spec, program)
            refuse_training(spec, program)
            module = torch.export.unflatten(program)
        except BadInput:
            raise
        except Exception as error:  # of any kind: zip, JSON, versions, operators that are not there
            cause = log.error or error
            reason = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0].partition('. ')[0]}"
            expected = f"an exported program that PyTorch {torch.__version__} reads ({reason})"
            raise BadInput("model", repr(spec), expected, f"write it with {EXPORT}") from error
    with open(path, "rb") as file:
        return module, file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def require_file(spec: str, path: str) -> None:
    """BadInput that names the nearest file where there is none."""
    if not os.path.isfile(path):
        folder = Path(path).parent
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        near = get_close_matches(Path(path).name, names, 1)
        raise BadInput("model", repr(spec), f"a file {path}", f"nearest is {near[0]!r}" if near else "check the path")


def refused_file(spec: str, path: str) -> BadInput:
    """Why a file that is no exported program is no network either, and the way out."""
    expected = "a callable that builds the network, or an exported program (.pt2)"
    if path.endswith(TORCHSCRIPT) or is_torchscript(path):
        remedy = f"name the callable that makes the module it came from, or export that: {EXPORT}"
        return BadInput("model", f"{spec!r}, a TorchScript program, whose layers take no hooks", expected, remedy)
    try:
        read_state(path)
    except BadInput:
        remedy = f"name the callable that builds it, its state_dict() as --weights, or export it: {EXPORT}"
        return BadInput("model", f"{spec!r}, a file that is no plain state dict", expected, remedy)
    remedy = f"give it as --weights {path}, and the callable that builds the network as --model"
    return BadInput("model", f"{spec!r}, which holds weights only", expected, remedy)


class Silence(logging.Filter):
    """Lets nothing pass, and keeps the last error of which it heard."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """False; PyTorch logs whole tracebacks where one line is wanted."""
        if record.exc_info:
            self.error = record.exc_info[1]
        return False


@contextmanager
def quiet_torch() -> Iterator[Silence]:
    """Without the warnings of PyTorch about its own code, and without its log of reading exported programs."""
    silence, logger = Silence(), logging.getLogger("torch.export")
    logger.addFilter(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield silence
    finally:
        logger.removeFilter(silence)


def refuse_inputs(spec: str, program: ExportedProgram) -> None:
    """BadInput where the program takes anything but one tensor."""
    n = len(program.graph_signature.user_inputs)
    if n != 1:
        remedy = "export a module around it whose forward takes just the images"
        raise BadInput("model", f"{spec!r}, a program with {n} inputs", "one, the images", remedy)


def refuse_training(spec: str, program: ExportedProgram) -> None:
    """BadInput where the program drops out or normalises by the batch: nothing could put it into evaluation mode."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        given = {argument.name: argument.default_value for argument in schema.arguments}
        given |= dict(zip(given, node.args, strict=False)) | node.kwargs
        is_training = given.get("training") is True and given.get("running_mean") is not None
        if is_training or (given.get("train") is True and given.get("p")) or given.get("dropout_p"):
            got = f"{spec!r}, exported in training mode ({schema.name.removeprefix('aten::')})"
            raise BadInput("model", got, "a program exported in evaluation mode", f"export it anew: {EXPORT}")


def class_name(module: nn.Module) -> str:
    """What a module was before it was exported, or is."""
    name = module.type_name() if isinstance(module, InterpreterModule) else None
    return (name or type(module).__name__).rpartition(".")[2]


def is_exported_graph(module: nn.Module) -> bool:
    """Whether this is `ep.module()`, one graph that calls no submodule; it is known by refusing to change its mode."""
    if not isinstance(module, torch.fx.GraphModule):
        return False
    try:
        module.train(module.training)
    except NotImplementedError:
        return True
    return False


def fixed_shape(module: nn.Module) -> tuple[int | None, ...] | None:
    """(B, C, rows, columns) of the one input an exported program takes, None where any will do; else None."""
    if not isinstance(module, UnflattenedModule):
        return None
    for node in module.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, Tensor) and value.ndim == 4:
            return tuple(extent if isinstance(extent, int) else None for extent in value.shape)
    return None


def fixed_batch(module: nn.Module) -> int | None:
    """Images in the batch that an exported program demands."""
    shape = fixed_shape(module)
    return None if shape is None else shape[0]


def check_images(module: nn.Module, shape: tuple[int, ...]) -> None:
    """BadInput where an exported program takes no images (B, 3, rows, columns) of that shape."""
    fixed = fixed_shape(module)
    if fixed is None or len(shape) != 4:
        return
    if fixed[1] not in (None, shape[1]):
        remedy = "export a network that takes colour images"
        raise BadInput("model", f"a program exported for {fixed[1]} channels", f"{shape[1]} channels", remedy)
    if any(extent not in (None, given) for extent, given in zip(fixed[2:], shape[2:], strict=True)):
        rows, columns = (extent or given for extent, given in zip(fixed[2:], shape[2:], strict=True))
        expected = f"{rows}x{columns}, for which this program was exported"
        raise BadInput("images", f"{shape[2]}x{shape[3]}", expected, f"give --input-size {rows} {columns}")
    if fixed[0] not in (None, shape[0]):
        expected = f"{fixed[0]}, the batch for which this program was exported"
        remedy = f"give --batch-size {fixed[0]}, or export it for any batch: torch.export.export(..., {DYNAMIC})"
        raise BadInput("images in a batch", str(shape[0]), expected, remedy)


def check_batches(module: nn.Module, n_images: int, batch_size: int, shard_images: int | None) -> None:
    """BadInput, before any work, where an exported program of a fixed batch would meet a batch of another size."""
    fixed = fixed_batch(module)
    if fixed is None:
        return
    remedy = f"export it for any batch: torch.export.export(..., {DYNAMIC})"
    if batch_size != fixed:
        expected = f"{fixed}, the batch for which this program was exported"
        raise BadInput("--batch-size", str(batch_size), expected, f"give --batch-size {fixed}, or {remedy}")
    expected = f"a multiple of {fixed}, the batch for which this program was exported"
    if n_images % fixed:
        hint = f"give --limit {n_images // fixed * fixed}, or " if n_images >= fixed else ""
        raise BadInput("images", str(n_images), expected, hint + remedy)
    if shard_images is not None and shard_images < n_images and shard_images % fixed:
        raise BadInput("--shard-images", str(shard_images), expected, f"correct it, or {remedy}")
