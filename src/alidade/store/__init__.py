"""One folder per run: spec.json, tidy Parquet segments, DONE."""

from alidade.store.files import FORMAT as FORMAT
from alidade.store.live import LiveRun as LiveRun
from alidade.store.places import place as place
from alidade.store.reading import Study as Study
from alidade.store.reading import load as load
from alidade.store.reading import open_study as open_study
from alidade.store.segments import SCHEMA as SCHEMA
from alidade.store.segments import Segments as Segments
from alidade.store.study import export as export
from alidade.store.study import finished_segments as finished_segments
from alidade.store.study import has_theory as has_theory
from alidade.store.study import set_aside as set_aside
from alidade.store.study import write_manifest as write_manifest
from alidade.store.study import write_run as write_run
from alidade.store.study import write_theory as write_theory
