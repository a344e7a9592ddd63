"""How reports look: on paper and screens of any width, light and dark, without anything loaded."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2026; --soft: #555b66;
  --rule: #e3e5e8; --link: #1f5fa8; --right: #1d6b3f; --wrong: #a3301f;
  --c1: #fdeee4; --c2: #f9cfb2; --c3: #f2a46f; --c4: #e07b3c; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e8eb; --soft: #a3a9b3; --rule: #31363d; --link: #7fb2ee;
    --right: #79c99a; --wrong: #f09483;
    --c1: #2b221d; --c2: #4a2f1e; --c3: #7a451f; --c4: #984a14; }
  /* Pictures are drawn for white paper: turn them round and keep their hues. */
  figure img, .key svg { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 24px 16px 64px; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 40px 0 8px; }
h3 { font-size: 1rem; margin: 0 0 4px; }
h4 { font-size: .85rem; margin: 0 0 4px; font-weight: 600; }
section > h3 { margin-top: 28px; }
a { color: var(--link); }
header p { color: var(--soft); margin: 0 0 16px; }
header + header, section.part + section.part { margin-top: 72px; }
ul { padding-left: 1.2em; margin: 8px 0; }
.notes, .none { color: var(--soft); font-size: .85rem; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr));
  gap: 12px 24px; border: solid var(--rule); border-width: 1px 0; padding: 14px 0; margin: 0; }
dl.facts dt { color: var(--soft); font-size: .85rem; }
dl.facts dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 28px 32px; margin-top: 16px; }
.plots.alone { grid-template-columns: minmax(0, 540px); }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: 0 14px; padding: 0; margin: 0 0 4px;
  font-size: .8rem; color: var(--soft); }
.key svg { width: 26px; height: 10px; margin-right: 5px; vertical-align: baseline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { text-align: left; white-space: nowrap; padding: 6px 20px 6px 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td { overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
td.words { white-space: normal; min-width: 12em; max-width: 32em; }
td.better { color: var(--right); font-weight: 600; }
td.worse { color: var(--wrong); font-weight: 600; }
.scroll.wide table { font-size: .9rem; }
.scroll.wide :is(th, td) { padding-right: 14px; }
.scroll.wide :is(th, td):first-child { position: sticky; left: 0; background: var(--paper);
  min-width: 10em; max-width: 16em; white-space: normal; }
@media (max-width: 560px) {
  .scroll:not(.wide) :is(th, td) { white-space: normal; padding-right: 12px; }
  .scroll.wide :is(th, td):first-child { min-width: 7em; max-width: 8.5em; }
}
pre { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { border-top: 1px solid var(--rule); padding: 10px 0; }
.sample .prompt { color: var(--soft); }
.sample p { color: var(--soft); font-size: .85rem; margin: 4px 0 0; }
details { border-top: 1px solid var(--rule); padding: 10px 0; }
details details { margin-left: 1em; }
h2 + section + details { margin-top: 24px; }
summary { cursor: pointer; }
.bar { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; padding: 8px 0;
  position: sticky; top: 0; background: var(--paper); z-index: 1; font-size: .9rem; }
.bar[hidden], .item[hidden] { display: none; }
.bar :is(select, button) { font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--soft); border-radius: 4px; padding: 5px 10px; max-width: 100%; }
.bar button:disabled { opacity: .45; }
.bar label { max-width: 100%; display: flex; gap: 6px; align-items: center; }
@media (max-width: 560px) {
  .bar { font-size: .8rem; gap: 6px 10px; }
  .bar label { flex: 1 1 40%; min-width: 0; }
  .bar select { flex: 1; min-width: 0; padding: 5px 2px; }
}
.item { border-top: 1px solid var(--rule); padding: 12px 0; }
.item > .of { color: var(--soft); font-size: .85rem; margin: 0; }
.item > pre { color: var(--soft); max-height: 14em; overflow: auto; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr));
  gap: 12px 24px; margin-top: 8px; }
.side { min-width: 0; }
.side pre { max-height: 26em; overflow: auto; border-left: 3px solid var(--rule);
  padding-left: 9px; line-height: 1.6; }
.side p { color: var(--soft); font-size: .8rem; margin: 4px 0 0; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.side i, .scale i { font-style: normal; border-radius: 2px; }
.c1 { background: var(--c1); } .c2 { background: var(--c2); }
.c3 { background: var(--c3); border-bottom: 1px solid currentColor; }
.c4 { background: var(--c4); border-bottom: 3px double currentColor; }
.side i[title] { cursor: help; }
.scale { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .85rem; color: var(--soft); }
.scale i { padding: 0 .6em; margin-right: .3em; color: var(--ink); }
@media print {
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .bar { display: none; }
  .scroll { overflow: visible; }
  .scroll table, .scroll.wide table { font-size: 7.5pt; }
  th, td { padding-right: 8px; }
  .scroll.wide :is(th, td) { white-space: normal; }
  .side pre, .item > pre { max-height: none; }
  .side i { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .plots { grid-template-columns: 1fr 1fr; }
  figure, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; }
}
"""
