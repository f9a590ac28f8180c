"""Studies on other file systems than the machine's own: whatever fsspec knows."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from tests.console import alidade, error_line
from tests.studies import ENVIRONMENT, run_spec, segments, training_rows, write_study
from upath import UPath

import alidade as package
from alidade.core.errors import CallError, WorkError
from alidade.core.probes import PlannedRun
from alidade.core.records import Row
from alidade.report.page import write_page
from alidade.store import export, finished_segments, load, open_study, place, write_manifest, write_run
from alidade.store.places import is_in_memory, is_local
from alidade.survey import Survey
from alidade.sweeps.plan import remaining

CONTENT = training_rows([2.0, 1.0])


class DiskElsewhere(LocalFileSystem):
    """A file system across processes that is no path of the machine's own, as a server's would be."""

    protocol = "elsewhere"


class Unplugged(MemoryFileSystem):
    """Fails as remote ones do: with errors that are no OSError."""

    protocol = "unplugged"

    def info(self, path: str, **options: object) -> dict[str, object]:
        raise RuntimeError("Could not connect\nto the endpoint")


class Filled(MemoryFileSystem):
    """Takes nothing, and says so in its own words."""

    protocol = "filled"

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        raise RuntimeError("the bucket is read-only")


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of its own in the memory of this process."""
    root = f"memory://{uuid.uuid4().hex}/study"
    yield root
    fsspec.filesystem("memory").rm(root.removesuffix("/study"), recursive=True)


def test_a_study_elsewhere_reads_as_the_same_study_on_the_disk(memory: str, tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(100, 101))
    write_study(place(memory), seeds=(100, 101))
    there, here = open_study(place(memory)), open_study(tmp_path)
    assert there.frame.equals(here.frame, null_equal=True)
    assert there.frame.height == 10
    assert (there.specs, there.manifest, there.environments) == (here.specs, here.manifest, here.environments)
    assert package.load(memory).equals(load(tmp_path), null_equal=True)
    assert package.load(f"file://{tmp_path}").equals(load(tmp_path), null_equal=True)


def test_a_segment_is_added_and_a_training_that_does_not_repeat_is_refused(memory: str) -> None:
    root, spec = place(memory), run_spec()
    assert finished_segments(root, spec.run_id) == frozenset()
    write_run(root, spec, segments(training=CONTENT), ENVIRONMENT)
    write_run(root, spec, segments(training=CONTENT, probe=[Row(0, "loss", 2.5, "nat")]), ENVIRONMENT)
    assert finished_segments(root, spec.run_id) == {"training", "probe"}
    with pytest.raises(WorkError, match="expected the training to repeat bit for bit"):
        write_run(root, spec, segments(training=training_rows([2.0, 1.5])), ENVIRONMENT)
    assert load(memory).height == len(CONTENT) + 1


def test_a_damaged_segment_elsewhere_is_named_and_the_rest_is_served(memory: str) -> None:
    write_study(place(memory))
    file = place(memory) / run_spec().run_id / "training.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=r"^memory://.*training\.parquet: expected the file as it was written"):
        assert load(memory)["quantity"].to_list() == ["loss"]


@pytest.mark.parametrize("name", ["DONE", "spec.json"])
def test_damage_elsewhere_is_named_and_never_read(name: str, memory: str) -> None:
    write_study(place(memory))
    file = place(memory) / run_spec().run_id / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(WorkError, match=rf"^memory://.*{name}: expected the file as it was written"):
        load(memory)


def test_a_damaged_run_is_set_aside_and_missing(memory: str) -> None:
    root, said = place(memory), list[str]()
    write_study(root, seeds=(100, 101))
    whole = load(root)
    run = PlannedRun(spec=run_spec(100))
    file = root / run.spec.run_id / "training.parquet"
    file.write_bytes(b"nothing")
    assert remaining(root, [run, PlannedRun(spec=run_spec(101))], said.append) == [run]
    assert said == [f"{file}: damaged; the run is now in {root / 'damaged' / run.spec.run_id}.0 and is measured again"]
    assert (root / "damaged" / f"{run.spec.run_id}.0" / "training.parquet").read_bytes() == b"nothing"
    write_study(root, seeds=(100, 101))
    assert load(root).equals(whole, null_equal=True)


