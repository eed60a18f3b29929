"""What CRD does to a student, by where its negatives come from: beside the independent student, world by world.

`python tests/benchmarks/crd_effect.py` writes crd_effect.csv, in about two minutes on two quiet cores. Two forms are no
option of CRD; they show what a bank must not be: one that begins with random rows (`noise`), and one whose rows are
all embedded anew at the start of each epoch (`anew`)."""
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from kd_knowledge.core import write_table
from kd_knowledge.data import Augment, domains, get_dls
from kd_knowledge.distillation import CRD, classifier_learner, distill_learner
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast, colour_invariance
from kd_knowledge.probes.domains import consensus

WORLDS = range(100, 105)  # pilot worlds: one teacher and one student of each form in each
FORMS = dict(Ind=None, **{f'batch {w}': CRD(w) for w in (.5, .8)},
             **{f'{form} .2': CRD(.2, negatives='shared' if form == 'shared' else 'bank')
                for form in ('bank', 'shared', 'noise', 'anew')})

class Overwrite(Callback):
    "Random rows in one bank before the first step, today's embeddings in another before each epoch."
    order = 9 # after the banks were filled
    def before_fit(self):
        noise = self.model.objectives['noise .2'][0].bank
        noise.copy_(F.normalize(torch.randn(noise.shape, generator=torch.Generator().manual_seed(0)), dim=1))

    def before_epoch(self):
        anew = self.model.objectives['anew .2'][0]
        anew.filled.zero_()
        anew.pending = None
        self.model.survey(self.dls.train_ds)

def fit(learn, epochs):
    learn.to_channelslast(use_amp=False)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-2)
    return learn.students

def loaders(world, jitter, seed):
    return get_dls('shapes', bs=64, size=24, n_train=1800, n_valid=800, cue=.7, data_seed=world, seed=seed, device='cpu',
                   augment=Augment(crop=(.5, 1), flip=True, jitter=jitter))

def measured(world):
    "Rows form, condition, metric, value of one world: accuracy and agreement with the teacher, seen, jittered, sketched."
    torch.set_num_threads(1)
    net = partial(create_model, 'resnet_small', 10)
    teacher = fit(classifier_learner(loaders(world, .4, world), partial(net, seed=world, width=16)), 12)['T']
    dls = loaders(world, 0, world + 1)
    learn = distill_learner(dls, teacher, FORMS, partial(net, seed=world + 1, width=8), world + 1, cbs=Overwrite())
    cast = Cast(teacher, {name: [student] for name, student in fit(learn, 8).items()})
    sketches = domains('sketch', 800, size=24, seed=world, cue=.7)
    rows = [consensus(cast, dls.valid_ds, dict(sketch=sketches)), colour_invariance(cast, dls.valid_ds, strengths=[.4])]
    means = pd.concat(rows).groupby(['model', 'probe', 'condition', 'metric'], sort=False).value.mean().reset_index()
    return means.assign(world=world)

if __name__ == '__main__':
    with ProcessPoolExecutor(2, get_context('spawn')) as pool: rows = pd.concat(pool.map(measured, WORLDS))
    path = Path(__file__).with_suffix('.csv')
    write_table(path, rows['world model probe condition metric value'.split()].round(4))
    print(f'Wrote {path.name}')
