"""How does what is inherited grow with the student and with the images?

`python -m tests.study.law` trains KL, Hint and CRD at four widths of the student and three numbers of images, five
pairs each, and writes nbs/results/law.csv: about half an hour of two cores. What is done under runs/law is not done
again."""
from itertools import product
from pathlib import Path

import pandas as pd

from kd_knowledge.cli import kd_study
from kd_knowledge.core import write_table
from kd_knowledge.report.atlas import atlas_of, law
from kd_knowledge.report.findings import read_run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT/'nbs'/'results'/'law.csv'
WIDTHS, IMAGES, SEEDS, WORLD = (4, 8, 16, 32), (600, 1200, 2400), 5, 300


def options(width, images, out):
    "Of the laptop study in a world of its own, whose teacher sees as many images as its students."
    sizes = ['--n-train', images, '--n-probe', 800, '--seeds', SEEDS, '--seed', WORLD, '--out', out]
    return ['--preset', 'shapes', '--no-starred', '--student-args', f'{{width: {width}}}', *map(str, sizes)]


def main():
    found = []
    for width, images in product(WIDTHS, IMAGES):
        out = ROOT/'runs'/'law'/f'width-{width}-images-{images}'
        if kd_study(options(width, images, out)): raise SystemExit(f'{out} did not finish')
        found.append(atlas_of(read_run(out)).assign(width=width, images=images).drop(columns='world'))
        write_table(RESULTS, pd.concat(found))
    print(law(pd.concat(found)).round(2).to_string(index=False))


if __name__ == '__main__': main()
