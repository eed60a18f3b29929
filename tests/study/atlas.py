"""Which objective hands on which property, and does another world keep the order?

`python -m tests.study.atlas` runs the preset `atlas` in two worlds and writes nbs/results/atlas (the first world's
tables) and nbs/results/atlas.csv (both): less than three hours of two cores. It is run from the repository's root;
what is done under runs/atlas is not done again."""
import shutil
from pathlib import Path

from kd_knowledge.cli import kd_study
from kd_knowledge.core import write_table
from kd_knowledge.report.atlas import atlas, order_kept

ROOT = Path(__file__).parents[2]
RESULTS = ROOT/'nbs'/'results'
FILES = 'config.yaml', 'accuracy.csv', 'estimates.csv'
WORLDS = {'cue .7': [], 'cue .5': ['--seed', '400', '--data-args', '{cue: 0.5}']} # name -> options of the preset


def run(name, options):
    "The folder of the atlas in one world."
    out = Path('runs')/'atlas'/name.replace(' ', '-')
    if kd_study(['--preset', 'atlas', '--out', str(out), *options]): raise SystemExit(f'{name} did not finish')
    return out


def main():
    done = {}
    for name, options in WORLDS.items():
        done[name] = run(name, options)
        write_table(RESULTS/'atlas.csv', atlas(done))
    (RESULTS/'atlas').mkdir(exist_ok=True)
    for file in FILES: shutil.copy(done['cue .7']/file, RESULTS/'atlas'/file)
    print(order_kept(atlas(done)).round(2).to_string(index=False))


if __name__ == '__main__': main()
