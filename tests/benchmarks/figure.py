"The table as a picture: each ratio with its spread, the bar's limit beside it."
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator

HOLDS, FAILS, LIMIT = '#0072b2', '#d55e00', '.15'
PANELS = {'ours/peer <=': 'ours / peer: left of the mark is good (bar, case | peer)',
          'peer/ours >=': 'peer / ours: right of the mark is good (bar, case | peer)'}

def ratios(path):
    "The rows that have a ratio of two measures, with columns `kind`, `limit` and `label`."
    rows = pd.read_csv(path)
    split = rows.bar.str.extract(r'^(?P<number>\d+): (?P<kind>\S+ [<>]=) (?P<limit>\S+)$')
    rows = rows.assign(kind=split.kind, limit=split.limit.astype(float), label=split.number + '   ' + rows.case
                       + '  |  ' + rows.peer_name)
    return rows[rows.kind.isin(PANELS) & rows.ratio.gt(0)]

def _draw_panel(ax, rows, title):
    ys = range(len(rows))
    for y, r in zip(ys, rows.itertuples()):
        colour = HOLDS if r.holds == 'yes' else FAILS
        ax.plot([r.low, r.high], [y, y], color=colour, lw=2.5, alpha=.45, solid_capstyle='butt')
        ax.plot(r.ratio, y, 'o' if r.holds == 'yes' else 'X', color=colour, ms=6)
        ax.plot([r.limit]*2, [y - .36, y + .36], color=LIMIT, lw=1.6)
        ax.annotate(f'{r.ratio:.3g}', (1, y), xycoords=('axes fraction', 'data'), xytext=(4, 0),
                    textcoords='offset points',
                    va='center', fontsize=8, color=colour)
    ax.axvline(1, color='.8', lw=.8, zorder=0)
    ax.grid(axis='x', which='both', color='.93', zorder=0)
    ax.set_yticks(ys, rows.label, fontsize=8)
    ax.set_ylim(len(rows) - .4, -.6)
    ax.set_xscale('log')
    ax.set_title(title, fontsize=9, loc='left')
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda v, _: f'{v:g}')
    ax.minorticks_off()
    ax.tick_params(axis='x', labelsize=8)
    for side in ('top', 'right', 'left'): ax.spines[side].set_visible(False)

def draw(
    table, # the CSV
    picture, # the PNG
):
    "Two panels on logarithmic axes; blue dots hold, orange crosses do not, the dark stroke is the limit."
    rows = ratios(table)
    parts = {kind: part for kind in PANELS if len(part := rows[rows.kind == kind])}
    if not parts: return
    heights = [len(part) + 1.5 for part in parts.values()]
    axes = plt.subplots(len(parts), 1, figsize=(10, .235*sum(heights) + .5), height_ratios=heights, squeeze=False,
                        layout='constrained')[1][:, 0]
    for ax, (kind, part) in zip(axes, parts.items()): _draw_panel(ax, part, PANELS[kind])
    marks = [plt.Line2D([], [], ls='', marker=m, color=c, label=text) for m, c, text in
             (('o', HOLDS, 'holds'), ('X', FAILS, 'does not hold'), ('|', LIMIT, "the bar's limit"))]
    axes[0].figure.legend(handles=marks, ncols=3, loc='outside lower left', fontsize=8, frameon=False)
    axes[0].figure.savefig(Path(picture), dpi=130)
    plt.close(axes[0].figure)
