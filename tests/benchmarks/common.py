"Networks with random weights and images of noise: what the cases have in common."
import os
from functools import cache
from pathlib import Path

import torch
from harness import Missing
from kd_knowledge.torch_core import generator
from kd_knowledge.data import Images
from kd_knowledge.models import create_model

@cache
def network(name, seed=0, **kwargs):
    "A network with random weights, whose batch norms have seen noise: without that it answers the same to every image."
    net = create_model(name, 10, seed=seed, **kwargs)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms: m.momentum = 1.
    with torch.no_grad(): net(pixels(64, 32))
    for m in norms: m.momentum = .1
    return net.eval()

def pixels(n, size): return torch.rand(n, 3, size, size, generator=generator('benchmark', n, size))

def labels(n, classes=10): return torch.arange(n) % classes

def noise(n, size, classes=10):
    "`Images` of uniform noise."
    x = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator('benchmark', n, size))
    return Images(x, labels(n, classes), [f'class {i}' for i in range(classes)], size, 'noise')

def checkout(variable):
    "The folder of a peer's source that an environment variable names."
    folder = Path(os.environ.get(variable, ''))
    if variable not in os.environ: raise Missing(f'{variable} names no folder with a clone of it')
    if not folder.is_dir(): raise Missing(f'{variable}: there is no folder {folder}')
    return folder
