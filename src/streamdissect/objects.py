"""Places in an object store, used like paths: `s3://bucket/run` (docs/objects.md)."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

    from obstore.store import S3Store

SCHEME = "s3:"
RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=90)}
"""Of a request that a server did not answer well."""
CLIENT = {"timeout": "10m", "connect_timeout": "10s"}
"""A range may be hundreds of megabytes: what takes long has not failed."""
BUFFER_BYTES = 4 << 20
"""Of an object read piece by piece."""
SAID = {
    "NotFoundError": (errno.ENOENT, "no such object"),
    "PreconditionError": (errno.ESTALE, "replaced meanwhile"),
    "PermissionDeniedError": (errno.EACCES, "access denied; check the AWS_* credentials"),
    "UnauthenticatedError": (errno.EACCES, "not authenticated; check the AWS_* credentials"),
}
"""What becomes of a store's errors; of any other, EIO and its own words."""


def place(path: str | os.PathLike[str]) -> Path:
    """Where a run lies: an `ObjectPath` for `s3://BUCKET/KEY`, else a path.

    BadInput for an address without a bucket, or where obstore is not installed.
    """
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    if not text.startswith(f"{SCHEME}/"):  # a Path has made one slash of two
        return Path(text)
    found = ObjectPath(text)
    if len(found.parts) < 2 or ".." in found.parts:
        raise BadInput("run", repr(text), "s3://BUCKET/RUN", "name the bucket")
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        remedy = 'install it: pip install "streamdissect[s3]"'
        raise BadInput("run", repr(text), "the package obstore for runs in an object store", remedy) from error
    return found


def is_object(path: str | os.PathLike[str]) -> bool:
    """Whether a path, or a text, names a place in an object store."""
    return isinstance(path, ObjectPath) or os.fspath(path).startswith(f"{SCHEME}/")


def require_local(path: str | os.PathLike[str], option: str, what: str) -> None:
    """BadInput for a place in an object store, where only one of this machine will do."""
    if is_object(path):
        got = f"{os.fspath(path) if isinstance(path, str) else str(path)!r}, in an object store"
        raise BadInput(option, got, f"{what} of this machine", "give one, and send it there when it is made")


