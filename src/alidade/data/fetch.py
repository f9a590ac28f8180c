"""Download of CIFAR-10: once, verified, unpacked without trusting the archive."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

import pooch

from alidade.core.errors import WorkError
from alidade.data.cifar10 import FILES, FOLDER, file_bytes, is_complete

_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_HASH = "md5:c32a1d4ab5d03f1284b67883e8d87530"  # as published beside the archive
_CHUNK_BYTES = 1 << 20


def fetch_cifar10(cache_dir: Path | None = None, *, _url: str = _URL, _hash: str = _HASH) -> Path:
    """The folder with CIFAR-10's binary files, downloaded (170 MB) and unpacked (184 MB) at the first call.

    ``cache_dir`` defaults to the user's cache folder. A folder that is complete is used as it is; an archive that
    is already there is verified and used; otherwise it is downloaded, with a progress bar on a terminal.

    Raises:
        WorkError: no network, a wrong checksum, a full disk, a cache that cannot be written, or an archive that
            holds anything but what it should.
    """
    cache = Path(cache_dir) if cache_dir is not None else Path(pooch.os_cache("alidade"))
    try:
        if not is_complete(cache / FOLDER):
            cache.mkdir(parents=True, exist_ok=True)
            _install(_download(cache, _url, _hash), cache)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise WorkError(
            f"expected to keep CIFAR-10 (about 360 MB) in {cache}, got {_one_line(error)}: make room or mend the "
            "permissions there, or unpack the archive elsewhere and pass --data-dir FOLDER"
        ) from error
    return cache / FOLDER


def _download(cache: Path, url: str, known_hash: str) -> Path:
    """The verified archive in ``cache``. Trouble with the disk stays an OSError."""
    fetcher = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=_CHUNK_BYTES)
    try:
        return Path(pooch.retrieve(url, known_hash, fname=Path(url).name, path=cache, downloader=fetcher))
    except (OSError, ValueError) as error:
        failed_request = isinstance(error, OSError) and error.errno is None and not isinstance(error, PermissionError)
        if isinstance(error, OSError) and not failed_request:
            raise
        raise WorkError(
            f"expected CIFAR-10 ({known_hash}) from {url}, got {_one_line(error)}: try again when the network is "
            "there, or get the binary version another way and pass --data-dir FOLDER"
        ) from error


def _install(archive: Path, cache: Path) -> None:
    """Unpack into a temporary folder and move the complete result into place in one step."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as temporary:
        fresh, target = Path(temporary, FOLDER), cache / FOLDER
        fresh.mkdir()
        _unpack(archive, fresh)
        if target.exists() and not is_complete(target):
            target.rename(Path(temporary, "damaged"))
        try:
            fresh.rename(target)
        except OSError:
            if not is_complete(target):  # if it is, another process was faster: as good
                raise


def _unpack(archive: Path, folder: Path) -> None:
    """Write the six files that we know by name into ``folder``: no name or link in the archive decides a path.

    Stricter than tarfile's filter "data", and there on every Python 3.11 (the filter came with 3.11.4).
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            _refuse_stranger(archive, member)
        for file in FILES:
            content = tar.extractfile(_find_member(archive, tar, f"{FOLDER}/{file}"))
            assert content is not None  # it is a regular file
            with content, (folder / file).open("xb") as out:
                shutil.copyfileobj(content, out)


def _refuse_stranger(archive: Path, member: tarfile.TarInfo) -> None:
    parts = PurePosixPath(member.name).parts
    if parts[:1] != (FOLDER,) or ".." in parts or not (member.isreg() or member.isdir()):
        raise _bad_archive(archive, f"files and folders in {FOLDER} only", f"{member.name!r}")


def _find_member(archive: Path, tar: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    try:
        member = tar.getmember(name)
    except KeyError:
        raise _bad_archive(archive, name, "no such member") from None
    if not member.isreg() or member.size != file_bytes():
        raise _bad_archive(archive, f"{name} of {file_bytes()} bytes", f"{member.size} bytes")
    return member


def _bad_archive(archive: Path, expected: str, came: str) -> WorkError:
    return WorkError(
        f"{archive}: expected {expected}, got {came}: nothing was unpacked; delete the archive and try again, or get "
        "CIFAR-10 another way and pass --data-dir FOLDER"
    )


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
