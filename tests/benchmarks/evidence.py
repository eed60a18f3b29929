"The verdicts of many images: seconds and memory of `estimate`."
import time
from functools import cache

import numpy as np
import pandas as pd
from harness import Case, exact
from kd_knowledge.probes.core import Member, table
from kd_knowledge.probes.evidence import estimate

IMAGES, CONDITIONS = 50_000, ('0.2', '0.4', '0.6', '0.8', '1.0')
KINDS = dict(Ind='control', KL='student', CRD='student')
NETWORKS = [('T', 'teacher', 0), *[(name, role, seed) for name, role in KINDS.items() for seed in range(3)]]

@cache
def rows():
    "The answers of ten networks to all images under each condition, right or wrong."
    rng = np.random.default_rng(0)
    share = dict(T=.8, Ind=.5, KL=.6, CRD=.55)
    return pd.concat([table('colour', c, 'agreement', Member(name, role, seed, None), np.arange(IMAGES),
                            rng.random(IMAGES) < share[name]) for c in CONDITIONS for name, role, seed in NETWORKS],
                     ignore_index=True)

def seconds():
    given = rows()
    def run():
        start = time.perf_counter()
        estimate(given)
        return time.perf_counter() - start
    return run

def memory():
    given = rows()
    return lambda: estimate(given)

TEXT = f'estimate, {IMAGES:,} images x {len(NETWORKS)} networks x {len(CONDITIONS)} conditions'
CASES = [Case('evidence seconds', 16, f'{TEXT}: seconds', dict(seconds=seconds), [exact('seconds', 5)]),
         Case('evidence memory', 16, f'{TEXT}: peak memory beside its rows, MB', dict(MB=memory), [exact('MB', 1500)],
              memory='extra')]
