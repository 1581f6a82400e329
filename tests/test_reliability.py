"""The table of what was tried is what the tests said."""

import json

from reliability import Tried, page_with


def test_the_rows_of_a_fault_are_those_of_the_last_session_that_tried_it(tmp_path):
    path = tmp_path / "tried.json"
    first, second = Tried(), Tried()
    first("SIGKILL", "resumed", "a shard")
    first("bit | flip", "named, redone")
    first.save(path)
    for _ in range(1200):
        second("SIGKILL", "resumed", "at most a shard")
    second.save(path)
    page = page_with("a\n<!-- tried -->\nold\n<!-- /tried -->\nb\n", json.loads(path.read_text()))
    assert page.splitlines()[2:] == [
        "| fault or bad input | tried | outcome | lost |",
        "| --- | ---: | --- | --- |",
        "| SIGKILL | 1,200 | resumed | at most a shard |",
        r"| bit \| flip | 1 | named, redone | nothing |",
        "<!-- /tried -->",
        "b",
    ]
