"""Files that are there whole or not at all: written beside, synced, renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
ASIDE = ".aside-"
"""Part of the name of a file that is not finished."""


@contextmanager
def replacing(path: str | os.PathLike[str], is_synced: bool = True) -> Iterator[Path]:
    """The name to write to; on leaving without an exception the file is synced and takes the place of `path`.

    Without a sync a crash of the machine can leave it empty or cut: for what is made again where it is damaged.
    """
    path = Path(path)
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
    with replacing(path, is_synced) as aside:
        aside.write_bytes(content)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace a file by a JSON text; floats read back equal."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def create_json(path: str | os.PathLike[str], value: Any) -> bool:
    """Create a file, whole from its first moment; False where one of that name exists already."""
    path = Path(path)
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
    """Remove a directory: it is gone at once, though its content may outlive a kill under another name."""
    path = Path(path)
    aside = path.with_name(f"{path.name}{ASIDE}{secrets.token_hex(4)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


def sync(path: str | os.PathLike[str]) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_file(path: str | os.PathLike[str]) -> str:
    """blake2b hex digest (20 bytes) of a file's content."""
    digest = blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
