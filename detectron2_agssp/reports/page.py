"""The page around a report: style sheet, script and outline.

Everything is inside the one file; the content security policy forbids the browser to load more.
"""

from collections.abc import Sequence

from detectron2_agssp.reports.markup import escape

__all__ = ["render_page"]

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --surface: #f5f7f9; --ink: #1d2328; --muted: #56606a; --rule: #d5dbe1;
  --accent: #0b5cad; --best: #e3f1e6; --plate: #ffffff; --shade: #0003;
  --s0: #1668ad; --s1: #c2500a; --s2: #14805f; --s3: #97407f; --s4: #7d6a00; --s5: #59646f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --surface: #1d2125; --ink: #e2e6ea; --muted: #9da7b1; --rule: #343b42;
    --accent: #7db9ff; --best: #1f3a28; --plate: #eef0f2; --shade: #fff3;
    --s0: #6cb0f2; --s1: #f49a57; --s2: #4fc79f; --s3: #df93cd; --s4: #d3be45; --s5: #a9b4be;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
  overflow-wrap: break-word;
}
a { color: var(--accent); text-underline-offset: 0.15em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; background: var(--paper); padding: 0.25rem 0.5rem; }
.page { max-width: 80rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 0.9rem; margin-bottom: 1.75rem; }
h1 { font-size: 1.75rem; line-height: 1.2; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; font-weight: 650; margin: 2.5rem 0 0.75rem; }
main > section:first-child > :first-child { margin-top: 0; }
p { margin: 0 0 0.9rem; max-width: 46rem; }
.subtitle { color: var(--muted); margin: 0.35rem 0 0; }
.note { color: var(--muted); font-style: italic; }
nav { font-size: 0.9rem; }
nav h2 { font-size: 0.8rem; color: var(--muted); margin: 0 0 0.4rem; }
nav ol { margin: 0; padding-left: 1.4rem; }
nav li { padding: 0.15rem 0; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main { min-width: 0; }
@media (min-width: 68rem) {
  .with-contents { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: 0 3rem; }
  nav { position: sticky; top: 1.5rem; align-self: start; max-height: 95vh; overflow-y: auto; }
}
@media (max-width: 67.99rem) {
  nav { border-bottom: 1px solid var(--rule); padding-bottom: 1rem; margin-bottom: 1.75rem; }
}
.scroll {
  overflow-x: auto;
  /* A shade at the side where there is more: paper that scrolls along covers it at the end. */
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 0.8rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.8rem 100% no-repeat scroll;
}
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.9rem; text-align: left; vertical-align: baseline; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink); }
tbody tr { border-bottom: 1px solid var(--rule); }
tbody tr:last-child { border-bottom: 1px solid var(--ink); }
th.number, td.number { text-align: right; white-space: nowrap; }
.best { font-weight: 700; background: var(--best); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr); }
dl { margin: 0 0 1.25rem; font-size: 0.92rem; border-top: 1px solid var(--rule); }
dt, dd { margin: 0; padding: 0.3rem 0; border-bottom: 1px solid var(--rule); }
dt { color: var(--muted); padding-right: 1.5rem; }
dd { font-variant-numeric: tabular-nums; }
figure { margin: 0; min-width: 0; }
figcaption { color: var(--muted); font-size: 0.88rem; line-height: 1.4; margin: 0.4rem 0 0; }
figure.table, figure.chart-figure { margin-bottom: 1.75rem; }
figure.table figcaption { margin: 0 0 0.4rem; }
figure.chart-figure { max-width: 48rem; }
.images {
  display: grid; gap: 1.25rem; margin: 0 0 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr));
}
.images .wide { grid-column: 1 / -1; }
.zoom {
  display: block; width: 100%; padding: 0; border: 1px solid var(--rule); cursor: zoom-in;
  background: var(--plate); font: inherit;
}
.zoom img { display: block; width: 100%; height: auto; max-height: 28rem; object-fit: contain; }
.wide .scroll > div { max-width: max(100%, 48rem); }
.wide .zoom img { max-height: none; }
.chart svg { display: block; width: 100%; min-width: 34rem; height: auto; }
.chart text { font-size: 13px; fill: var(--muted); font-variant-numeric: tabular-nums; }
.chart text.label { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.marker { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 3; }
.s0 { fill: var(--s0); stroke: var(--s0); } .s1 { fill: var(--s1); stroke: var(--s1); }
.s2 { fill: var(--s2); stroke: var(--s2); } .s3 { fill: var(--s3); stroke: var(--s3); }
.s4 { fill: var(--s4); stroke: var(--s4); } .s5 { fill: var(--s5); stroke: var(--s5); }
rect { stroke-width: 0; }
rect.dashed { fill-opacity: 0.3; stroke-width: 1; stroke-dasharray: 3 2; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.dashed { stroke-dasharray: 6 4; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; list-style: none; }
.legend { margin: 0 0 0.3rem; padding: 0; font-size: 0.88rem; }
.key { width: 1.25rem; height: 0.625rem; margin-right: 0.4rem; }
.key .line { stroke-width: 4; }
details { border: 1px solid var(--rule); background: var(--surface); margin: 0 0 1.25rem; }
summary { cursor: pointer; padding: 0.45rem 0.8rem; font-size: 0.92rem; }
pre {
  margin: 0; padding: 0.7rem 0.9rem; border-top: 1px solid var(--rule); white-space: pre-wrap;
  font: 0.82rem/1.5 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace;
}
dialog { width: 100vw; height: 100vh; max-width: none; max-height: none; padding: 0; border: 0; }
dialog { background: #101214; color: #e2e6ea; }
dialog[open] { display: grid; grid-template-rows: auto minmax(0, 1fr); }
dialog form { display: flex; align-items: center; padding: 0.6rem 1rem; gap: 1rem; }
dialog p { flex: 1; margin: 0; max-width: none; font-size: 0.9rem; }
dialog button {
  padding: 0.3rem 0.9rem; font: inherit; font-size: 0.9rem; cursor: pointer;
  color: #e2e6ea; background: #1f2429; border: 1px solid #7c8791;
}
dialog :focus-visible { outline-color: #7db9ff; }
dialog div { overflow: auto; display: grid; }
dialog img { width: 100%; height: 100%; min-height: 0; object-fit: contain; cursor: zoom-in; }
dialog img.actual { width: auto; height: auto; margin: auto; cursor: zoom-out; }
@media print {
  nav, .skip { display: none; }
  .with-contents { display: block; }
  figure, tr, details { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""

# A click shows the picture filling the window, the next one at its own size where that is larger,
# the next one filling the window again; Escape closes.
_SCRIPT = """
const view = document.getElementById("view");
document.addEventListener("click", (event) => {
  const button = event.target.closest(".zoom");
  if (button) {
    const image = button.querySelector("img").cloneNode();
    view.querySelector("p").textContent = image.alt;
    view.querySelector("div").replaceChildren(image);
    view.showModal();
  } else if (event.target.matches("#view img")) {
    const { naturalWidth, naturalHeight, clientWidth, clientHeight, classList } = event.target;
    classList.toggle("actual", naturalWidth > clientWidth || naturalHeight > clientHeight);
  }
});
"""


def render_page(title: str, subtitle: str, contents: Sequence[tuple[str, str]], body: str) -> str:
    """The whole file.

    Args:
        title, subtitle: plain text; an empty subtitle is left out.
        contents: (id, title) of each section, in order; plain text.
        body: HTML of the sections, already escaped.
    """
    links = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for name, text in contents)
    navigation, layout = "", ""
    if contents:
        navigation = f'<nav aria-label="Contents"><h2>Contents</h2><ol>{links}</ol></nav>'
        layout = ' class="with-contents"'
    second_line = f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="page">
<header><h1>{escape(title)}</h1>{second_line}</header>
<div{layout}>
{navigation}
<main id="content">
{body}
</main>
</div>
</div>
<dialog id="view" aria-label="Enlarged picture">
<form method="dialog"><p></p><button>Close</button></form><div></div>
</dialog>
<script>{_SCRIPT}</script>
</body>
</html>
"""
