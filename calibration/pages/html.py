"""One HTML page of a measurement: sections of tables and pictures, the pictures inside. No scripts, and nothing is fetched."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from edge.files import write_atomically


def write(path: Path, title: str, about: str, sections: Mapping[str, str]) -> None:
    """Write a page of sections, each a title and its HTML; those without any are left out. Raises `OSError`."""
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections.items() if content)
    lead = f"<p>{escape(about)}</p>\n" if about else ""
    write_atomically(path, _PAGE.substitute(title=escape(title), body=lead + body).encode())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: tuple[int, ...] = (0, -1), states: bool = False) -> str:
    """Rows of text, numbers to the right but for the columns in `left`; with `states` the last column is coloured by its word."""
    words = {index % len(head) for index in left}

    def cells(kind: str, row: Sequence[str]) -> str:
        marks = ["left" if at in words else "" for at in range(len(row))]
        if states and kind == "td":
            marks[-1] += f" {row[-1]}"
        return "".join(f'<{kind} class="{mark}">{escape(cell)}</{kind}>' for mark, cell in zip(marks, row, strict=True))

    lines = [cells("th", head), *(cells("td", row) for row in rows)]
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>\n"


def facts(told: Mapping[str, str]) -> str:
    """What is called what."""
    return "<dl>" + "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in told.items()) + "</dl>\n"


def picture(data: bytes, kind: str, caption: str, *, small: bool = False) -> str:
    """An encoded image, `kind` png, jpeg or gif; three small ones stand side by side."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    mark = ' class="small"' if small else ""
    return f'<figure{mark}><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>\n'


def drawing(width: int, height: int, shapes: str, caption: str) -> str:
    """SVG shapes with a frame and a caption."""
    frame = f'<rect width="{width}" height="{height}" fill="none" stroke="#d0d7de"/>'
    svg = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(caption)}">{frame}{shapes}</svg>'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"


_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d0d7de }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e5e7eb }
th { color: #57606a; font-weight: 600 } .left { text-align: left }
.good { color: #1a7f37 } .bearable { color: #9a6700 } .refused { color: #cf222e; font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem }
dt { color: #57606a } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 1rem 0 } figure.small { display: inline-block; width: 31%; margin: .5% } img, svg { max-width: 100%; height: auto }
svg { font: 12px system-ui, sans-serif } figcaption { color: #57606a; font-size: .9rem }
pre { padding: .8rem; background: #f6f8fa; white-space: pre-wrap }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
