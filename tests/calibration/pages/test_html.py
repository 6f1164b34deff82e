"""A page escapes what it is told, leaves empty sections out, and fetches nothing."""

from pathlib import Path

from calibration.pages import html


def test_what_is_told_is_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    sections = {
        "A <b>": html.table(("name", "n", "why"), [("<script>", "1", "good")], states=True),
        "Facts": html.facts({"a&b": "<i>"}),
        "Picture": html.picture(b"\x00\xff", "png", '"quoted"', small=True),
        "Drawing": html.drawing(10, 20, "<path/>", "<caption>"),
        "Nothing": "",
    }
    html.write(tmp_path / "page.html", "T & <t>", "about <it>", sections)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for raw in ("<script>", "<b>", "<i>", "<caption>", "<it>", "http", "Nothing"):
        assert raw not in page
    assert '<td class="left good">good</td>' in page
    assert "data:image/png;base64,AP8=" in page
    assert "<title>T &amp; &lt;t&gt;</title>" in page


def test_numbers_stand_right_and_words_left() -> None:
    made = html.table(("a", "b", "c"), [("x", "y", "1")], left=(0, 1))
    assert made.count('class="left"') == 4
    assert '<td class="">1</td>' in made
