"""How often does `kd_parent` name the right teacher, and how often one where it should not?

`python -m tests.study.parentage --pilot` trains the family of the preset `parentage` in a world that no result comes
from, with fewer networks, and tries several scores: nbs/results/parentage_pilots.csv. `python -m tests.study.parentage`
trains it in a world that no choice was made in, and writes nbs/results/parentage.csv and parentage_rates.csv: half an
hour of one core. What is done under runs/parentage is not done again."""
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from kd_knowledge.cli import kd_parent
from kd_knowledge.core import write_table
from kd_knowledge.study import parentage as room
from kd_knowledge.study.config import with_values
from kd_knowledge.study.presets import load_preset

ROOT = Path(__file__).parents[2]
RESULTS = ROOT/'nbs'/'results'
PILOT, WORLD = 100, 550
FEWER = room.Family(cohorts=1, untaught=9)
softened = room.softened


def centred(logits, labels=False):
    "Logits that are not softened."
    return softened(logits, True) if labels else logits.double() - logits.double().mean(1, keepdim=True)


def nothing_common(answers, common):
    "Answers of which nothing is taken away but their mean."
    return answers - answers.mean(0)


SCORES = { # what is tried -> what stands in another's place
    'correlation of logits': dict(softened=centred, beyond=nothing_common),
    'correlation of softened logits': dict(beyond=nothing_common),
    'partial correlation of logits': dict(softened=centred),
    'partial correlation of softened logits': {}}


def rounded(table): return table.assign(**table.select_dtypes('float').round(5))


def pilot():
    "What each score comes to in the pilot world."
    study = with_values(load_preset('parentage'), seed=PILOT, out=str(ROOT/'runs'/'parentage-pilot')).filled()
    trained, found = room._train_family(study, FEWER), []
    for name, other in SCORES.items():
        with patch.multiple(room, **other) if other else nullcontext():
            found.append(room.rates(room._both_ways(*trained)).assign(score=name))
    write_table(RESULTS/'parentage_pilots.csv', rounded(pd.concat(found)))


def main():
    out = ROOT/'runs'/'parentage'
    if kd_parent(['--preset', 'parentage', '--seed', str(WORLD), '--out', str(out), '--workers', '1']): sys.exit(2)
    for name, to in {'parentage': 'parentage', 'rates': 'parentage_rates'}.items():
        write_table(RESULTS/f'{to}.csv', rounded(pd.read_csv(out/f'{name}.csv', keep_default_na=False, na_values=[''],
                                                             dtype=dict(objective=str, parent=str))))


if __name__ == '__main__': pilot() if '--pilot' in sys.argv else main()
