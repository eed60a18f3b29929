"Bar 3: one step of contrastive distillation, forward and backward, with K = 16384 negatives and 64 images a batch."
import contextlib, importlib.util, io, sys
from functools import cache, partial
from importlib import import_module
from types import SimpleNamespace
from unittest.mock import patch

import torch
from common import checkout, labels
from harness import Case, at_least, at_most, exact
from kd_knowledge.torch_core import generator
from kd_knowledge.data import Images
from kd_knowledge.distillation import CRD

BATCH, K, STUDENT, TEACHER = 64, 16384, 512, 2048

@cache
def batch(n):
    "Features of student and teacher, classes and places of a batch."
    draw = generator('crd', n)
    student = torch.randn(BATCH, STUDENT, generator=draw).requires_grad_()
    teacher = torch.randn(BATCH, TEACHER, generator=draw)
    index = torch.randperm(n, generator=draw)[:BATCH]
    return student, teacher, labels(n, classes(n))[index], index

def classes(n): return 100 if n < 10**6 else 1000

def built(n):
    loss, (student, teacher, *_) = CRD(negatives='bank', n_negatives=K), batch(n)
    loss.student_layers, loss.teacher_layers = ['student'], ['teacher']
    with contextlib.redirect_stdout(io.StringIO()):
        loss.build(dict(student=student), dict(teacher=teacher),
                   Images(range(n), labels(n, classes(n)), [str(i) for i in range(classes(n))], 32))
    return loss

def ours(n):
    loss, (student, teacher, y, index) = built(n), batch(n)
    return lambda: loss(dict(student=student), dict(teacher=teacher), y, index).backward()

def criterion():
    "RepDistiller's module `crd.criterion`, under a name of its own."
    if 'repdistiller' not in sys.modules:
        spec = importlib.util.spec_from_file_location('repdistiller', checkout('REPDISTILLER')/'crd'/'__init__.py')
        sys.modules['repdistiller'] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules['repdistiller'])
    return import_module('repdistiller.criterion')

def repdistiller(n):
    "Its loss on the CPU: `.cuda()` gives back what it is called on while the loss is made."
    options = SimpleNamespace(s_dim=STUDENT, t_dim=TEACHER, feat_dim=128, n_data=n, nce_k=K, nce_t=.07, nce_m=.5)
    module, (student, teacher, _, index) = criterion(), batch(n)
    with patch.object(torch.Tensor, 'cuda', lambda self: self): loss = module.CRDLoss(options)
    def run():
        with contextlib.redirect_stdout(io.StringIO()): loss(student, teacher, index).backward()
    return run

def bank(n): return lambda: sum(b.numel()*b.element_size() for b in built(n).buffers())/2**20

def cases(n, name, limit):
    who = dict(ours=partial(ours, n), RepDistiller=partial(repdistiller, n))
    text = f'CRD step, K = {K}, batch {BATCH}, {name} images'
    return [Case(f'crd {n}', 3, text, who, [at_least('RepDistiller', limit)]),
            Case(f'crd {n} memory', 3, f'{text}: extra memory, MB', who, [at_most('RepDistiller', .2)], memory='extra')]

CASES = [*cases(50_000, '50,000', 10), *cases(1_280_000, '1.28 million', 2),
         Case('crd bank', 3, 'CRD, all that is kept for 1.28 million images, MB', {'MB': partial(bank, 1_280_000)},
              [exact('MB', 1400)], once=True)]
