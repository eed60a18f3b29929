"""Objectives: what each costs beside its student's forward and backward pass, beside RepDistiller's loss on the same
tensors, and all of them in one cohort beside one fit after the other."""
import importlib, sys
from functools import cache, partial

import torch
from cohort import learners, loaders
from common import checkout, labels, network, pixels
from harness import Case, at_most
from torch.nn.functional import cross_entropy
from kd_knowledge.distillation import OBJECTIVES, logits, vectors
from kd_knowledge.models import frozen, taps

BATCH, SIZE, STUDENT, TEACHER = 64, 64, 'resnet18', 'resnet50'
TAUGHT = [name for name, kind in OBJECTIVES.items() if kind.needs_teacher and name != 'Choose'] # which alone is KL
CHEAP = [name for name in TAUGHT if OBJECTIVES[name].__module__ in (logits.__name__, vectors.__name__) or name == 'KL']

@cache
def batch(): return pixels(BATCH, SIZE), labels(BATCH), torch.arange(BATCH)

def read(net, layers, x):
    with frozen(net), torch.no_grad(), taps(net, *layers) as seen: z = net(x)
    return dict(seen, logits=z)

def built(name):
    "An objective, and what it is given of a batch: the student's part with gradients."
    objective, (x, y, index) = OBJECTIVES[name](), batch()
    teacher, student = network(TEACHER), objective.adapt(network.__wrapped__(STUDENT), network(TEACHER))
    objective.choose_layers(student, teacher)
    mine, theirs = read(student, objective.student_layers, x), read(teacher, objective.teacher_layers, x)
    objective.build(mine, theirs, Labels(y))
    mine = {k: v.requires_grad_() for k, v in mine.items()}
    mine, theirs = ({**{f'{view} logits': seen['logits'] for view in objective.views}, **seen} for seen in (mine, theirs))
    return objective, mine, theirs, y, index

class Labels:
    "As much of training images as an objective asks for."
    def __init__(self, y): self.y = y
    def __len__(self): return len(self.y)

def ours(name):
    objective, *given = built(name)
    return lambda: objective(*given).backward()

def student():
    "Forward and backward of the network that learns."
    net, (x, y, _) = network.__wrapped__(STUDENT).train(), batch()
    def run():
        net.zero_grad()
        cross_entropy(net(x), y).backward()
    return run

THEIRS = dict( # objective -> RepDistiller's module, class, arguments, what it is given of student and teacher
    KL=('KD', 'DistillKL', dict(T=4), 'logits'), AT=('AT', 'Attention', {}, 'maps'), SP=('SP', 'Similarity', {}, 'last'),
    RKD=('RKD', 'RKDLoss', {}, 'vector'), PKT=('PKT', 'PKT', {}, 'vector'), NST=('NST', 'NSTLoss', {}, 'maps'))

def repdistiller(name):
    "RepDistiller's loss on the tensors that ours is given."
    module, kind, kwargs, what = THEIRS[name]
    root = str(checkout('REPDISTILLER'))
    if root not in sys.path: sys.path.append(root)
    loss = getattr(importlib.import_module(f'distiller_zoo.{module}'), kind)(**kwargs)
    objective, mine, theirs, *_ = built(name)
    if what == 'logits': return lambda: loss(mine['logits'], theirs['logits']).backward()
    flat = (lambda v: v.flatten(1)) if what == 'vector' else lambda v: v
    def run():
        pairs = [(flat(mine[a]), flat(theirs[b])) for a, b in zip(objective.student_layers, objective.teacher_layers)]
        given = pairs[0] if what == 'vector' else [list(side) for side in zip(*pairs)]
        found = loss(*given)
        (sum(found) if isinstance(found, list) else found).backward()
    return run

def beside_student(name):
    text = f'{name} beside a step of {STUDENT}, teacher {TEACHER}, batch {BATCH}, {SIZE} px'
    who = dict(ours=partial(ours, name), student=student)
    return Case(f'objectives {name}', 15, text, who, [at_most('student', .15 if name in CHEAP else 1)])

def beside_repdistiller(name):
    text = f'{name}, forward and backward, batch {BATCH}, {SIZE} px, the same tensors'
    who = dict(ours=partial(ours, name), RepDistiller=partial(repdistiller, name))
    return Case(f'objectives {name} RepDistiller', 15, text, who, [at_most('RepDistiller', 1)])

EIGHTEEN = 'KL DKD NKD DIST LSKD WTTM MLLD AT SP RKD PKT VID ReviewKD SRRL CATKD SimKD Hint CRD'.split()

def together(*what): return learners(*what, [{k: OBJECTIVES[k]() for k in EIGHTEEN}])
def alone(*what): return learners(*what, [{k: OBJECTIVES[k]()} for k in EIGHTEEN])

LARGE = partial(network, 'resnet_small', width=28) # three times the parameters of width 16

CASES = [*map(beside_student, TAUGHT), *map(beside_repdistiller, THEIRS),
         Case('objectives cohort', 15, f'{len(EIGHTEEN)} students, teacher three times as large, 32 px, 512 images',
              {'ours': partial(together, partial(loaders, 512, 32, 64), LARGE, 'resnet_small'),
               'one by one': partial(alone, partial(loaders, 512, 32, 64), LARGE, 'resnet_small')},
              [at_most('one by one', .7)])]
