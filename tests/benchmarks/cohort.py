"Bar 4: five students of one teacher in one fit, against one fit after the other; and other ways to run them."
import atexit, contextlib, io, shutil, tempfile
from copy import deepcopy
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import labels, network, noise, pixels
from harness import Case, at_least, at_most
from kd_knowledge.data import Images, image_loaders
from kd_knowledge.distillation import CRD, KL, Hint, distill_learner

def objectives(): return {'Ind': None, "Ind'": None, 'KL': KL(), 'Hint': Hint(), 'CRD': CRD(negatives='bank', n_negatives=1024)}

def quiet(learn):
    def run():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return run

def learners(loaders, teacher, student, groups):
    "A fit of one epoch for each group of students."
    made = partial(network, teacher) if isinstance(teacher, str) else teacher
    with contextlib.redirect_stdout(io.StringIO()):
        found = [quiet(distill_learner(loaders(), made(), group, student=student, lr=1e-3))
                 for group in groups]
    def run():
        for fit in found: fit()
    return run

def together(*what): return learners(*what, [objectives()])
def alone(*what): return learners(*what, [{name: o} for name, o in objectives().items()])

def loaders(n, size, bs): return image_loaders(noise(n, size), noise(10, size), bs)

def _photographs(folder, n):
    "n different JPEGs of 2000 x 1500 px, cut from two photographs that come with scikit-learn."
    from PIL import Image
    from sklearn.datasets import load_sample_images
    photos, draw = [Image.fromarray(o) for o in load_sample_images().images], np.random.default_rng(0)
    for i in range(n):
        width, height = photos[i % 2].size
        left, top = draw.integers(width//4), draw.integers(height//4)
        box = left, top, left + 3*width//4, top + 3*height//4
        photos[i % 2].resize((2000, 1500), box=box).save(folder/f'{i:04d}.jpg', quality=90)

@cache
def photographs(n):
    "Their paths; the folder goes with the process."
    folder = Path(tempfile.mkdtemp(prefix='photographs-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _photographs(folder, n)
    return sorted(folder.iterdir())

def files(n, size, bs):
    paths, vocab = photographs(n), [str(i) for i in range(10)]
    train, valid = (Images(part, labels(len(part)), vocab, size, 'photographs') for part in (paths, paths[:10]))
    return image_loaders(train, valid, bs)

def case(key, text, limit, *what):
    return Case(f'cohort {key}', 4, f'five students, {text}',
                dict(ours=partial(together, *what)) | {'one by one': partial(alone, *what)},
                [at_most('one by one', limit)])

def students(name, n, size):
    nets = [deepcopy(network(name, seed)).train().to(memory_format=torch.channels_last) for seed in range(n)]
    return nets, pixels(64, size), labels(64)

def one_after_another(*what):
    "A step's forward and backward passes, as a cohort runs them."
    nets, x, y = students(*what)
    def run():
        for net in nets:
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
    return run

def stacked(*what):
    "The same in one pass through stacked weights."
    nets, x, y = students(*what)
    (weights, buffers), plan = torch.func.stack_module_state(nets), deepcopy(nets[0]).to('meta')
    answer = torch.func.vmap(lambda w, b: torch.func.functional_call(plan, (w, b), (x,)))
    def run():
        for w in weights.values(): w.grad = None
        sum(F.cross_entropy(logits, y) for logits in answer(weights, buffers)).backward()
    return run

def compiled(*what):
    nets, x, y = students(*what)
    fast = [torch.compile(net) for net in nets]
    def run():
        for net in fast:
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
    return run

def alike(name, n, size):
    return Case(f'cohort alike {name}', 4, f'a step of {n} students, {name}, {size} px, batch 64',
                {k: partial(f, name, n, size) for k, f in {'ours': one_after_another, 'torch.func stacking': stacked,
                                                           'torch.compile': compiled}.items()},
                [at_least('torch.func stacking', 1), at_least('torch.compile', 1)])

CASES = [case('arithmetic', 'resnet50 and resnet18, 64 px, 128 images, batch 64', .85, partial(loaders, 128, 64, 64),
              'resnet50', 'resnet18'),
         case('decoding', 'resnet_small, 200 JPEGs (2000 x 1500) at 32 px, batch 50', .35, partial(files, 200, 32, 50),
              'resnet_small', 'resnet_small'),
         alike('resnet_small', 4, 32), alike('resnet18', 4, 64)]
