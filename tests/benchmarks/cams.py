"Bar 1: Grad-CAM of the true class."
from contextlib import ExitStack
from copy import deepcopy
from functools import cache, partial

import torch
from common import labels, network, pixels
from harness import Case, at_least, at_most, exact
from kd_knowledge.probes.localization import grad_cam
from kd_knowledge.models.folding import _SmallMapConv
from kd_knowledge.models import anatomy, folded

blocks = ExitStack()

@cache
def subject(name, size, n): return network(name), pixels(n, size), labels(n), anatomy(network(name))

def plain(name):
    "A network of its own whose ReLUs do not work in place: the peers' hooks need that."
    net = deepcopy(network(name))
    for m in net.modules():
        if getattr(m, 'inplace', False): m.inplace = False
    return net, net.get_submodule(anatomy(net).last_map)

@cache
def prepared(*what):
    "A copy, folded once for all batches, as the probe does it."
    net, x, _, where = subject(*what)
    return blocks.enter_context(folded(deepcopy(net), x[:2], where.last_map))

def ours(*what):
    _, x, y, where = subject(*what)
    return partial(grad_cam, prepared(*what), x, y, where)

def forward(*what):
    net, x = prepared(*what), subject(*what)[1]
    @torch.inference_mode()
    def run(): net(x)
    return run

def convolutions(*what):
    "The same without matrices in the place of convolutions of small maps."
    net, x = deepcopy(prepared(*what)), subject(*what)[1]
    for m in net.modules():
        if type(m) is _SmallMapConv: m.__class__ = torch.nn.Conv2d
    @torch.inference_mode()
    def run(): net(x)
    return run

def captum(*what):
    from captum.attr import LayerGradCam
    (net, layer), (_, x, y, _) = plain(what[0]), subject(*what)
    cam = LayerGradCam(net, layer)
    return lambda: cam.attribute(x, target=y, relu_attributions=True)

def torchcam(*what):
    from torchcam.methods import GradCAM
    (net, layer), (_, x, y, _) = plain(what[0]), subject(*what)
    cam = GradCAM(net, layer)
    return lambda: cam(y.tolist(), net(x))

def pytorch_grad_cam(*what):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    (net, layer), (_, x, y, _) = plain(what[0]), subject(*what)
    cam = GradCAM(net, [layer])
    return lambda: cam(x, [ClassifierOutputTarget(c) for c in y.tolist()])

def difference(network_of, *what):
    "The largest difference from captum's maps, as a share of the largest value in them."
    (_, x, y, where), theirs = subject(*what), captum(*what)
    def run():
        a, b = grad_cam(network_of(*what), x, y, where)[0], theirs()[:, 0]
        return ((a - b).abs().max()/b.max()).item()
    return run

def from_float64(maps_of, *what):
    "How far maps are from those of the same network in float64, as a share of the largest value."
    _, x, y, where = subject(*what)
    exact_maps = grad_cam(deepcopy(plainly(*what)).double(), x.double(), y, where)[0]
    return lambda: ((maps_of(*what).double() - exact_maps).abs().max()/exact_maps.max()).item()

def folded_maps(*what): return grad_cam(prepared(*what), *subject(*what)[1:])[0]
def captum_maps(*what): return captum(*what)()[:, 0]

def case(name, size, n, fast=()):
    what = dict(ours=ours, forward=forward, captum=captum, torchcam=torchcam) | {'pytorch-grad-cam': pytorch_grad_cam}
    rules = [at_most('forward', 1.10), at_least('captum', fast or 1), at_least('torchcam', 1),
             at_least('pytorch-grad-cam', 3)]
    return Case(f'cams {name} {size}', 1, f'Grad-CAM, {name}, {size} px, {n} images',
                {k: partial(f, name, size, n) for k, f in what.items()}, rules)

def plainly(*what): return subject(*what)[0]

def maps(name, size, n, network_of=plainly, how=''):
    text = 'largest difference from captum, share of the largest value'
    return Case(f'cams maps{how} {name} {size}', 1, f'Grad-CAM maps{how}, {name}, {size} px, {n} images',
                {text: partial(difference, network_of, name, size, n)},
                [exact(text, 1e-5)], once=True)

CASES = [case('resnet18', 64, 64), case('resnet50', 64, 32), case('resnet18', 224, 16),
         case('resnet50', 224, 16, fast=1.8),
         Case('cams small maps', 1, 'forward pass, folded, resnet18, 64 px, 64 images',
              {'ours': partial(forward, 'resnet18', 64, 64),
              'convolutions of small maps': partial(convolutions, 'resnet18', 64, 64)},
              [at_least('convolutions of small maps', 1)]),
         *(maps(name, size, 8, *how) for how in ((), (prepared, ', folded')) for name in ('resnet18', 'resnet50')
           for size in (64, 224)),
         *(Case(f'cams rounding {name} {size}', 1,
                f'Grad-CAM maps, folded, {name}, {size} px, 8 images: difference from float64',
                dict(ours=partial(from_float64, folded_maps, name, size, 8),
                     captum=partial(from_float64, captum_maps, name, size, 8)),
                [at_most('captum', 1.5)], once=True) for name in ('resnet18', 'resnet50') for size in (64, 224)),
         Case('cams memory', 1, 'Grad-CAM, resnet50, 224 px, 64 images: extra memory of a call, MB',
              {k: partial(f, 'resnet50', 224, 64) for k, f in dict(ours=ours, captum=captum).items()},
              [at_most('captum', .2)], memory='extra')]
