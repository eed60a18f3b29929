"""The rule of evidence on casts whose truth is known, beside the rule that it replaced.

`python -m tests.probes.simulation` writes nbs/results/rule.csv and nbs/results/rule_rates.csv, in about ten minutes of
one core."""
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from kd_knowledge.core import progress, write_table
from kd_knowledge.probes.evidence import _Condition, _effect, _spread_of

RESULTS = Path(__file__).parents[2]/'nbs'/'results'
LUCK = .03  # standard deviation of a network's chance over seeds
SIZES = {2: .12, 4: .06, 6: .05, 8: .04}  # seeds -> the effect that is to be found

### Casts

def chances(rng, kinds, seeds, correlation, luck=LUCK):
    "What the seed does to each network, kinds x seeds; the networks of one seed correlate."
    shared, own = rng.standard_normal(seeds), rng.standard_normal((kinds, seeds))
    return luck*(correlation**.5*shared + (1 - correlation)**.5*own)

def draw(rng, effects, seeds, images, correlation, luck=LUCK):
    "Whether each network (kinds x seeds) meets each image; images differ, and differ by kind as well."
    kinds = len(effects)
    chance = chances(rng, kinds, seeds, correlation, luck) + np.asarray(effects)[:, None]
    hard = rng.normal(.5, .15, images) + rng.normal(0, .03, (kinds, 1, images))
    return rng.random((kinds, seeds, images), dtype=np.float32) < chance[..., None] + hard

def condition_of(values):
    "Values, kinds x seeds x images, as the estimator holds them."
    kinds, seeds, images = values.shape
    here = object.__new__(_Condition)
    here.values = values.reshape(-1, images).astype(np.float32)
    here.at = {k: {s: k*seeds + s for s in range(seeds)} for k in range(kinds)}
    return here

def effects_of(values, students, paired=True):
    "The estimator's effects of the first students; kind 0 is the independent one."
    here = condition_of(values)
    spread = _spread_of([(1, here)], list(range(len(values))), 0)
    return [_effect([(1, here)], k, 0, spread, paired)[0] for k in students]

def claims(values, students): return [not e.low <= 0 <= e.high for e in effects_of(values, students)]

def old_claims(values, students, rng, draws=1000):
    """What the old rule claimed: images resampled (here by the bootstrap's normal limit), networks as two groups with
    a pooled spread, and a difference outside the range of those between single independent students."""
    means, (kinds, seeds, images) = values.mean(2), values.shape
    freedom, found = kinds*(seeds - 1), []
    spread = (((means - means.mean(1, keepdims=True))**2).sum()/freedom)**.5
    for k in students:
        each = values[k].mean(0) - values[0].mean(0)
        luck = each.std()/images**.5*rng.standard_normal(draws)
        luck += spread*(2/seeds)**.5*rng.standard_t(freedom, size=draws)
        low, high = each.mean() + np.quantile(luck, [.025, .975])
        found.append(not low <= 0 <= high and abs(each.mean()) > np.ptp(means[0]))
    return found

### False claims and power

def cell(seed, kinds, seeds, images, correlation, casts):
    "Shares of claims of both rules, without an effect and with one."
    rng, size, students, found = np.random.default_rng(seed), SIZES[seeds], range(1, min(kinds, 4)), {}
    for name, effect in (('false', 0), ('power', size)):
        both = []
        for _ in range(casts):
            values = draw(rng, [0, *[effect]*(kinds - 1)], seeds, images, correlation)
            both.append([np.mean(claims(values, students)), np.mean(old_claims(values, students, rng))])
        found[name], found[f'{name}_old'] = np.mean(both, 0)
    return dict(kinds=kinds, seeds=seeds, correlation=correlation, images=images, casts=casts, effect=size, **found)

CELLS = [*product([7], [2, 4, 6, 8], [0, .4, .6, .9], [200, 5000]), *product([2, 4], [2, 4, 8], [0, .4, .9], [200])]

def uneven(casts=1000, seeds=4, images=200):
    "False claims of each of three students where the first varies four times as much over seeds as the others."
    rng, luck = np.random.default_rng(3), LUCK*np.array([[1], [2], [.5], [.5]])
    found = [claims(draw(rng, [0]*4, seeds, images, .4, luck), (1, 2, 3)) for _ in range(casts)]
    names = 'noisy', 'quiet', 'quiet too'
    return [('false claims, uneven spread', f'{name} student', v, casts) for name, v in zip(names, np.mean(found, 0))]

def rule(casts=1000):
    "A row for each cell."
    cells = [(kinds, seeds, images, correlation) for kinds, seeds, correlation, images in CELLS]
    return pd.DataFrame([cell(i, *c, casts) for i, c in enumerate(progress(cells, 'casts'))])

### Many headlines, and seeds added until it is enough

def discoveries(rng, real, seeds=4, headlines=12, images=200):
    "False and all claims of three students in twelve headlines, of which `real` have an effect: plain, and held to the rate."
    p, truth = [], []
    for h in range(headlines):
        effect = .08 if h < real else 0
        p += [e.p for e in effects_of(draw(rng, [0, *[effect]*6], seeds, images, .4), (1, 2, 3))]
        truth += [effect > 0]*3
    claimed = {'plain intervals': np.array(p) <= .05, 'false discovery rate': stats.false_discovery_control(p) <= .05}
    return {k: (c & ~np.array(truth)).sum()/max(c.sum(), 1) for k, c in claimed.items()}

def stopped(rng, correlation, half, most=16, first=4, images=1000):
    "Seeds are added until every interval reaches no farther than `half`: whether each holds its effect, and the seeds."
    effects = [0, .05, .02, 0, .05, .02, 0]
    values = draw(rng, effects, most, images, correlation)
    for seeds in range(first, most + 1):
        found = effects_of(values[:, :seeds], (1, 2, 3))
        if max(e.high - e.difference for e in found) <= half: break
    return np.mean([e.low <= true <= e.high for e, true in zip(found, effects[1:])]), seeds

def rates(casts=1000):
    "Rows question, case, value, casts."
    rng, rows = np.random.default_rng(0), uneven(casts)
    for real in (0, 4, 8):
        found = pd.DataFrame([discoveries(rng, real) for _ in progress(range(casts), f'{real} real')]).mean()
        rows += [(name, f'{real} of 12 headlines real', value, casts) for name, value in found.items()]
    for correlation, half in product((0, .4, .9), (.02, .03, .04)):
        found = np.array([stopped(rng, correlation, half) for _ in progress(range(casts), f'stop at {half}')])
        case = f'correlation {correlation}, +-{100*half:g} points, {found[:, 1].mean():.1f} seeds'
        rows.append(('coverage when stopped', case, found[:, 0].mean(), casts))
    return pd.DataFrame(rows, columns='question case value casts'.split())

if __name__ == '__main__':
    casts = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    write_table(RESULTS/'rule_rates.csv', rates(casts).round(4))
    write_table(RESULTS/'rule.csv', rule(casts).round(4))
    print(f'Wrote {RESULTS/"rule.csv"} and rule_rates.csv')
