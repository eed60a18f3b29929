"What the tests of networks share: pixels, the state of a network, and a check of its anatomy."
import torch
from torch import nn

from kd_knowledge.models import anatomy, create_model, frozen, n_classes, taps


def pixels(size=64, n=2): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def quick(name):
    "Options of `create_model` that spare a VGG's own initial weights, which take long."
    return dict(init_weights=False) if name.startswith('vgg') else {}


def hooks(net):
    "How many hooks hang on a network."
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())


def state(net):
    "What a look at a network must leave as it was."
    flags = [(p.requires_grad, p.grad is None) for p in net.parameters()]
    return [m.training for m in net.modules()], flags, hooks(net)


def mixed(net):
    "A state that a careless eval() or train() would lose."
    net.train()
    list(net.modules())[-1].eval()
    next(net.parameters()).requires_grad_(False)
    return state(net)


def check(name, size, decreasing=True, **kwargs):
    "The anatomy of a network of 7 classes, and the sides of its maps, after it was tried with taps and a gradient."
    net = create_model(name, 7, seed=0, **kwargs)
    weight = list(net.parameters())[-2]
    with torch.no_grad(): weight.add_(.01 * torch.randn(weight.shape))  # torchvision's ViT starts with a head of zeros
    before = mixed(net)
    found = anatomy(net)
    x, target = pixels(size), torch.tensor([1, 4])
    with frozen(net), taps(net, *found.layers.values()) as seen: logits = net(x)
    maps = [found.to_map(seen[stage]) for stage in found.stages]
    assert all(m.ndim == 4 and m.shape[0] == 2 and m.shape[2] == m.shape[3] for m in maps)
    sides = [m.shape[-1] for m in maps]
    assert sides == sorted(sides, reverse=True) and (not decreasing or len(maps) >= 3 and sides[-1] < sides[0])
    features = list(seen.values())[-2]
    assert torch.equal(seen[found.logits], logits) and features.shape[0] == 2
    head = net.get_submodule(found.head)
    if isinstance(head, nn.Linear): assert torch.allclose(head(features), logits, atol=1e-5)
    with frozen(net), taps(net, found.last_map, grad=True) as seen:
        g, = torch.autograd.grad(net(x).gather(1, target[:, None]).sum(), seen[found.last_map])
    assert found.to_map(g).abs().sum() > 0
    assert state(net) == before
    assert n_classes(net) == n_classes(net.net) == 7
    return found, sides
