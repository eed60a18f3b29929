"Bar 2: iterative FGSM."
from contextlib import ExitStack
from copy import deepcopy
from functools import cache, partial

import torch
import torch.nn.functional as F
from common import network, pixels
from harness import Case, at_least, at_most, exact
from kd_knowledge.probes.adversarial import fgsm
from kd_knowledge.models import folded, frozen

STEPS, blocks = 5, ExitStack()

@cache
def subject(name, n):
    "A network, images, and its own answers as the true classes."
    net, x = network(name), pixels(n, 64)
    with torch.inference_mode(): y = net(x).argmax(1)
    return net, x, y.clone()

@cache
def prepared(*what):
    "A copy, folded once for all batches, as the probe does it and as the peers make their models."
    net, x, _ = subject(*what)
    return blocks.enter_context(folded(deepcopy(net), x[:2]))

def ours(eps, *what, **options):
    _, x, y = subject(*what)
    return partial(fgsm, prepared(*what), x, y, eps, STEPS, eps/STEPS, **options)

ours_bfloat16 = partial(ours, bfloat16=True)

def forwards(eps, *what):
    net, x, _ = subject(*what)
    @torch.inference_mode()
    def run():
        for _ in range(STEPS): net(x)
    return run

def reference(net, x, y, eps):
    "The attack as its definition reads, weights frozen."
    alpha, changed = eps/STEPS, x
    with frozen(net):
        for _ in range(STEPS):
            changed = changed.detach().requires_grad_()
            gradient, = torch.autograd.grad(F.cross_entropy(net(changed), y, reduction='sum'), changed)
            changed = (changed.detach() + alpha*gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return changed

def loop(eps, *what): return partial(reference, *subject(*what), eps)

def torchattacks(eps, *what):
    from torchattacks import BIM
    net, x, y = subject(*what)
    attack = BIM(deepcopy(net), eps, eps/STEPS, STEPS)
    return lambda: attack(x, y)

def foolbox(eps, *what):
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfBasicIterativeAttack
    net, x, y = subject(*what)
    model = PyTorchModel(deepcopy(net), bounds=(0, 1))
    attack = LinfBasicIterativeAttack(abs_stepsize=eps/STEPS, steps=STEPS)
    return lambda: attack(model, x, y, epsilons=eps)

def fooled(net, changed, y):
    with torch.inference_mode(): return (net(changed.float()).argmax(1) != y).double().mean().item()

def rates(mine, eps, *what):
    "How far our fooling rate is from torchattacks', both asked of the same network in float32."
    net, _, y = subject(*what)
    a, b = mine(eps, *what), torchattacks(eps, *what)
    return lambda: abs(fooled(net, a(), y) - fooled(net, b(), y))

def _double(*what):
    net, x, y = subject(*what)
    return deepcopy(net).double(), x.double(), y

def float64(*what):
    net, x, y = _double(*what)
    return lambda: (fgsm(net, x, y, 8/255, STEPS, 8/255/STEPS) - reference(net, x, y, 8/255)).abs().max().item()

def left(*what):
    "How many modules and weights an attack leaves in another state: modes, flags, gradients, hooks."
    net, x, y = subject(*what)
    state = lambda: [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()] + \
                    [(p.requires_grad, p.grad is None) for p in net.parameters()]
    def run():
        net.train()
        before = state()
        fgsm(net, x, y, 8/255, 1)
        after = state()
        net.eval()
        return float(sum(a != b for a, b in zip(before, after)) + abs(len(before) - len(after)))
    return run

def case(name, n):
    what = {'ours': ours, 'ours in bfloat16': ours_bfloat16, 'five forwards': forwards, 'plain loop': loop,
            'torchattacks': torchattacks, 'foolbox': foolbox}
    rules = [at_least('torchattacks', 1.2), at_least('foolbox', 1.6), at_most('plain loop', 1),
             at_least('torchattacks', 2, ours='ours in bfloat16')]
    return Case(f'attacks {name}', 2, f'FGSM, 5 steps, {name}, 64 px, {n} images',
                {k: partial(f, 8/255, name, n) for k, f in what.items()}, rules)

def exactly(key, text, number, run, limit):
    return Case(f'attacks {key}', 2, text, {number: run}, [exact(number, limit)], once=True)

FEW = 1/2550 # of the pixels' range: fools some of the images and not all
CASES = [case('resnet18', 64), case('resnet50', 32),
         exactly('float64', 'FGSM, 5 steps, resnet18, 64 px, 8 images, float64', 'largest difference from a plain loop',
                 partial(float64, 'resnet18', 8), 1e-9),
         exactly('rate', 'FGSM, 5 steps, resnet18, 64 px, 256 images, float32',
                 'fooling rate, difference from torchattacks',
                 partial(rates, ours, FEW, 'resnet18', 256), .005),
         exactly('bfloat16 rate', 'FGSM, 5 steps, resnet18, 64 px, 256 images, bfloat16',
                 'fooling rate, difference from torchattacks',
                 partial(rates, ours_bfloat16, FEW, 'resnet18', 256), .005),
         exactly('left', 'FGSM, resnet18, 64 px, 8 images, in training mode',
                 'modules and weights left in another state', partial(left, 'resnet18', 8), 0)]
