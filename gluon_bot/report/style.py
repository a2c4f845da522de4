"""The style sheet of the report page: tables on a wide screen, cards on a phone, no font or image from elsewhere."""

CSS = '''
:root { --ink: #1f2933; --soft: #61707d; --line: #e3e7eb; --paper: #ffffff; --ground: #f6f7f8; --accent: #0a5a94;
        --good: #00695c; --good-ground: #e0f2ef; --over: #0a5a94; --over-ground: #e3eff9; --under: #a43b00;
        --under-ground: #fdeee4; --odd: #7a4d00; --odd-ground: #fdf3da; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0; line-height: 1.35; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .4rem 0 0; max-width: 72ch; overflow-wrap: anywhere; }
.lead, .small { color: var(--soft); }
.small { font-size: .86rem; }
a { color: var(--accent); }
nav { margin: 1.4rem 0 0; display: flex; flex-wrap: wrap; gap: .35rem .9rem; font-size: .92rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
          padding: 1.3rem 1.4rem; margin-top: 1.4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .8rem;
         margin: 1.5rem 0 0; padding: 0; }
.tiles div { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .86rem; }
table { border-collapse: collapse; width: 100%; margin-top: .9rem; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem .5rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .82rem; padding-bottom: .35rem; }
tbody th { font-weight: 500; }
tr.group th { background: var(--ground); color: var(--soft); font-weight: 600; font-size: .84rem; padding: .35rem .7rem; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
td.number { white-space: nowrap; }
.line { display: block; white-space: nowrap; }
.metric { color: var(--soft); font-size: .84rem; }
thead th:last-child { min-width: 17rem; }
tr.untouched th, tr.untouched td { color: var(--soft); }
h1 .chip { vertical-align: .3rem; margin-left: .3rem; }
progress { width: 100%; height: .7rem; margin-top: 1.2rem; accent-color: var(--accent); }
.chip { display: inline-block; font-size: .84rem; white-space: nowrap; color: var(--soft); }
.reproduced, .above, .below, .recalled { border-radius: 999px; padding: .05rem .6rem; }
.reproduced { background: var(--good-ground); color: var(--good); }
.above { background: var(--over-ground); color: var(--over); }
.below { background: var(--under-ground); color: var(--under); }
.recalled { background: var(--odd-ground); color: var(--odd); font-size: .78rem; margin-left: .5rem;
            vertical-align: .12rem; }
details > summary { cursor: pointer; overflow-wrap: anywhere; }
.run + .run { margin-top: .6rem; }
.run .small { margin: .1rem 0 0; max-width: 44ch; }
details.wide { margin-top: .8rem; }
details dl { margin: .4rem 0 .6rem; padding: .6rem .8rem; background: var(--ground); border-radius: 8px; font-size: .84rem; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dd { margin: 0 0 .3rem; overflow-wrap: anywhere; }
dd > dl { padding: 0 0 0 .8rem; border-left: 2px solid var(--line); border-radius: 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem;
          margin-top: 1.1rem; align-items: start; }
.curves img { width: 100%; max-width: 30rem; height: auto; display: block; }
ul { padding-left: 1.1rem; margin: .6rem 0 0; }
li { overflow-wrap: anywhere; font-size: .9rem; }
th[scope=row] { min-width: 9.5rem; }
th > .run { min-width: 14rem; }
td[data-label=Data], td[data-label=Recipe] { min-width: 8rem; }
#epochs th { min-width: 0; }
td[data-label=Result] { min-width: 13rem; }
@media (max-width: 760px) {
  th[scope=row], th > .run, td[data-label] { min-width: 0; }
  main { padding: 1.4rem .8rem 3rem; }
  h1 { font-size: 1.5rem; }
  section { padding: 1rem .9rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: .6rem; }
  table, tbody, tr, th, td { display: block; width: 100%; }
  thead { display: none; }
  tr { border-top: 1px solid var(--line); padding: .55rem 0; }
  tr.group { padding: 0; margin-top: .6rem; border: 0; }
  th, td { border: 0; padding: .08rem 0; }
  tr.group th { padding: .3rem .6rem; border-radius: 6px; }
  td[data-label] { display: grid; grid-template-columns: 6.2rem 1fr; gap: .6rem; }
  td[data-label]::before { content: attr(data-label); color: var(--soft); font-size: .84rem; }
  td.number { white-space: normal; }
  #epochs tbody th::before { content: 'Epoch '; }
  td.empty { display: none; }
  tr.untouched { display: flex; justify-content: space-between; gap: 1rem; padding: .3rem 0; }
  tr.untouched th, tr.untouched td { width: auto; }
  tr.untouched td { display: none; }
  tr.untouched td.paper { display: block; white-space: nowrap; }
  tr.untouched td.paper::before { content: none; }
}
@media print { section { break-inside: avoid; border: 0; } body { background: #fff; } }
'''
