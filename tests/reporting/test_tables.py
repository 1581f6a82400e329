"""Tables as they are written for people."""

from types import SimpleNamespace

import pandas as pd

from glore_lib.reporting import tables
from glore_lib.statistics import Estimate, row
from glore_lib.tasks.svamp import SVAMP


def test_every_tables_caption_names_data_sets_and_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path))
    labs = []
    for name, split in (("a", "hub_700_300"), ("b", "mawps_asdiv_1000")):
        numbers = [
            row(name, "m", "orm", metric, Estimate(0.5, 0.4, 0.6, 10))
            for metric in ("step_accuracy", "final_accuracy", "fixed_fraction")
        ]
        run = SimpleNamespace(params=SimpleNamespace(run=name, task=SimpleNamespace(name="svamp")), task=SVAMP(split))
        labs.append(SimpleNamespace(run=run, numbers=pd.DataFrame(numbers)))
    numbers = tables.all_numbers(labs)
    for table in ("table1", "table2", "table3"):
        tables.save_table(numbers, table, str(tmp_path))
        caption = (tmp_path / "tables" / f"{table}.md").read_text().partition("\n\n")[0]
        assert caption == (
            "Per cent [95 % interval] (n). a: SVAMP, 700/300 by ID order. "
            "b: SVAMP, trained on MAWPS and ASDiv-A, tested on all 1,000."
        )
