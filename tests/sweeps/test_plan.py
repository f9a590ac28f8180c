from __future__ import annotations

from pathlib import Path

from tests.studies import ENVIRONMENT, run_spec, segments, training_rows

from alidade.core.probes import EvaluationProbe, LineProfileProbe, PlannedRun
from alidade.store import write_run
from alidade.store.checkpoints import CHECKPOINT, write_checkpoint
from alidade.sweeps.plan import missing, remaining, union

LINE, OTHER, TEST = LineProfileProbe(step_sizes=(0.1,)), LineProfileProbe(step_sizes=(0.2,)), EvaluationProbe()


def test_one_training_serves_all_who_want_to_look() -> None:
    plans = [
        PlannedRun(spec=run_spec(101), probes=(TEST,)),
        PlannedRun(spec=run_spec(100), probes=(LINE, TEST)),
        PlannedRun(spec=run_spec(101), probes=(TEST, OTHER)),
    ]
    assert union(plans) == [
        PlannedRun(spec=run_spec(101), probes=(TEST, OTHER)),
        PlannedRun(spec=run_spec(100), probes=(LINE, TEST)),
    ]
    assert union([]) == []


def test_what_is_missing_is_what_the_folder_lacks(tmp_path: Path) -> None:
    planned = PlannedRun(spec=run_spec(), probes=(LINE, TEST))
    assert missing(tmp_path, planned) == planned
    content = {"training": training_rows([1.0]), LINE.probe_id: []}
    write_run(tmp_path, run_spec(), segments(**content), ENVIRONMENT)
    assert missing(tmp_path, planned) == PlannedRun(spec=run_spec(), probes=(TEST,))
    write_run(tmp_path, run_spec(), segments(**content, **{TEST.probe_id: []}), ENVIRONMENT)
    assert missing(tmp_path, planned) is None
    assert missing(tmp_path, PlannedRun(spec=run_spec(), probes=(OTHER,))) is not None
    assert missing(tmp_path, PlannedRun(spec=run_spec())) is None


def test_a_damaged_run_is_set_aside_and_measured_again(tmp_path: Path) -> None:
    whole, damaged = (PlannedRun(spec=run_spec(seed), probes=(LINE,)) for seed in (100, 101))
    for run in (whole, damaged):
        write_run(tmp_path, run.spec, segments(training=training_rows([1.0]), **{LINE.probe_id: []}), ENVIRONMENT)
    assert remaining(tmp_path, [whole, damaged]) == []
    for number in range(2):
        path = tmp_path / damaged.spec.run_id / "training.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        said: list[str] = []
        assert remaining(tmp_path, [whole, damaged], said.append) == [damaged]
        place = tmp_path / "damaged" / f"{damaged.spec.run_id}.{number}"
        assert said == [f"{path}: damaged; the run is now in {place} and is measured again"]
        assert (place / f"{LINE.probe_id}.parquet").exists()  # nothing is thrown away
        write_run(
            tmp_path, damaged.spec, segments(training=training_rows([1.0]), **{LINE.probe_id: []}), ENVIRONMENT
        )  # as the command does then
    assert remaining(tmp_path, [whole, damaged]) == []


def test_a_checkpoint_that_a_kill_left_behind_is_cleared_away(tmp_path: Path) -> None:
    run = PlannedRun(spec=run_spec())
    content = segments(training=training_rows([1.0]))
    write_run(tmp_path, run.spec, content, ENVIRONMENT)
    write_checkpoint(tmp_path / run.spec.run_id, run.spec.run_id, 1, content, b"", {})
    assert remaining(tmp_path, [run]) == []
    assert not (tmp_path / run.spec.run_id / CHECKPOINT).exists()
