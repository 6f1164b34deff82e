"""The committed table of faults is the one that the tests go through."""

from tests.hil import report
from tests.hil.matrix import ROWS


def test_the_committed_table_is_the_one_that_is_tested() -> None:
    committed = report.DOCUMENT.read_text(encoding="utf-8")
    assert report.without_measurements(committed) == report.without_measurements(report.document({}))


def test_it_shows_what_was_measured_and_nothing_else_changes() -> None:
    measured = {(row.id, driver): f"{len(row.id)} ms" for row in ROWS for driver in row.drivers or ("",)}
    text = report.document(measured)
    assert report.is_complete(measured)
    assert text.count(" ms | ") >= len(measured)
    assert report.without_measurements(text) == report.without_measurements(report.document({}))
    assert not report.is_complete(dict(list(measured.items())[1:]))


def test_every_row_has_a_name_of_its_own_and_says_why_it_differs() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert all(row.facts for row in ROWS)
    assert all("|" not in "".join((row.fault, row.facts, row.why)) for row in ROWS)
