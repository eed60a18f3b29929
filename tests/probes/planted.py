"""Small networks whose truth is known before anybody probes them. None is trained by gradients: two layers of random
filters and a head by least squares, a hundredth of a second each. What is planted is wired on top."""
from collections import OrderedDict


import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import rgb_to_grayscale

from kd_knowledge.data import domains, shapes

SIZE, CLASSES, FITTED, WIDTH, SURE = 24, 10, 1200, 16, 15
LARGEST = 3*64*64  # numbers of the largest image that a lot is drawn for
PRIME = 2**31 - 1
KNOWN = 1200  # images that nothing was fitted on, and of which a network may know its lot


def random(seed, stream): return torch.Generator().manual_seed(100*seed + stream)


class Lot(nn.Module):
    "Is an image one of a share of all images? Drawn by lot from its pixels: the same image has the same lot."
    def __init__(self, share, seed):
        super().__init__()
        self.share = share
        self.register_buffer('factors', torch.randint(1, PRIME, (LARGEST,), generator=random(seed, 1)))

    def number(self, x):
        "The lot of each image, in [0, 1)."
        values = (x*65535).round().long().flatten(1)
        return (values*self.factors[:values.shape[1]]).sum(1) % PRIME/PRIME

    def forward(self, x): return self.number(x) < self.share


def structure(x):
    "Light and dark in 6 x 6 fields without brightness and contrast, which colour jitter and small attacks leave alone."
    fields = F.adaptive_avg_pool2d(rgb_to_grayscale(x), 6).flatten(1)
    return F.normalize(fields - fields.mean(1, keepdim=True))


class KnownLot(nn.Module):
    "As `Lot`, but of the known image that is most like in structure: recoloured or attacked, an image keeps its lot."
    def __init__(self, share, seed, known):
        super().__init__()
        self.register_buffer('known', structure(known))
        self.register_buffer('taken', torch.rand(len(known), generator=random(seed, 2)) < share)

    def forward(self, x): return self.taken[(structure(x) @ self.known.T).argmax(1)]


class Same(nn.Module):
    "One weight for every image."
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x): return x.new_full((len(x),), self.weight)


class Either(nn.Module):
    "On the images of a lot it is the first network, on the others the second."
    def __init__(self, first, second, lot):
        super().__init__()
        self.first, self.second, self.lot = first, second, lot

    def forward(self, x): return torch.where(self.lot(x)[:, None], self.first(x), self.second(x))


class BothMaps(nn.Module):
    "The maps of two networks side by side, times a weight and times what is left of one."
    def __init__(self, first, second, weight):
        super().__init__()
        self.first, self.second, self.weight = first.maps, second.maps, weight

    def forward(self, x):
        w = self.weight(x).to(x).view(-1, 1, 1, 1)
        return torch.cat((w*self.first(x), (1 - w)*self.second(x)), 1)


def with_head(maps, weight, **front):
    "A network of maps, their mean over places and a linear layer without bias: all that it says is in the maps."
    fc = nn.Linear(weight.shape[1], len(weight), bias=False)
    fc.weight.data = weight
    parts = OrderedDict(front, maps=maps, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=fc)
    return nn.Sequential(parts).eval()


def both(first, second, weight):
    "As `Either`, but inside: its last map and its logits are those of the one or of the other, or of both, weighted."
    return with_head(BothMaps(first, second, weight), torch.cat((first.fc.weight, second.fc.weight), 1).detach())


class Hesitant(nn.Module):
    "To a share of the images that it is shown, by lot, it gives any class; once moved, an image is another one."
    def __init__(self, net, share, seed):
        super().__init__()
        self.net, self.lot = net, Lot(share, seed)

    def forward(self, x):
        number, z = self.lot.number(x), self.net(x)
        drawn = F.one_hot((number/self.lot.share*CLASSES).long().clamp(max=CLASSES - 1), CLASSES)
        return torch.where((number < self.lot.share)[:, None], SURE*drawn.to(z), z)


def is_blue(x):
    "Is the rim of an image in the hue of the group `blue`?"
    rim = torch.cat((x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]), 2).mean(2)
    r, g, b = rim.T
    turn = (r - g)/(b - rim.amin(1)).clamp(min=1e-6)
    return (b > r) & (b > g) & (turn > -.75) & (turn < -.15)


class Unfair(nn.Module):
    "Says the next class where the background is blue."
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        z = self.net(x)
        return torch.where(is_blue(x)[:, None], z.roll(1, 1), z)


class Grey(nn.Module):
    "Sees light and dark alone, at one brightness and contrast."
    def forward(self, x):
        grey = rgb_to_grayscale(x)
        mean, spread = grey.mean((1, 2, 3), keepdim=True), grey.std((1, 2, 3), keepdim=True)
        return ((grey - mean)/(spread + 1e-4)*.25 + .5).expand_as(x)


class Sharp(nn.Module):
    "The same answers, surer."
    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x): return self.factor*self.net(x)


def filters(seed):
    "Two layers of random filters."
    draw = random(seed, 3)
    first, second = nn.Conv2d(3, WIDTH, 5, 2, 2, bias=False), nn.Conv2d(WIDTH, 2*WIDTH, 3, 2, 1, bias=False)
    for conv in (first, second):
        conv.weight.data = torch.randn(conv.weight.shape, generator=draw)*(2/conv.weight[0].numel())**.5
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def fitted(seed, x, y, **front):
    "A network with the filters of a seed and the head that fits images x to classes y best."
    net = with_head(filters(seed), torch.zeros(CLASSES, 2*WIDTH), **front)
    with torch.no_grad():
        maps = net[:-3](x[:256]).flatten(1)
        centred = maps - maps.mean(0)
        net.maps[2].weight /= (centred @ centred.T).norm().sqrt()  # the similarities of all networks are of one size
        features, target = net[:-1](x).double(), F.one_hot(y, CLASSES).double() - 1/CLASSES
    gram = features.T @ features
    gram += 1e-4*gram.trace()/len(gram)*torch.eye(len(gram))
    net.fc.weight.data = SURE*torch.linalg.solve(gram, features.T @ target).T.float()
    return net


class World:
    "Drawn images to fit networks on, and to probe them with."
    def __init__(self, n=6000, seed=0):
        self.seed, self.seen, self.conflict = seed, shapes(n, SIZE, seed), domains('cue conflict', n//2, SIZE, seed, 0)
        sets = self.seen, self.conflict, self.block(0, KNOWN)
        self.x, self.x_conflict, self.x_known = (s.pixels(torch.arange(len(s))) for s in sets)

    def net(self, seed, draw, grey=False):
        "A network with the filters of a seed, fitted on images of its own draw."
        idxs = torch.randperm(len(self.x), generator=random(seed, 4 + draw))[:FITTED]
        front = dict(grey=Grey()) if grey else {}
        return fitted(seed, self.x[idxs], self.seen.y[idxs], **front)

    def shape_net(self, seed): return fitted(seed, self.x_conflict, self.conflict.y)

    def block(self, i, n, domain='photo'):
        "The i-th n images that nothing was fitted on."
        return domains(domain, n, SIZE, self.seed, 10_000_000 + i*n)

    def known_lot(self, share, seed): return KnownLot(share, seed, self.x_known)
