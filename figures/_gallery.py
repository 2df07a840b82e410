"""The gallery: one page with every figure, its caption, its claims and how it was made, that needs nothing beside it."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d8d8d8; --good: #1b6e3c; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: #fff;
       font: 1rem/1.5 Georgia, "Times New Roman", serif; }
h1 { font-size: 1.6rem; margin: 1rem 0 0; } h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
a { color: inherit; } p { max-width: 44rem; } .soft { color: var(--soft); }
nav { columns: 15rem; padding: .5rem 0 1rem; } nav a { display: block; break-inside: avoid; }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
img { display: block; width: 100%; height: auto; } img.narrow { max-width: 30rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
td, th { padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.holds { color: var(--good); } .fails { color: var(--bad); font-weight: bold; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; color: var(--soft); }
"""

WIDE = 1200
"""Pixels from which an image takes the whole width of the page."""


def write(
    folder: Path, claims: Sequence[Mapping[str, Any]], manifests: Mapping[str, Mapping[str, Any]], known: Sequence[str]
) -> Path:
    """Write `index.html` in `folder` from the figures that lie there, and return its path.

    Args:
        folder: with ``<name>.png`` and ``<name>.txt``.
        claims: rows of the table of claims.
        manifests: by figure, what its result was made of; figures without one are shown without.
        known: the figures that exist, in order.
    """
    names = [name for name in known if (folder / f"{name}.png").exists()]
    rows = {name: [row for row in claims if row["figure"] == name] for name in names}
    held = sum(row["holds"] for own in rows.values() for row in own)
    total = sum(map(len, rows.values()))
    links = "".join(f'<a href="#{name}">{_title(name)} {_score(rows[name])}</a>' for name in names)
    body = "".join(_section(folder, name, rows[name], manifests.get(name)) for name in names)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>jacspec: figures</title><style>{STYLE}</style></head><body><h1>jacspec: figures</h1>"
        f'<p class="soft">{len(names)} figures, {held} of {total} claims hold. Each claim is a published or derived number '
        f"beside the one that was measured.</p><nav>{links}</nav>{body}</body></html>\n"
    )
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _title(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _score(rows: Sequence[Mapping[str, Any]]) -> str:
    held = sum(row["holds"] for row in rows)
    return f'<span class="{"holds" if held == len(rows) else "fails"}">{held}/{len(rows)}</span>'


def _section(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any] | None) -> str:
    png, caption = (folder / f"{name}.png").read_bytes(), folder / f"{name}.txt"
    width = int.from_bytes(png[16:20], "big")  # of the IHDR chunk
    text = html.escape(caption.read_text(encoding="utf-8").strip()) if caption.exists() else ""
    image = base64.b64encode(png).decode("ascii")
    return (
        f'<section id="{name}"><h2>{_title(name)}</h2>'
        f'<img class="{"wide" if width >= WIDE else "narrow"}" alt="{_title(name)}" src="data:image/png;base64,{image}">'
        f"<p>{text}</p>{_table(rows)}{_origin(manifest)}</section>"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{word}</th>" for word in ("verdict", "claim", "source", "expected", "tolerance", "measured"))
    body = "".join(
        f'<tr><td class="{"holds" if row["holds"] else "fails"}">{"holds" if row["holds"] else "fails"}</td>'
        + "".join(f"<td>{html.escape(str(row[key]))}</td>" for key in ("claim", "source"))
        + "".join(f'<td class="number">{_number(row[key])}</td>' for key in ("expected", "tolerance", "measured"))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else html.escape(str(value))


def _origin(manifest: Mapping[str, Any] | None) -> str:
    if manifest is None:
        return ""
    versions = ", ".join(f"{package} {version}" for package, version in manifest["versions"].items())
    config = html.escape(json.dumps(manifest["config"], indent=1))
    took = "" if manifest["wall_time"] is None else f"; computed in {manifest['wall_time']:.1f} s"
    return (
        f"<details><summary>Parameters, versions</summary><p class='soft'>{html.escape(versions)}; "
        f"{html.escape(manifest['device'])}{took}</p><pre>{config}</pre></details>"
    )
