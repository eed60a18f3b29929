"Bar 12: a move of a control is answered at once, with networks and images as in the default study."
import time
from functools import cache, partial
from statistics import median

import pandas as pd
from harness import Case, exact
from kd_knowledge.data import get_images
from kd_knowledge.explorer import EXPLORERS, Scene
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast, invariance, localization
from kd_knowledge.study.config import Study

MOVES = dict(
    Looks=dict(image=5, stage='F2', target='ring', order='KL, strongest', search='1'),
    Fooled=dict(eps=16, steps=3, image=4),
    Unmoved=dict(brightness=.5, contrast=1.5, saturation=.2, hue=.2, crop=.6, shift=3, curve='crop', image=8),
    Boundary=dict(first=40, second=41, third=42),
    Report=dict(probe='colour', condition='0.4', networks=('Hint',)))

@cache
def scene():
    "Networks with random weights, images, and rows on the first 32."
    study = Study().filled()
    def network(name, args, seed): return create_model(name, 10, **args, seed=seed).eval()
    names = ['Ind', *study.objectives]
    students = {name: network(study.student, study.student_args, i) for i, name in enumerate(names, 1)}
    cast = Cast(network(study.teacher, study.teacher_args, 0), students)
    images = get_images(study.data, 'valid', n=64, size=study.size, **study.data_args)
    few = images.subset(range(32))
    rows = localization(cast, few), invariance(cast, few, colours=(.2, .4), crops=(.5,), shifts=(4,))
    return Scene(cast, images, pd.concat(rows))

def reaction(name):
    """Seconds from a move to the new picture, the median of moves there, back, and there again; of wall and processor
    time the less, which is what counts where others keep the machine busy."""
    explorer = EXPLORERS[name](scene())
    first = explorer.state
    def seconds(control, value):
        start = time.perf_counter(), time.process_time()
        explorer.controls[control].value = value
        return min(time.perf_counter() - start[0], time.process_time() - start[1])
    return lambda: median(seconds(k, state[k]) for state in (MOVES[name], first, MOVES[name]) for k in MOVES[name])

def case(name):
    text, what = f'{name}: a move of a control, seconds', dict(seconds=partial(reaction, name))
    return Case(f'explorer {name}', 12, text, what, [exact('seconds', .2)])

CASES = [case(name) for name in MOVES]
