"Bar 6: decision boundaries in the plane of three images."
import contextlib, io, os, sys
from functools import cache, partial
from importlib import import_module
from types import ModuleType, SimpleNamespace

import torch
from common import checkout, network, noise
from harness import Case, at_least, at_most, exact
from kd_knowledge.probes.boundary import boundary, plane, triplets
from kd_knowledge.probes import Cast

NET, POINTS, SIZE = 'resnet18', 50, 32

@cache
def subject():
    "Three images, and two networks whose answers differ over their plane."
    nets = network(NET), network(NET, seed=1)
    return noise(3, SIZE), nets, Cast(nets[0], dict(Ind=nets[1]))

def corners():
    images, *_ = subject()
    return images.pixels(triplets(images, 1)[0])

def ours():
    images, _, cast = subject()
    return lambda: boundary(cast, images, planes=1, points=POINTS)

def forward():
    "The networks alone, on batches of the same points that are there already."
    batches, nets = list(plane(corners(), POINTS).batches(256)), subject()[1]
    @torch.inference_mode()
    def run():
        for x in batches:
            for net in nets: net(x)
    return run

@cache
def dbviz():
    "Its modules `data` and `evaluation`; what these import of its model zoo, which needs more libraries, is left out."
    folder, names = str(checkout('DBVIZ')), ('data', 'evaluation', 'utils', 'model')
    before = {n: sys.modules.pop(n) for n in names if n in sys.modules}
    sys.modules['model'] = ModuleType('model')
    sys.modules['model'].get_teacher_model = None
    sys.path.insert(0, folder)
    try: return import_module('data').make_planeloader, import_module('evaluation').decision_boundary
    finally:
        sys.path.remove(folder)
        for n in names: sys.modules.pop(n, None)
        sys.modules.update(before)

def agreement(answers): return (answers[0] == answers[1]).double().mean().item()

def dbviz_answers():
    make, answer = dbviz()
    args, (_, nets, _) = SimpleNamespace(resolution=POINTS, range_l=.1, range_r=.1, dryrun=False), subject()
    x = list(corners())
    def run(): return [torch.stack(answer(args, net, make(x, args), 'cpu')).argmax(1) for net in nets]
    return run

def dbviz_timed():
    run = dbviz_answers()
    return lambda: None if agreement(run()) else None

def difference():
    mine, theirs = ours(), dbviz_answers()
    def run():
        rows = mine()
        return abs(rows[rows.metric == 'agreement'].value.item() - agreement(theirs()))
    return run

# the two agreements are means over the same points: one point in 2,500 may fall on the other side by rounding
worst = "difference from dbViz's agreement"
text = f'boundary, {POINTS} x {POINTS} points, two {NET}, {SIZE} px'
CASES = [Case('planes time', 6, text, {'ours': ours, 'forward': forward, 'dbViz': dbviz_timed},
              [at_most('forward', 1.1), at_least('dbViz', 1)]),
         Case('planes values', 6, f'{text}: answers', {worst: difference}, [exact(worst, 1e-3)], once=True)]
