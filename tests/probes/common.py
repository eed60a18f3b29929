"What the tests of several probes share: small networks, images, casts, and networks that look their answers up."
import torch
import torch.nn.functional as F
from torch import nn

from kd_knowledge.data import Images
from kd_knowledge.models import frozen
from kd_knowledge.probes import Cast


def small_cnn(seed, classes=4):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1),
                        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5),
                        nn.Linear(8, classes))
    x = F.interpolate(torch.rand(50, 3, 4, 4), 16, mode='bilinear')
    with frozen(net), torch.no_grad(): net[8].bias -= net(x).mean(0)  # lest it give one answer to everything
    return net


def some_images(n=50, size=16, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = F.interpolate(torch.rand(n, 3, 4, 4, generator=g), size, mode='bilinear').mul(255).byte()
    vocab, masks = [str(i) for i in range(classes)], torch.rand(n, size, size, generator=g) < .3
    return Images(x, torch.arange(n) % classes, vocab, size, masks=masks)


def some_cast(make=small_cnn):
    return Cast(make(0), dict(Ind=[make(1), make(2)], KL=[make(3), make(4)]), dict(foreign=make(5)))


def left_on(net):
    "Hooks, modes, in-place flags, gradients and versions of the weights, and the buffers."
    kinds = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
    hooks = [sum(len(getattr(m, kind)) for kind in kinds) for m in net.modules()]
    modes = [(m.training, getattr(m, 'inplace', None)) for m in net.modules()]
    weights = [(p.requires_grad, p.grad is None, p._version) for p in net.parameters()]
    return hooks, modes, weights, [b.clone().tolist() for b in net.buffers()]


class Says(nn.Module):
    "Reads a number off the first pixel and gives the row of `logits` with that number."
    def __init__(self, logits):
        super().__init__()
        self.logits, self.recipe = nn.Parameter(logits.float()), dict(n_classes=logits.shape[1])

    def forward(self, x):
        low, high = (255*x[:, :2, 0, 0]).round().long().T
        return self.logits[low + 256*high]


def numbered(y, start=0, classes=3, vocab=None, **known):
    "Images with the numbers `start`, `start` + 1, ... in their first pixels."
    x, i = torch.zeros(len(y), 3, 8, 8).byte(), torch.arange(start, start + len(y))
    x[:, 0, 0, 0], x[:, 1, 0, 0] = i % 256, i//256
    return Images(x, y, vocab or [f'class {k}' for k in range(classes)], 8, **known)


def answering(answers, classes=3): return Says(F.one_hot(torch.as_tensor(answers), classes))


def a_cast(n, classes=3, logits=None):
    "A teacher, two independent and two distilled students and a foreign network that answer n images by lot."
    make = lambda seed: Says(torch.randn(n, logits or classes, generator=torch.Generator().manual_seed(seed)))
    return Cast(make(0), dict(Ind=[make(1), make(2)], KL=[make(3), make(4)]), dict(foreign=make(5)))


def answer(member, i): return member.net.logits[i].argmax().item()
