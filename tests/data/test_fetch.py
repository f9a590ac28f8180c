from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alidade.core.errors import WorkError
from alidade.data import fingerprint
from alidade.data.cifar10 import FILES, FOLDER, read_cifar10
from alidade.data.fetch import fetch_cifar10

Fetch = Callable[..., Path]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and counts, without a word on stderr."""

    def log_message(self, format: str, *args: object) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    root = tmp_path / "served"
    root.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=root)) as served:
        served.requested = []  # type: ignore[attr-defined]
        served.root = root  # type: ignore[attr-defined]
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture
def archive(server: http.server.ThreadingHTTPServer, small_cifar10: Path) -> Path:
    """A small archive in the official layout, served."""
    path: Path = server.root / "cifar.tar.gz"  # type: ignore[attr-defined]
    with tarfile.open(path, "w:gz") as tar:
        tar.add(small_cifar10 / FOLDER, FOLDER)
    return path


@pytest.fixture
def fetch(server: http.server.ThreadingHTTPServer, archive: Path, tmp_path: Path) -> Fetch:
    """Fetch from the local server into ``tmp_path/cache``; the archive's own checksum counts unless told otherwise."""

    def fetch(cache: Path = tmp_path / "cache", known_hash: str | None = None, name: str = archive.name) -> Path:
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        return fetch_cifar10(cache, _url=url, _hash=known_hash or md5(archive))

    return fetch


def md5(path: Path) -> str:
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def add_member(path: Path, change: Callable[[tarfile.TarInfo], None]) -> None:
    """Append a member to the archive that ``change`` has made hostile."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member) if member.isreg() else None) for member in tar]
        contents = [(member, stream.read() if stream else None) for member, stream in members]
    stranger = tarfile.TarInfo(f"{FOLDER}/stranger")
    change(stranger)
    with tarfile.open(path, "w:gz") as tar:
        for member, content in [*contents, (stranger, None)]:
            tar.addfile(member, io.BytesIO(content) if content is not None else None)


def one_line(caught: pytest.ExceptionInfo[WorkError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "--data-dir" in text
    return text


def test_the_archive_is_downloaded_once_and_unpacked(
    fetch: Fetch, small_cifar10: Path, server: http.server.ThreadingHTTPServer
) -> None:
    folder = fetch()
    assert fingerprint(read_cifar10(folder)) == fingerprint(read_cifar10(small_cifar10))
    assert fetch() == folder
    assert len(server.requested) == 1  # type: ignore[attr-defined]
    assert {path.name for path in folder.parent.iterdir()} == {FOLDER, "cifar.tar.gz"}


def test_a_damaged_cache_is_mended_from_the_archive(fetch: Fetch, server: http.server.ThreadingHTTPServer) -> None:
    folder = fetch()
    (folder / FILES[2]).write_bytes(b"half")
    (folder / FILES[3]).unlink()
    read_cifar10(fetch())
    assert len(server.requested) == 1  # type: ignore[attr-defined]


def test_a_damaged_archive_in_the_cache_is_downloaded_again(
    fetch: Fetch, server: http.server.ThreadingHTTPServer
) -> None:
    folder = fetch()
    shutil.rmtree(folder)
    (folder.parent / "cifar.tar.gz").write_bytes(b"half")
    read_cifar10(fetch())
    assert len(server.requested) == 2  # type: ignore[attr-defined]


def test_a_wrong_checksum_leaves_nothing_behind(fetch: Fetch, archive: Path, tmp_path: Path) -> None:
    wrong = "md5:" + "0" * 32
    with pytest.raises(WorkError, match=r"expected CIFAR-10 \(md5:0000") as caught:
        fetch(known_hash=wrong)
    assert md5(archive).removeprefix("md5:") in one_line(caught)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_is_one_line(fetch: Fetch, server: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="Connection refused") as caught:
        fetch_cifar10(tmp_path / "cache", _url="http://127.0.0.1:1/cifar.tar.gz")
    assert "try again when the network is there" in one_line(caught)


def test_a_missing_page_is_one_line(fetch: Fetch) -> None:
    with pytest.raises(WorkError, match="404") as caught:
        fetch(name="elsewhere.tar.gz")
    one_line(caught)


def test_an_unwritable_cache_is_one_line(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match="Not a directory") as caught:
        fetch(cache=tmp_path / "file" / "cache")
    assert str(tmp_path / "file" / "cache") in one_line(caught)


def test_a_cache_without_permission_is_one_line(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError("Pooch could not write to data cache folder")

    monkeypatch.setattr("alidade.data.fetch.pooch.retrieve", refuse)
    with pytest.raises(WorkError, match=r"expected to keep CIFAR-10 .* got Pooch could not write") as caught:
        fetch()
    assert "permissions" in one_line(caught)


def test_a_full_disk_is_one_line_and_leaves_no_half_folder(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(fetch())  # the archive stays
    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(WorkError, match="got No space left on device: make room") as caught:
        fetch()
    one_line(caught)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar.tar.gz"]


def escape(member: tarfile.TarInfo) -> None:
    member.name = f"{FOLDER}/../../escaped"


def absolute(member: tarfile.TarInfo) -> None:
    member.name = "/etc/escaped"


def link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"


def hard_link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname = tarfile.LNKTYPE, "../outside"


def device(member: tarfile.TarInfo) -> None:
    member.type = tarfile.CHRTYPE


def linked_file(member: tarfile.TarInfo) -> None:
    member.name, member.type, member.linkname = f"{FOLDER}/{FILES[0]}", tarfile.SYMTYPE, "/etc/passwd"


@pytest.mark.parametrize("hostile", [escape, absolute, link, hard_link, device, linked_file])
def test_a_hostile_member_is_refused(
    fetch: Fetch, archive: Path, tmp_path: Path, hostile: Callable[[tarfile.TarInfo], None]
) -> None:
    add_member(archive, hostile)
    with pytest.raises(WorkError, match="nothing was unpacked") as caught:
        fetch()
    one_line(caught)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar.tar.gz"]
    assert not (tmp_path / "escaped").exists()


def test_an_archive_that_lacks_a_file_is_refused(fetch: Fetch, archive: Path, small_cifar10: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(small_cifar10 / FOLDER / FILES[0], f"{FOLDER}/{FILES[0]}")
    with pytest.raises(WorkError, match=r"data_batch_2.bin, got no such member") as caught:
        fetch()
    one_line(caught)


def test_a_member_of_another_size_is_refused_before_it_is_written(fetch: Fetch, archive: Path) -> None:
    def bomb(member: tarfile.TarInfo) -> None:
        member.name = f"{FOLDER}/{FILES[0]}"

    add_member(archive, bomb)
    with pytest.raises(WorkError, match=r"data_batch_1.bin of 24584 bytes, got 0 bytes") as caught:
        fetch()
    one_line(caught)


@pytest.mark.parametrize("keep", [40, 2000], ids=["no archive", "cut archive"])
def test_a_truncated_archive_is_one_line(fetch: Fetch, archive: Path, keep: int) -> None:
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(WorkError) as caught:
        fetch()
    one_line(caught)
