from __future__ import annotations

from pathlib import Path

from tests.studies import ENVIRONMENT, run_spec, segments, training_rows

from alidade.core.probes import EvaluationProbe, LineProfileProbe, PlannedRun
from alidade.store import write_run
from alidade.sweeps.plan import missing, union

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
