"""The style sheet of the page."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2127; --soft: #58636e; --rule: #d7dde3; --paper: #ffffff;
  --band: #f1f4f7; --band-even: #e4eaf0;
  --blue: #0072b2; --orange: #c24e00; --green: #00785a; --purple: #9c3f7c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e5e9ed; --soft: #9ba7b3; --rule: #363e47; --paper: #14181c;
    --band: #1c2127; --band-even: #262d35;
    --blue: #56b4e9; --orange: #f0a04b; --green: #3fc79e; --purple: #e59bc8;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 69rem; padding: 1.5rem 1rem 2rem;
  color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1, h2, p, dl, dd, figure { margin: 0; }
h1 { font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; line-height: 1.3; }
.kicker, .soft, footer { color: var(--soft); font-size: .875rem; }
.state {
  margin: .75rem 0 1.5rem; padding: .4rem .75rem; background: var(--band);
  border-left: .25rem solid var(--soft);
}
.complete { border-color: var(--green); }
.incomplete, .failed { border-color: var(--orange); }
.failed { font-weight: 600; }
.tiles {
  display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(min(12.5rem, 45%), 1fr));
}
.tiles > div {
  padding: .6rem .75rem .7rem; border: 1px solid var(--rule);
  border-radius: .4rem;
}
.tiles dt { font-size: .875rem; line-height: 1.35; }
.tiles .value { margin: .15rem 0; font-size: 1.6rem; line-height: 1.25; }
.tiles .soft { font-size: .8125rem; line-height: 1.35; }
.note { margin-top: .75rem; max-width: 46rem; }
.figures { columns: 2 21rem; column-gap: 2.5rem; }
figure { break-inside: avoid; padding-bottom: 1.75rem; }
figcaption { margin-bottom: .4rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg + svg { margin-top: .5rem; }
svg text { fill: var(--soft); font-size: 12px; }
svg .label, svg .value { fill: var(--ink); }
@media (min-width: 45rem) { svg text { font-size: 9px; } }
.band { fill: var(--band); }
.even { fill: var(--band-even); }
.grid { stroke: var(--rule); stroke-width: .75; }
.bar { fill: var(--blue); }
.mark { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.line, .outline {
  fill: none; stroke-width: 1.75; stroke-linecap: round;
  stroke-linejoin: round;
}
.s1 { stroke: var(--blue); }
.s2 { stroke: var(--orange); stroke-dasharray: 5 3.5; }
.s3 { stroke: var(--green); stroke-dasharray: 1 3.5; }
.s4 { stroke: var(--purple); stroke-dasharray: 7 3 1 3; }
.outline { stroke: var(--orange); stroke-width: 1.25; }
.filled { fill: var(--blue); fill-opacity: .75; }
.scroll { max-width: 100%; max-height: 40rem; overflow: auto; }
.scroll:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: separate; border-spacing: 0; font-size: .875rem; }
th, td {
  padding: .3rem .55rem; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; font-weight: 400;
  background: var(--paper);
}
tr > :first-child { padding-left: 0; }
thead, tfoot { position: sticky; top: 0; bottom: 0; }
thead th { vertical-align: bottom; color: var(--soft); line-height: 1.3; }
tfoot th, tfoot td { font-weight: 600; }
tfoot tr:first-child > * { border-top: 1px solid var(--soft); }
.number { text-align: right; }
thead .number { width: 1px; }
th:has(wbr) { min-width: 11rem; }
td { white-space: nowrap; }
td.word:last-child { white-space: normal; min-width: 8rem; }
table, td { overflow-wrap: break-word; }
.pairs { max-width: 46rem; }
.pairs > div { padding: .5rem 0; border-top: 1px solid var(--rule); }
.pairs dt { font-weight: 600; }
footer { margin-top: 2.5rem; }
@media print { .scroll { max-height: none; overflow: visible; } }
"""
