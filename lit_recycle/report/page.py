"""A page in one file: tables, pictures inside, nothing from the network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lit_recycle.report.figures import Plate

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ddd }
h3 { margin-top: 2rem } p.lead { color: #555; margin-top: 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto; margin-bottom: 1.4rem }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #999 }
.plates { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1.2rem 1.6rem }
figure { margin: 0 } figure img { width: 100%; height: auto } figcaption { color: #555; font-size: .9rem }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap }
details summary { cursor: pointer; color: #0072B2 }
@media print { .plates { grid-template-columns: 1fr 1fr } figure { break-inside: avoid } }
"""


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(title: str, lead: str, parts: Sequence[str]) -> str:
    """A whole HTML document; ``parts`` are made by the functions below."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f'<body><h1>{_text(title)}</h1><p class="lead">{_text(lead)}</p>\n{body}\n</body></html>\n'
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{_text(text)}</h{level}>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are plain text."""
    line = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line}</tr></thead><tbody>{lines}</tbody></table></div>'


def pictures(plates: Sequence[Plate], files: Mapping[str, bytes]) -> str:
    """A grid of figures; ``files`` are their PNGs by name."""
    figures = []
    for plate in plates:
        data = base64.b64encode(files[plate.name]).decode()
        caption = _text(plate.caption)
        figures.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="plates">{"".join(figures)}</div>'


def preformatted(text: str) -> str:
    return f"<pre>{_text(text)}</pre>"


def folded(summary: str, inner: str) -> str:
    """What is shown on a click."""
    return f"<details><summary>{_text(summary)}</summary>{inner}</details>"


def _text(text: str) -> str:
    return html.escape(text)
