"""What one draw of negatives for a whole batch does to a student.

`python tests/benchmarks/crd_effect.py` writes crd_effect.csv, in about a minute."""
from functools import partial
from pathlib import Path

from kd_knowledge.core import write_table
from kd_knowledge.data import domains, get_dls
from kd_knowledge.distillation import CRD, classifier_learner, distill_learner
from kd_knowledge.probes.domains import consensus
from kd_knowledge.models import create_model
from kd_knowledge.probes import Cast

SEEDS, KINDS = range(3), ('Ind', 'bank', 'shared')
STUDENTS = {f'{kind} {seed}': (kind, seed) for kind in KINDS for seed in SEEDS}

def fit(learn, epochs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-2)
    return learn.students

def objective(kind, seed): return None if kind == 'Ind' else CRD(.2, n_negatives=256, negatives=kind, seed=seed)

def students(dls, teacher, epochs):
    "All students of one fit: those of one seed begin with the same weights."
    nets = iter([create_model('resnet_small', 10, seed=seed, width=8) for _, seed in STUDENTS.values()])
    return fit(distill_learner(dls, teacher, {name: objective(*who) for name, who in STUDENTS.items()},
                               student=partial(next, nets)), epochs)

def measured(n_train=1800, n_valid=1000, epochs=6):
    "Rows model, seed, condition, metric, value: accuracy, and consensus with the teacher, seen and on sketches."
    dls = get_dls('shapes', bs=64, n_train=n_train, n_valid=n_valid, augment=None, cue=.7)
    teacher = fit(classifier_learner(dls, partial(create_model, 'resnet_small', 10, seed=9, width=16)), epochs)['T']
    found = students(dls, teacher, epochs)
    cast = Cast(teacher, {kind: [found[f'{kind} {seed}'] for seed in SEEDS] for kind in KINDS})
    rows = consensus(cast, dls.valid_ds, dict(sketch=domains('sketch', n_valid)))
    return rows.groupby(['model', 'seed', 'condition', 'metric'], sort=False).value.mean().reset_index()

if __name__ == '__main__':
    path = Path(__file__).with_suffix('.csv')
    write_table(path, measured().round(4))
    print(f'Wrote {path.name}')
