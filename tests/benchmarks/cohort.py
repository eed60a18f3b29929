"Bar 4: five students of one teacher in one fit, against one fit after the other."
import atexit, contextlib, io, shutil, tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
from common import labels, network, noise
from harness import Case, at_most
from kd_knowledge.data import Images, image_loaders
from kd_knowledge.distillation import CRD, KL, Hint, distill_learner

def objectives(): return {'Ind': None, "Ind'": None, 'KL': KL(), 'Hint': Hint(), 'CRD': CRD(n_negatives=1024)}

def quiet(learn):
    def run():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return run

def learners(loaders, teacher, student, groups):
    "A fit of one epoch for each group of students."
    with contextlib.redirect_stdout(io.StringIO()):
        found = [quiet(distill_learner(loaders(), network(teacher), group, student=student, lr=1e-3)) for group in groups]
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
        photos[i % 2].resize((2000, 1500), box=(left, top, left + 3*width//4, top + 3*height//4)).save(folder/f'{i:04d}.jpg', quality=90)

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
                dict(ours=partial(together, *what)) | {'one by one': partial(alone, *what)}, [at_most('one by one', limit)])

CASES = [case('arithmetic', 'resnet50 and resnet18, 64 px, 128 images, batch 64', .85, partial(loaders, 128, 64, 64), 'resnet50', 'resnet18'),
         case('decoding', 'resnet_small, 200 JPEGs (2000 x 1500) at 32 px, batch 50', .35, partial(files, 200, 32, 50), 'resnet_small', 'resnet_small')]
