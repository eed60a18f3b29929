"Iterative FGSM against a loop written out; who is fooled, worked out image by image."
import pytest
import torch
import torch.nn.functional as F
from torchvision import models as tv

from tests.probes.common import small_cnn, some_cast, some_images
from kd_knowledge.core import KDError
from kd_knowledge.data import check_pixels
from kd_knowledge.probes.adversarial import adversarial, fgsm
from kd_knowledge.probes.localization import grad_cam


def written_out(net, x, y, eps, steps, alpha):
    "One image, one pixel at a time where it matters, as in the paper."
    out = []
    for image, label in zip(x, y):
        moved = image.clone()
        for _ in range(steps):
            leaf = moved.clone().requires_grad_(True)
            z = net(leaf[None])[0]
            (z.exp().sum().log() - z[label]).backward()
            moved = moved + alpha*torch.where(leaf.grad > 0, 1., torch.where(leaf.grad < 0, -1., 0.)).double()
            moved = torch.stack([moved, image - eps]).amax(0)
            moved = torch.stack([moved, image + eps]).amin(0)
            moved = torch.where(moved < 0, 0., torch.where(moved > 1, 1., moved))
        out.append(moved.detach())
    return torch.stack(out)


@pytest.mark.parametrize('make', [small_cnn, lambda seed: tv.resnet18(num_classes=4)], ids=['small', 'resnet18'])
@pytest.mark.parametrize('eps, steps, alpha', [(4/255, 5, None), (.1, 3, .06)])
def test_fgsm_equals_a_written_out_loop(make, eps, steps, alpha):
    torch.manual_seed(0)
    net = make(0).double().eval()
    x, y = torch.rand(3, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 3])
    ours = fgsm(net, x, y, eps, steps, alpha)
    assert (ours - written_out(net, x, y, eps, steps, alpha or eps/steps)).abs().max() < 1e-9
    assert F.cross_entropy(net(ours), y) > F.cross_entropy(net(x), y)


@pytest.mark.parametrize('eps', [1/255, 8/255, .5, 1.])
def test_fgsm_stays_in_its_bounds(eps):
    x = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.rand(4, 3, 16, 16)])
    moved = fgsm(small_cnn(0), x, torch.tensor([0, 1, 2, 3, 0, 1]), eps, alpha=eps)
    assert (moved - x).abs().max() <= eps + 1e-6 and moved.min() >= 0 and moved.max() <= 1
    check_pixels(moved)


@pytest.mark.parametrize('bad', [
    dict(eps=8), dict(eps=0), dict(eps=-.1), dict(eps=float('nan')), dict(steps=0), dict(alpha=-1.)])
def test_bad_attacks_are_told(bad):
    with pytest.raises(KDError) as e: adversarial(some_cast(), some_images(), **bad)
    assert str(e.value).startswith(next(iter(bad))) and '\n' not in str(e.value)


def test_images_that_are_none():
    x = torch.rand(1, 3, 16, 16)
    x[0, 0, 0, 0] = torch.nan
    for bad in (x, torch.rand(1, 3, 16, 16)*255):
        for call in (grad_cam, fgsm):
            with pytest.raises(KDError): call(small_cnn(0), bad, torch.tensor([0]))
    for y in ([4], [-1], [0, 1]):
        with pytest.raises(KDError): grad_cam(small_cnn(0), torch.rand(1, 3, 16, 16), torch.tensor(y))
    with pytest.raises(KDError, match='8/255'): fgsm(small_cnn(0), torch.rand(1, 3, 16, 16), torch.tensor([0]), eps=8)


def test_fooling_by_hand():
    cast, images = some_cast(), some_images(40)
    rows, eps = adversarial(cast, images, bs=16, eps=16/255), 16/255
    answer = lambda m, x: m.net(x).argmax(1).item()
    with cast.run():
        for condition, attacked in dict(teacher=cast.of('T')[0], foreign=cast.of('foreign')[0]).items():
            here = rows[rows.condition == condition]
            for x, y, i in images.batches(1):
                i, moved = i.item(), fgsm(attacked.net, x, y, eps)
                fooled = answer(attacked, moved) != answer(attacked, x)
                assert here[(here.metric == 'fooling rate') & (here['sample'] == i)].value.tolist() == [fooled]
                for m in cast.networks:
                    mine = here[(here.model == m.model) & (here.seed == m.seed) & (here['sample'] == i)]
                    mine = mine.set_index('metric').value
                    if m is attacked or not fooled: assert 'fooled' not in mine
                    else:
                        assert mine['fooled'] == (answer(m, moved) != answer(m, x))
                        if 'fooled, correct' in mine:
                            both = answer(m, x) == y and answer(cast.of('T')[0], x) == y
                            strict = mine['fooled, correct']
                            assert strict == mine['fooled'] if both else strict != strict
