"""Do verdicts hang on the seed, or on the machine?

`python -m tests.study.stability` runs the default study in ten worlds that nothing was chosen in, and in one of them
under ten changes of arithmetic, and writes nbs/results/stability.csv: about an hour and a half of two cores. What is
done under runs/stability is not done again."""
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from kd_knowledge.core import write_table

ROOT = Path(__file__).parents[2]
WORLDS = range(200, 210)
KEPT = 'probe student difference low high verdict'.split()
ALONE, ONE = ['--workers', '1'], dict(OMP_NUM_THREADS='1')
CHANGES = { # run -> options, environment
    'one process, two threads': (ALONE, {}),
    'one process, one thread': (ALONE, ONE),
    'convolutions for processors with AVX2': ([], dict(ONEDNN_MAX_CPU_ISA='AVX2')),
    'convolutions for processors with SSE4.1': ([], dict(ONEDNN_MAX_CPU_ISA='SSE41')),
    'other kernels for processors with AVX2': ([], dict(ATEN_CPU_CAPABILITY='avx2')),
    'other kernels for any processor': ([], dict(ATEN_CPU_CAPABILITY='default')),
    'images of each batch in reverse': (ALONE, ONE),
    'optimiser unfused': (ALONE, ONE),
    'bfloat16': (['--dtype', 'bfloat16'], {}),
    'batches of 128': (['--bs', '128'], {})}

def reverse_batches():
    "The same images in each batch, so that only the order of its sums is another."
    from kd_knowledge.data.loaders import ImageLoader
    plain = ImageLoader.after_batch
    ImageLoader.after_batch = lambda self, b: tuple(v.flip(0) for v in plain(self, b))

def unfuse():
    import torch
    from fastai.optimizer import OptimWrapper
    from kd_knowledge.study import training
    training.optimiser = lambda study: dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=False))

PATCHES = {'images of each batch in reverse': reverse_batches, 'optimiser unfused': unfuse}

def study(name, options):
    "The default study in this process, changed as `name` says."
    from kd_knowledge.cli import kd_study
    PATCHES.get(name, lambda: None)()
    sys.exit(kd_study(options))

def run(name, world, options=(), env={}):
    "The headlines of one run, done in a process of its own."
    out = ROOT/'runs'/'stability'/name.replace(' ', '-').replace(',', '')
    command = [sys.executable, '-W', 'ignore', '-m', 'tests.study.stability', name, '--seed', str(world), '--out', str(out), *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, stdout=subprocess.DEVNULL)
    if done.returncode: raise SystemExit(f'{name} did not finish')
    rows = pd.read_csv(out/'headlines.csv', dtype=str, keep_default_na=False)
    return rows[~rows.student.str.endswith('*')].assign(run=name)[['run', *KEPT]]

def flips(rows):
    "probe x student: how many runs agree with the verdict of most, and whether `inherited` and `opposite` both occur."
    kind = rows.assign(kind=rows.verdict.str.extract(r'(\w+)', expand=False)).groupby(['probe', 'student']).kind
    both = kind.agg(lambda v: {'inherited', 'opposite'} <= set(v))
    return kind.agg(most=lambda v: v.mode()[0], agree=lambda v: (v == v.mode()[0]).sum(), runs='count').assign(both=both)

def report(rows):
    "Count the verdicts of KL and Hint that are those of most runs."
    for name, part in (('worlds', rows[rows.run.str.startswith('world')]), ('changes', rows[~rows.run.str.startswith('world')])):
        found = flips(part[part.student.isin(['KL', 'Hint'])])
        print(f'\n{name}: {found.agree.sum()} of {found.runs.sum()} verdicts of KL and Hint are those of most runs '
              f'({found.agree.sum()/found.runs.sum():.1%}); inherited and opposite both: {found.both.sum()}')
        print(found.to_string())

def main():
    runs = [(f'world {w}', w) for w in WORLDS] + [(name, WORLDS[0], *change) for name, change in CHANGES.items()]
    rows = []
    for i, r in enumerate(runs):
        print(f'{i + 1} of {len(runs)}: {r[0]}', flush=True)
        rows.append(run(*r))
        write_table(ROOT/'nbs'/'results'/'stability.csv', pd.concat(rows))
    report(pd.concat(rows).astype(dict(difference=float)))

if __name__ == '__main__':
    if len(sys.argv) > 1: study(sys.argv[1], sys.argv[2:])
    main()
