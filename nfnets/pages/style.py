"""How the page looks: on a phone, on a desk, in the dark, on paper."""

CSS = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --paper: #fff;
  --code: #f3f5f7; --good: #1a7f37; --bad: #b3261e; --mid: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .3rem; line-height: 1.25; }
h2.part { font-size: 1.5rem; border-bottom: 3px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .3rem; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
a { color: inherit; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
h2.part + section { border-top: 0; margin-top: 0; }
img { display: block; max-width: 100%; height: auto; margin: 1rem auto;
  background: #fff; }
.table, .picture { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .87rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--soft); }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
pre, code { font-family: ui-monospace, monospace; font-size: .82rem;
  background: var(--code); border-radius: .25rem; }
pre { padding: .6rem; overflow-x: auto; }
code { padding: 0 .2rem; }
.claim { font-size: 1.05rem; }
.verdict { font-weight: 600; border: 1.5px solid; border-radius: 1rem;
  padding: .05rem .6rem; white-space: nowrap; font-size: .85rem; }
.borne-out { color: var(--good); }
.not-borne-out { color: var(--bad); }
.mixed, .undecided, .too-short-to-tell { color: var(--mid); }
.not-run, .facts, .basis { color: var(--soft); }
.basis { display: inline-block; }
.facts { font-size: .87rem; }
@media screen and (max-width: 40rem) {
  .picture img { max-width: none; width: 42rem; }
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #3a424b; --paper: #15181c;
    --code: #20252b; --good: #57c26f; --bad: #f28b82; --mid: #e3b341; }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff;
    --code: #f5f5f5; --good: #0b5a22; --bad: #8c1d18; --mid: #6b4500; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .table { overflow: visible; }
  table { font-size: 7.5pt; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7pt; }
  img, tr, pre { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  a { text-decoration: none; }
}
"""
