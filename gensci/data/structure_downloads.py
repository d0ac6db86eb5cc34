"""Raw files of the named sets: found in a folder, or downloaded, resumed and verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensci.core.errors import GensciError, UsageError

_BLOCK = 1 << 16
_ATTEMPTS, _PAUSE, _TIMEOUT = 4, 0.5, 60.0  # tries, seconds, seconds


@dataclass(frozen=True)
class RawFile:
    """A file as its publisher has it.

    Attributes:
        name: under which it is kept.
        url: where it is published.
        size: in bytes, None where unknown.
        sha256: of its bytes, None where unknown.
        aliases: other names of copies with the same rows.
        git_blob: the name that git gives to its content (SHA-1), None where unknown.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    aliases: tuple[str, ...] = ()
    git_blob: str | None = None


def obtain(
    file: RawFile,
    folder: Path,
    origin: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Path:
    """The path of a raw file.

    Args:
        file: what is wanted.
        folder: where downloads are kept, for the next time too.
        origin: a folder that has the file, in it or one level below, or the address of a mirror
            that has it under its name; by default the publisher's address.
        progress: told of a download in words.

    Raises:
        UsageError: the folder ``origin`` has no such file.
        GensciError: it cannot be downloaded, or is not the expected file.
    """
    if origin is not None and "://" not in origin:
        return find(file, Path(origin))
    path = folder / file.name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    url = file.url if origin is None else f"{origin.rstrip('/')}/{urllib.parse.quote(file.name)}"
    if progress is not None:
        progress(f"downloading {url}")
    download(url, path, file)
    return path


def find(file: RawFile, folder: Path) -> Path:
    """A raw file in a folder or one level below.

    Raises:
        UsageError: it is not there.
    """
    for name in (file.name, *file.aliases):
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if path.is_file():
                return path
    raise UsageError(f"--from {folder} has no file {file.name}", f"it is published at {file.url}")


def download(url: str, path: Path, file: RawFile) -> None:
    """Download to ``path``; what a broken connection or a kill left behind is continued.

    Raises:
        GensciError: the server refuses, the connection keeps breaking, or the bytes are not those
            that ``file`` promises.
    """
    part = path.with_name(f"{path.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            _fetch(url, part, file.size)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == _ATTEMPTS - 1:
                raise _failure(url, f"the server answers {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS - 1:
                raise _failure(url, str(error) or type(error).__name__) from error
        time.sleep(_PAUSE * 2**attempt)
    verify(part, url, file)
    part.replace(path)


def _failure(url: str, reason: str) -> GensciError:
    return GensciError(
        f"{url} cannot be downloaded ({reason})",
        "the same command again continues; files at hand are given with --from FOLDER",
    )


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Append what is missing of ``part``."""
    start = part.stat().st_size if part.is_file() else 0
    if size is not None and start >= size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "gensci"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return
        raise
    with response:
        if start and response.status != 206:  # the server sends all of it again
            start = 0
        with part.open("ab" if start else "wb") as handle:
            expected = response.headers.get("Content-Length")
            received = 0
            while block := response.read(_BLOCK):
                handle.write(block)
                received += len(block)
            handle.flush()
            os.fsync(handle.fileno())
    if expected is not None and received < int(expected):
        raise ConnectionError(f"the connection broke after {start + received} bytes")


def verify(path: Path, url: str, file: RawFile) -> None:
    """Compare a downloaded file with what is known of it, and remove it where it differs.

    Raises:
        GensciError: size or checksum are others.
    """
    size = path.stat().st_size
    compared = [
        ("size", file.size, size),
        ("SHA-256", file.sha256, sha256(path) if file.sha256 else None),
        ("git blob", file.git_blob, git_blob(path) if file.git_blob else None),
    ]
    for what, expected, found in compared:
        if expected is not None and found != expected:
            path.unlink()
            raise GensciError(
                f"{url} sent {size} bytes of {what} {found}, expected is {expected}",
                "try again, or give a copy with --from FOLDER",
            )


def sha256(path: Path) -> str:
    """Of the bytes of a file."""
    return _digest(path, hashlib.sha256())


def git_blob(path: Path) -> str:
    """SHA-1 by which git knows the content of a file."""
    return _digest(path, hashlib.sha1(f"blob {path.stat().st_size}\0".encode()))


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