class ObjectPath(PosixPath):
    """A path whose files are objects. What is not defined here and would touch a disk raises TypeError.

    A folder is there as long as an object lies below it. Errors are those of the system: FileNotFoundError,
    PermissionError, and OSError with EIO for others; BadInput where there is no such bucket.
    """

    def __str__(self) -> str:
        if self.parts[:1] != (SCHEME,):  # relative to another
            return "/".join(self.parts)
        return f"{SCHEME}//{'/'.join(self.parts[1:])}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __fspath__(self) -> str:
        raise TypeError(f"{self}: an object, not a file")

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        return "/".join(self.parts[2:])

    @property
    def store(self) -> S3Store:
        """The bucket."""
        return bucket(self.parts[1], os.getpid())

    def store_below(self) -> S3Store:
        """What lies below, as a store of its own."""
        return bucket(self.parts[1], os.getpid(), self.key)

    def absolute(self) -> Self:
        return self

    def resolve(self, strict: bool = False) -> Self:
        return self

    def is_symlink(self) -> bool:
        return False

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder comes with what lies in it."""

    def head(self) -> Any:
        """What the store says of the object."""
        import obstore

        with naming(self):
            return obstore.head(self.store, self.key)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of the last change, which are whole seconds; the inode stands for the content's tag."""
        meta = self.head()
        seconds = meta["last_modified"].timestamp()
        inode = hash(meta["e_tag"]) & 0x7FFFFFFF
        said = (stat.S_IFREG | 0o644, inode, 0, 1, 0, 0, meta["size"], *[int(seconds)] * 3)
        return os.stat_result(said, {"st_mtime": seconds, "st_mtime_ns": int(seconds) * 10**9})

    def is_file(self) -> bool:
        try:
            return bool(self.key) and self.head() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        return next(self._listed(chunk_size=1), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def _listed(self, chunk_size: int = 1000) -> Iterator[Any]:
        """What the store says of the objects below, by pages."""
        import obstore

        with naming(self):
            for page in obstore.list(self.store, f"{self.key}/" if self.key else None, chunk_size=chunk_size):
                yield from page

    def keys_below(self) -> list[str]:
        """Names in the bucket of all objects below."""
        return [meta["path"] for meta in self._listed()]

    def n_bytes(self) -> int:
        """Of all objects below."""
        return sum(meta["size"] for meta in self._listed())

    def iterdir(self) -> Generator[Self, None, None]:
        import obstore

        with naming(self):
            found = obstore.list_with_delimiter(self.store, f"{self.key}/" if self.key else None)
        names = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        for name in sorted(names):
            yield self / name.rstrip("/").rpartition("/")[2]

    def glob(self, pattern: str) -> Generator[Self, None, None]:  # type: ignore[override, unused-ignore]
        """As of any folder, for patterns without `**`."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if not fnmatchcase(path.name, first):
                continue
            if not rest:
                yield path
            elif any(sign in rest for sign in "*?["):
                yield from path.glob(rest)
            elif (path / rest).exists():
                yield path / rest

    def rglob(self, pattern: str) -> Generator[Self, None, None]:  # type: ignore[override, unused-ignore]
        """The objects below whose name fits."""
        for key in self.keys_below():
            if fnmatchcase(key.rpartition("/")[2], pattern):
                yield type(self)(SCHEME, self.parts[1], key)

    def read_bytes(self) -> bytes:
        import obstore

        with naming(self):
            return bytes(obstore.get(self.store, self.key).bytes())

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_range(self, start: int, n_bytes: int, e_tag: str | None = None) -> memoryview:
        """Some of the content, which ends where the object does; empty for none.

        OSError with ESTALE where the object is no longer the one of a tag.
        """
        import obstore

        if n_bytes <= 0:
            return memoryview(b"")
        options: Any = {"range": (start, start + n_bytes), **({"if_match": e_tag} if e_tag else {})}
        with naming(self):
            return memoryview(obstore.get(self.store, self.key, options=options).bytes())

    def read_end(self, n_bytes: int) -> tuple[int, memoryview]:
        """How long the content is, and its last bytes."""
        import obstore

        with naming(self):
            got = obstore.get(self.store, self.key, options={"range": {"suffix": n_bytes}})
            return int(got.meta["size"]), memoryview(got.bytes())

    def iter_bytes(self) -> Iterator[memoryview]:
        """The content piece by piece."""
        import obstore

        with naming(self):
            for piece in obstore.get(self.store, self.key).stream(BUFFER_BYTES):
                yield memoryview(piece)

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """The content as a file that is read by ranges; only `rb`."""
        if mode != "rb":
            raise TypeError(f"{self}: an object is written whole")
        return io.BufferedReader(RangedFile(self), BUFFER_BYTES)

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        if not missing_ok:
            self.head()
        with naming(self):
            obstore.delete(self.store, self.key)

    def put(self, content: bytes | Path) -> None:
        """Replace the object, at once, by bytes or a local file's content."""
        import obstore

        with naming(self):
            obstore.put(self.store, self.key, content)

    def put_new(self, content: bytes) -> bool:
        """Create the object; False where one is there already, unless it is this one.

        A request may have been served though its answer was lost: tried again, it meets its own object.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with naming(self):
            try:
                obstore.put(self.store, self.key, content, mode="create")
            except AlreadyExistsError:
                try:
                    return self.read_bytes() == content
                except FileNotFoundError:
                    return False
        return True

    def renew(self) -> None:
        """Bring the time of the last change to now, if nobody else changes the object meanwhile."""
        import obstore
        from obstore.exceptions import NotFoundError, PreconditionError

        with naming(self):
            try:
                got = obstore.get(self.store, self.key)
                content = bytes(got.bytes())
                obstore.put(self.store, self.key, content, mode={"e_tag": got.meta["e_tag"]})
            except (FileNotFoundError, NotFoundError, PreconditionError):
                return

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove objects of this bucket."""
        import obstore

        if keys:
            with naming(self):
                obstore.delete(self.store, list(keys))


class RangedFile(io.RawIOBase):
    """An object as a file: each read is a request for a range, and fails where it was replaced since it was opened."""

    def __init__(self, path: ObjectPath) -> None:
        super().__init__()
        meta = path.head()
        self._path, self._size, self._tag, self._at = path, int(meta["size"]), meta["e_tag"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise OSError(errno.EINVAL, "a place before the beginning", str(self._path))
        return self._at

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        got = self._path.read_range(self._at, min(len(view), self._size - self._at), self._tag)
        view[: len(got)] = got
        self._at += len(got)
        return len(got)


@lru_cache(maxsize=64)
def bucket(name: str, pid: int, prefix: str | None = None) -> S3Store:
    """A bucket, by what the environment says of the service; a process that was forked opens it anew."""
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    settings: Any = {key: value for key, value in CLIENT.items() if f"AWS_{key.upper()}" not in os.environ}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):  # whoever names it so has allowed it
        settings["allow_http"] = "true"
    try:
        return S3Store(name, prefix=prefix, config=settings, retry_config=RETRY)  # type: ignore[arg-type, unused-ignore]
    except BaseError as error:
        raise BadInput("object store", f"settings that cannot be used ({first_line(error)})", "AWS_* variables of a "
                       "service", "correct them") from error  # fmt: skip


@contextmanager
def naming(path: ObjectPath) -> Iterator[None]:
    """Turn a store's errors into the system's, with the object's name."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # named already, or a local file's
        refuse(path, error)


def refuse(path: ObjectPath, error: Exception) -> NoReturn:
    """Raise what an error of a store means."""
    text = str(error)
    if "NoSuchBucket" in text:
        remedy = "create it, or correct the name or AWS_ENDPOINT_URL"
        raise BadInput("run", f"{str(path)!r} (no such bucket)", "a bucket that exists", remedy) from error
    kind = "NotFoundError" if isinstance(error, FileNotFoundError) else type(error).__name__
    number, said = SAID.get(kind, (errno.EIO, first_line(error)))
    if "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text or "AccessDenied" in text:
        number, said = SAID["PermissionDeniedError"]
    raise OSError(number, said, str(path)) from error


def first_line(error: Exception) -> str:
    """An error's words without the lines that follow."""
    return str(error).strip().partition("\n")[0]
