"""Files that are there whole or not at all: written beside, synced, renamed; objects are put whole by themselves."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .objects import ObjectPath, place

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
ASIDE = ".aside-"
"""Part of the name of a file that is not finished."""


@contextmanager
def replacing(path: str | os.PathLike[str], is_synced: bool = True) -> Iterator[Path]:
    """The name to write to; on leaving without an exception the file is synced and takes the place of `path`.

    Without a sync a crash of the machine can leave it empty or cut: for what is made again where it is damaged. What
    becomes an object is written to a temporary file here, which is removed when it is sent.
    """
    path = place(path)
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="streamdissect-") as folder:
            made = Path(folder) / path.name
            yield made
            path.put(made)
        return
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        yield aside
        if is_synced:
            sync(aside)
        os.replace(aside, path)
        if is_synced:
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes, is_synced: bool = True) -> None:
    """Replace a file; see `replacing`."""
    if isinstance(path, ObjectPath):
        path.put(content)
        return
    with replacing(path, is_synced) as aside:
        aside.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace a file by a JSON text; floats read back equal."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A JSON text, indented, with a newline at its end."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def create_json(path: str | os.PathLike[str], value: Any) -> bool:
    """Create a file, whole from its first moment; False where one of that name exists already."""
    path = place(path)
    if isinstance(path, ObjectPath):
        return path.put_new(json_bytes(value))
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        aside.write_bytes(json_bytes(value))
        sync(aside)
        link(aside, path)
        sync(path.parent)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            aside.unlink()
    return True


def link(source: Path, target: Path) -> None:
    """Give a file a second name; FileExistsError if that is taken, unlike a rename."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(target, "xb") as file:  # exFAT and the like: exclusive all the same, though not whole at once
            file.write(source.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a directory: it is gone at once, though its content may outlive a kill under another name.

    Objects go one after the other. Those that are numbered, as a shard's are, go before those that are not: what a kill
    leaves of them still lies beside the settings it was made by, and passes for nothing else.
    """
    path = place(path)
    if isinstance(path, ObjectPath):
        keys = path.keys_below()
        is_numbered = [key.rpartition("/")[2][:1].isdigit() for key in keys]
        path.remove_all([key for key, first in zip(keys, is_numbered, strict=True) if first])
        path.remove_all([key for key, first in zip(keys, is_numbered, strict=True) if not first])
        return
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


def sync(path: str | os.PathLike[str]) -> None:
    """Bring a file, or a folder's list of names, to the disk; an object is there once it is put."""
    if isinstance(path, ObjectPath):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_file(path: str | os.PathLike[str]) -> str:
    """blake2b hex digest (20 bytes) of a file's content."""
    digest = blake2b(digest_size=20)
    if isinstance(path, ObjectPath):
        for piece in path.iter_bytes():
            digest.update(piece)
        return digest.hexdigest()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """What a commit says of a file: its bytes and their digest."""
    return {"bytes": path.stat().st_size, "blake2b": digest_file(path)}


def renew(path: Path) -> None:
    """Bring the time of a file's last change to now."""
    if isinstance(path, ObjectPath):
        path.renew()
    else:
        os.utime(path)


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file to read: itself, or, of an object, a temporary copy."""
    if not isinstance(path, ObjectPath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="streamdissect-") as folder:
        copy = Path(folder) / path.name
        with open(copy, "wb") as file:
            for piece in path.iter_bytes():
                file.write(piece)
        yield copy
