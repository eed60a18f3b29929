"Bar 6: CKA of 7 x 7 layers."
from contextlib import suppress
from functools import cache, partial

import torch
from common import network, noise
from harness import Case, at_least, at_most, exact
from kd_knowledge.models import anatomy, taps
from kd_knowledge.probes import Cast
from kd_knowledge.probes.representation import cka_matrices
from torch.utils.data import DataLoader, TensorDataset

BATCH, TEACHER, STUDENT = 128, 'resnet50', 'resnet18'

@cache
def subject(n): return noise(n, 64), Cast(network(TEACHER), dict(Ind=network(STUDENT)))

@cache
def modules(name):
    "Seven modules: stem, stages, pooled features, logits."
    net = network(name)
    return [o.removesuffix(':input') if o != anatomy(net).penultimate
            else f'{anatomy(net).head.rpartition(".")[0]}.avgpool'.lstrip('.') for o in anatomy(net).layers.values()]

def ours(n, bs=BATCH, batches=None):
    images, cast = subject(n)
    named = dict(T=modules(TEACHER), Ind=modules(STUDENT))
    return lambda: cka_matrices(cast, images, named, bs, batches or n//bs)

def loader(n):
    images, _ = subject(n)
    return DataLoader(TensorDataset(images.pixels(range(n)), images.y), BATCH)

def forward(n):
    batches, nets = loader(n), [network(o) for o in (TEACHER, STUDENT)]
    @torch.inference_mode()
    def run():
        for x, _ in batches:
            for net in nets: net(x)
    return run

def torch_cka(n):
    from torch_cka import CKA
    cka, batches = CKA(network(TEACHER), network(STUDENT), 'teacher', 'student', modules(TEACHER), modules(STUDENT),
                       device='cpu'), loader(n)
    def run():
        with torch.no_grad(), suppress(AssertionError):
            cka.compare(batches, batches) # at the very end it may find that float32 gave it an HSIC below 0
    return run

def pytorch_cka(n):
    from cka import compute_cka
    batches = loader(n)
    return lambda: compute_cka(network(TEACHER), network(STUDENT), batches, layers=modules(TEACHER),
                               model2_layers=modules(STUDENT), device='cpu', progress=False)

def _hsic(k, l):
    "Song 2012, equation 5, in float64."
    n = len(k)
    k, l = k.clone().fill_diagonal_(0), l.clone().fill_diagonal_(0)
    return ((k*l).sum() + k.sum()*l.sum()/(n - 1)/(n - 2) - 2/(n - 2)*(k.sum(0) @ l.sum(0)))/n/(n - 3)

def _grams(name, x):
    net = network(name)
    with torch.inference_mode(), taps(net, *modules(name)) as seen:
        net(x)
        return [(f := seen[o].flatten(1).double()) @ f.T for o in modules(name)]

def difference(n):
    "The largest difference of 7 x 7 values of one batch from the same in float64, of the same features."
    run, (images, _) = ours(n, n, 1), subject(n)
    def check():
        teacher, student = (_grams(o, images.pixels(range(n))) for o in (TEACHER, STUDENT))
        expected = torch.stack([torch.stack([_hsic(k, l)/(_hsic(k, k)*_hsic(l, l))**.5 for l in student])
                                for k in teacher])
        return (torch.tensor(run()['Ind', 0].values) - expected).abs().max().item()
    return check

def case(n):
    who = dict(ours=ours, forward=forward) | {'torch-cka': torch_cka, 'pytorch-cka': pytorch_cka}
    return Case('layers time', 6, f'CKA, 7 x 7 layers, {TEACHER} and {STUDENT}, 64 px, {n} images, batch {BATCH}',
                {k: partial(f, n) for k, f in who.items()},
                [at_most('forward', 1.2), at_least('torch-cka', 1), at_least('pytorch-cka', 1)])

worst = 'largest difference from float64'
CASES = [case(384), Case('layers values', 6, 'CKA, 7 x 7 layers, 256 images in one batch',
                         {worst: partial(difference, 256)}, [exact(worst, 1e-5)], once=True),
         Case('layers memory', 6, 'CKA, 7 x 7 layers, 1,024 images, batch 128: peak memory, MB',
              {'ours': partial(ours, 1024), '256 images': partial(ours, 256)},
              [at_most('256 images', 1.05)], memory='peak')]
