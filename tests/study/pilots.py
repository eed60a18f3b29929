"""How accurate are the networks of a study in worlds that no result comes from? Settings are chosen on this alone.

`python -m tests.study.pilots [NAME] [--worlds 100 101] [--seeds 2] [--set '{epochs: 8, bs: 128}'] [--plateau]`
trains a preset, or the default study, with what is set and without probing, prints each student beside Ind, and adds
the rows to nbs/results/pilots.csv. `--plateau` trains it again with one more epoch of the students; `--grid .1 1 10`
trains each objective at so many times its weight, all in one cohort, and says which weight was most accurate."""
import argparse
import json
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import torch
import yaml

from kd_knowledge.models.core import load_model
from kd_knowledge.study.config import config_of, Study, with_values
from kd_knowledge.study.presets import PRESETS, read_preset
from kd_knowledge.study.processes import do_steps
from kd_knowledge.study.steps import Bench, objectives_of

RESULTS = Path(__file__).resolve().parents[2]/'nbs'/'results'/'pilots.csv'
WORLDS = range(100, 110)  # their seeds; nothing that is claimed comes from them


def piloted(name, changes, world, seeds, folder):
    "A study as it will be trained, in one world, without students of T*."
    given = config_of(read_preset(name)) if name in PRESETS else {}
    own = dict(starred=False, seeds=seeds, independent_seeds=seeds, seed=world, out=str(folder))
    return with_values(Study(**given), **changes | own).check().filled()


def trained(study):
    "Train T and its students; the seconds of each step."
    bench = Bench(study)
    with bench.run:
        steps = [s for s in study.steps() if s.kind in ('teacher', 'untrained', 'students') and 'foreign' not in s.name]
        do_steps(bench, steps)
        return {s.name: bench.run.done(s.name, s.key)['seconds'] for s in steps}, steps


def right(net, images):
    "Share of images that a network answers rightly."
    net.eval()
    with torch.no_grad(): hits = [(net(x).argmax(1) == y) for x, y, _ in images.batches(256)]
    return float(torch.cat(hits).float().mean())


def rows(name, changes, world, seeds, variant):
    "One row for each network."
    with tempfile.TemporaryDirectory() as folder:
        study = piloted(name, changes, world, seeds, folder)
        seconds, steps = trained(study)
        files = {path: s.name for s in steps if s.kind != 'untrained' for path in s.files if path.endswith('.safetensors')}
        images, found = study.images(), []
        for path, step in files.items():
            student, seed = unquote(Path(path).stem).rsplit('-', 1)
            accuracy = right(load_model(Path(folder)/path, trust=True), images)
            found.append(dict(setting=name, variant=variant, world=world, network=student,
                              seed=int(seed), accuracy=round(accuracy, 4), seconds=seconds[step]))
        return found


def kept(new):
    "The stored table with these rows, which replace those of the same question."
    same = ['setting', 'variant', 'world', 'network', 'seed']
    old = [pd.read_csv(RESULTS)] if RESULTS.exists() else []
    table = pd.concat([*old, pd.DataFrame(new)]).drop_duplicates(same, keep='last')
    table.to_csv(RESULTS, index=False)


def told(new, variant):
    "Accuracy of each student, and how far it lies above its own Ind."
    table = pd.DataFrame(new)
    wide = table[table.network != 'T'].pivot_table(index=['world', 'seed'], columns='network', values='accuracy')
    teacher = table[table.network == 'T'].accuracy.mean()
    train = table.drop_duplicates(["world", "seconds"]).seconds.sum()
    print(f'{variant}: {train:.0f} s of one core; T {teacher:.3f} Ind {wide.Ind.mean():.3f}', flush=True)
    for k in wide.columns.drop('Ind'):
        d = wide[k] - wide.Ind
        print(f'    {k:8} {wide[k].mean():.3f}  {100*d.mean():+5.1f} points  +-{100*d.sem():.1f}', flush=True)


def grid(name, changes, factors):
    "The same study with each objective at several times its weight: `DKD x 0.1`, `DKD x 1`, ..."
    given = piloted(name, changes, WORLDS[0], 1, 'x').objectives
    weight = {k: o.weight for k, o in objectives_of(Study(objectives=given)).items()}
    times = lambda k, f: dict(given[k] or {}, objective=(given[k] or {}).get('objective', k), weight=f*weight[k])
    return changes | dict(objectives={f'{k} x {f:g}': times(k, f) for k in given for f in factors})


def best(new):
    "The factor of each objective's weight whose students were right most often in the mean of all worlds."
    table = pd.DataFrame(new)
    table = table[table.network.str.contains(' x ')]
    mean = table.groupby('network', sort=False).accuracy.mean()
    parts = mean.index.str.split(' x ', expand=True)
    wide = pd.Series(mean.values, parts).unstack(sort=False)
    print(wide.assign(best=wide.idxmax(axis=1)).to_string(float_format='{:.3f}'.format))


def pilot(name, changes, worlds, seeds, factors=()):
    start, new = time.perf_counter(), []
    variant = json.dumps(changes | dict(grid=factors) if factors else changes, sort_keys=True)
    if factors: changes = grid(name, changes, factors)
    for world in worlds: new += rows(name, changes, world, seeds, variant)
    kept(new)
    told(new, variant)
    if factors: best(new)
    print(f'    {time.perf_counter() - start:.0f} s by the clock', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', nargs='?', default='default', help='a preset; the default study without it')
    parser.add_argument('--worlds', nargs='+', type=int, default=[100], choices=WORLDS, metavar='SEED')
    parser.add_argument('--seeds', type=int, default=2, help='networks of each student')
    parser.add_argument('--set', default='{}', type=yaml.safe_load, help='fields of the study, as YAML')
    parser.add_argument('--plateau', action='store_true', help='again with one more epoch')
    parser.add_argument('--grid', nargs='+', type=float, metavar='FACTOR', help='each objective at these times its weight')
    args = parser.parse_args()
    pilot(args.name, args.set, args.worlds, args.seeds, args.grid)
    if not args.plateau: return
    more = piloted(args.name, args.set, 100, 1, 'x').epochs + 1
    pilot(args.name, args.set | dict(epochs=more), args.worlds, args.seeds)


if __name__ == '__main__': main()