def test_report_and_table_go_where_they_are_sent(memory: str) -> None:
    root = place(memory)
    write_study(root)
    page = write_page(root / "report.html", open_study(root), [])
    assert page.read_bytes().startswith(b"<!doctype html>")
    export(load(memory), "csv", root / "tables" / "all.csv")
    assert (root / "tables" / "all.csv").read_bytes().decode() == load(memory).write_csv()


def test_what_another_process_writes_is_seen(tmp_path: Path) -> None:
    """Nothing of an earlier listing is remembered."""
    fsspec.register_implementation("elsewhere", DiskElsewhere, clobber=True)
    root = place(UPath(f"elsewhere://{tmp_path}/study"))
    assert not is_local(root)
    write_study(root, seeds=(100,))
    assert set(load(root)["seed"]) == {100}
    program = (
        "import fsspec, sys; from tests.store.test_places import DiskElsewhere; from tests.studies import write_study;"
        "from alidade.store import place; fsspec.register_implementation('elsewhere', DiskElsewhere);"
        "write_study(place(sys.argv[1]), seeds=(100, 101))"
    )
    subprocess.run([sys.executable, "-c", program, str(root)], check=True, cwd=Path(__file__).parents[2])
    assert set(load(root)["seed"]) == {100, 101}
    assert load(root).equals(load(tmp_path / "study"), null_equal=True)
    assert not list(tmp_path.rglob(".*"))  # neither locks nor halves


@pytest.mark.parametrize(
    ("where", "kind"),
    [("runs/a", "local"), ("file:///runs/a", "local"), ("local:///runs/a", "local"), ("memory://runs/a", "memory")],
)
def test_a_place_is_a_path_wherever_the_system_knows_it(where: str, kind: str) -> None:
    assert (is_local(place(where)), is_in_memory(place(where))) == (kind == "local", kind == "memory")
    assert place(place(where)) == place(where)
    assert str(place(where) / "b").endswith("runs/a/b")


def test_a_url_that_leads_nowhere_is_one_line() -> None:
    with pytest.raises(CallError, match=r"out: expected a path, or a URL such as .*, got 'nowhere://x': .*nowhere"):
        place("nowhere://x")
    with pytest.raises(CallError, match="load: expected the path of a folder, got 3"):
        load(3)  # type: ignore[arg-type]
    fsspec.register_implementation("unplugged", Unplugged, clobber=True)
    with pytest.raises(WorkError, match=r"^unplugged://x: .*got: Could not connect to the endpoint; check the address"):
        place(UPath("unplugged://x"))
    with pytest.raises(CallError, match=r"memory://gone: expected a folder with runs, found none"):
        load("memory://gone")


def test_a_place_that_takes_nothing_is_one_line() -> None:
    fsspec.register_implementation("filled", Filled, clobber=True)
    root = place(UPath("filled://study"))
    with pytest.raises(WorkError, match=r"could not be written \(the bucket is read-only\); free space"):
        write_run(root, run_spec(), segments(training=CONTENT), ENVIRONMENT)
    with pytest.raises(WorkError, match=r"expected a folder that can be written, got: the bucket is read-only"):
        write_manifest(root, {"settings": {}, "experiments": {}})


def test_a_survey_stays_on_the_machine() -> None:
    from torch import nn, optim

    model = nn.Linear(2, 1)
    with pytest.raises(CallError, match="out: expected a folder of this machine, got memory://x"):
        Survey(model, lambda model, batch: model(batch).sum(), optim.SGD(model.parameters(), 0.1), out="memory://x")


def test_the_commands_take_urls(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    url = f"file://{tmp_path}/study"
    assert "100" in alidade("export", url, "--to", "csv").stdout
    assert alidade("report", url, "--out", f"file://{tmp_path}/page.html").stdout.strip() == f"{tmp_path}/page.html"
    assert (tmp_path / "page.html").exists()
    line = error_line(alidade("claims", "nowhere://x"), 2)
    assert "expected a path, or a URL such as s3://bucket/folder, got 'nowhere://x'" in line
