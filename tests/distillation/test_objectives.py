"KL, Nobody and Hint against written-out float64 references; layers by name; what an objective tells of itself."
import math

import pytest
import torch

from kd_knowledge.torch_core import generator
from kd_knowledge.distillation import CRD, KL, Hint, Nobody, Objective, layer_name
from kd_knowledge.models import create_model, frozen, taps
from tests.distillation.common import paper_objectives
from tests.models.common import pixels


@pytest.mark.parametrize('tau', [1., 4., 8.])
def test_kl_is_the_written_out_formula(tau):
    z_s, z_t = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    def soft(z):
        exps = [math.exp(v/tau) for v in z.tolist()]
        return [e/sum(exps) for e in exps]
    expected = sum(-tau**2*sum(p*math.log(q) for p, q in zip(soft(t), soft(s))) for s, t in zip(z_s, z_t))/6
    assert abs(KL(tau=tau)(dict(logits=z_s), dict(logits=z_t), None, None).item() - expected) < 1e-10


def test_hint_is_the_written_out_formula():
    hint = Hint()
    hint.student_layers, hint.teacher_layers, hint.maps = ['s'], ['t'], (lambda a: a,)*2
    f_s, f_t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    hint.build(dict(s=f_s), dict(t=f_t), None)
    hint.double()
    f_s, f_t = f_s.double(), f_t.double()
    weight, bias = hint.regressor.weight[:, :, 0, 0].detach(), hint.regressor.bias.detach()
    total = 0.
    for n in range(2):
        for c in range(5):
            for i in range(4):
                for j in range(4):
                    mapped = sum(weight[c, k]*f_s[n, k, i, j] for k in range(3)) + bias[c]
                    total += float(f_t[n, c, i, j] - mapped)**2
    assert abs(hint(dict(s=f_s), dict(t=f_t), None, None).item() - .5*total/f_t.numel()) < 1e-10


@pytest.mark.parametrize('tau,noise,temperature', [(4., .2, .15), (1., .5, 1.)])
def test_nobody_is_the_written_out_formula(tau, noise, temperature):
    nobody, again, third = (Nobody(tau=tau, noise=noise, temperature=temperature, seed=3) for _ in range(3))
    z, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 0])
    drawn = torch.randn(6, 5, generator=generator('nobody', 3)).tolist()
    def soft(v, tau):
        exps = [math.exp(a/tau) for a in v]
        return [e/sum(exps) for e in exps]
    total = 0.
    for i in range(6):
        label = soft([float(j == labels[i]) + math.sqrt(noise)*drawn[i][j] for j in range(5)], temperature)
        total -= tau**2*sum(p*math.log(q) for p, q in zip(label, soft(z[i].tolist(), tau)))
    assert abs(nobody(dict(logits=z), {}, labels, None).item() - total/6) < 1e-4*total/6
    assert torch.equal(again.soft_labels(labels, 5), third.soft_labels(labels, 5))
    assert not torch.equal(again.soft_labels(labels, 5), again.soft_labels(labels, 5)), 'new noise for each batch'


def test_the_layers_of_the_benchmark_are_the_middle_stages():
    "RepDistiller's hint layer 2, by its size."
    hint = paper_objectives('cifar100-resnet50-mobilenetv2')['Hint']
    shapes = dict(wrn=(64, 16), shufflenet_v1=(480, 8), vgg_small=(256, 8), resnet50_small=(512, 16),
                  mobilenet_v2_small=(16, 8))
    for name, shape in shapes.items():
        net = create_model(name, 7)
        layer = layer_name(net, hint.student_layer if name == 'mobilenet_v2_small' else None)
        with frozen(net), torch.no_grad(), taps(net, layer) as seen: net(pixels(32, 1))
        assert tuple(seen[layer].shape[1:3]) == shape, name


def test_options_are_what_a_report_tells():
    "The words of the reports, in their order: an objective's arguments as they were given."
    assert KL(.3).options == dict(weight=.3, gamma=.5, tau=4.)
    assert list(Nobody().options) == ['weight', 'gamma', 'tau', 'noise', 'temperature']
    assert Hint(2., student_layer='F2').options == dict(weight=2., gamma=1.)
    assert list(CRD(dim=3).options.items()) == [('weight', .5), ('gamma', 1.), ('tau', .07), ('negatives', 'batch')]
    assert list(CRD(negatives='bank').options)[3:] == ['negatives', 'n_negatives']

    class Own(Objective):
        "Its constructor is that of `Objective`; one of its arguments may be missing."
    assert Own(2.).options == dict(weight=2., gamma=1.)
