"Networks with random weights and images of noise: what the cases have in common."
import os
from functools import cache
from pathlib import Path

import torch
from harness import Missing
from kd_knowledge.core import generator
from kd_knowledge.data import Images
from kd_knowledge.models import create_model

@cache
def network(name, n_classes=10, seed=0): return create_model(name, n_classes, seed=seed).eval()

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
