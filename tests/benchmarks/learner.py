"Bar 5: fastai's Learner with our callback, against a bare PyTorch loop that does the same arithmetic."
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from cohort import learners, loaders
from common import network
from harness import Case, at_most
from kd_knowledge.distillation import KL
from kd_knowledge.models import create_model, frozen

def ours(teacher, student, *sizes): return learners(partial(loaders, *sizes), teacher, student, [dict(KL=KL())])

def _step(net, teacher, x, y, tau=4.):
    with torch.no_grad(): soft = (teacher(x)/tau).softmax(1)
    logits = net(x)
    return .5*F.cross_entropy(logits, y) - .5*tau**2*(soft*(logits/tau).log_softmax(1)).sum(1).mean()

def bare(teacher, student, *sizes):
    dls, teacher, net = loaders(*sizes), network(teacher), create_model(student, 10, seed=0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=.01, fused=True)
    def run():
        net.train()
        with frozen(teacher):
            for x, y, _ in dls.train:
                _step(net, teacher, x, y).backward()
                optimiser.step()
                optimiser.zero_grad()
        net.eval()
        with torch.no_grad():
            for x, y, _ in dls.valid: F.cross_entropy(net(x), y)
    return run

def case(key, text, *what):
    return Case(f'learner {key}', 5, f'Learner, KL, {text}',
                {'ours': partial(ours, *what), 'bare loop': partial(bare, *what)}, [at_most('bare loop', 1.05)])

CASES = [case('resnet50', 'resnet50 to resnet18, 64 px, 192 images, batch 64', 'resnet50', 'resnet18', 192, 64, 64)]
