"Grad-CAM against captum and the formula; the table worked out image by image."
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn
from torchvision import models as tv

from tests.probes.common import left_on, small_cnn, some_cast, some_images
from kd_knowledge.core import KDError
from kd_knowledge.models import anatomy
from kd_knowledge.probes.localization import attribute, cosine, grad_cam, localization, mask_scores


def vgg11(num_classes):
    "torchvision's VGG11 with a head 64 wide, without the 500 MB of weights of the whole one."
    features = tv.vgg.make_layers(tv.vgg.cfgs['A'])
    with torch.device('meta'): net = tv.VGG(features, num_classes, init_weights=False)
    for i, sizes in {0: (25088, 64), 3: (64, 64), 6: (64, num_classes)}.items(): net.classifier[i] = nn.Linear(*sizes)
    return net


@pytest.mark.parametrize('make', [tv.resnet18, vgg11, tv.densenet121])
def test_grad_cam_equals_captum(make):
    torch.manual_seed(0)
    net = make(num_classes=10).eval()
    x, y = torch.rand(6, 3, 64, 64), torch.arange(6)
    maps, logits = grad_cam(net, x, y)
    if make is tv.densenet121:  # captum cannot stand the in-place ReLU
        net.forward = lambda x: net.classifier(F.relu(net.features(x)).mean((2, 3)))
    theirs = LayerGradCam(net, net.get_submodule(anatomy(net).last_map)).attribute(x, target=y)[:, 0].relu()
    assert theirs.max() > 0 and maps.shape == theirs.shape
    assert (maps - theirs).abs().max() < 1e-5
    assert (maps - theirs).abs().max() < 1e-4*theirs.max()
    assert torch.allclose(logits, net(x), atol=1e-5)


def test_grad_cam_of_tokens_equals_the_formula():
    "For a ViT: mean gradient over patches times activation, class token left out, by autograd over the whole network."
    torch.manual_seed(0)
    net = tv.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    nn.init.normal_(net.heads.head.weight)
    x, y, kept = torch.rand(3, 3, 32, 32), torch.tensor([0, 2, 4]), []
    maps, _ = grad_cam(net, x, y)
    handle = net.get_submodule(anatomy(net).last_map).register_forward_hook(lambda m, a, out: kept.append(out))
    g, = torch.autograd.grad(net(x)[range(3), y].sum(), kept)
    handle.remove()
    want = (kept[0][:, 1:]*g[:, 1:].mean(1, keepdim=True)).sum(2).relu().view(3, 4, 4)
    assert want.max() > 0 and (maps - want).abs().max() < 1e-6


@pytest.mark.parametrize('method', [
    'Saliency', 'InputXGradient', 'IntegratedGradients', 'GuidedBackprop', 'Deconvolution', 'DeepLift', 'DeepLiftShap',
    'GradientShap', 'LayerGradCam', 'LayerActivation', 'LayerGradientXActivation', 'GuidedGradCam', 'Occlusion'])
def test_attributions_by_name(method):
    net, x, y = small_cnn(0).train(), torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 3])
    if method == 'LayerActivation':
        with pytest.raises(KDError): attribute(net, x, y, method)
        return
    before = left_on(net)
    maps = attribute(net, x, y, method)
    assert maps.ndim == 3 and len(maps) == 3 and maps.min() >= 0 and maps.isfinite().all() and not maps.requires_grad
    assert left_on(net) == before


def test_localization_by_hand():
    "Every score of the table, worked out for one image at a time."
    cast, images = some_cast(), some_images(12)
    rows = localization(cast, images, bs=5)
    value = rows.set_index(['model', 'seed', 'metric', 'sample']).value
    get = lambda *key: value[key]
    for x, y, i in images.batches(1):
        maps = {(m.model, m.seed): grad_cam(m.net, x, y)[0] for m in cast.networks}
        like = {k: cosine(v, maps['T', 0]).item() for k, v in maps.items()}
        for key in maps:
            if key[0] != 'T': assert abs(get(*key, 'cosine', i.item()) - like[key]) < 1e-4
            assert get(*key, 'all-zero map', i.item()) == (maps[key].sum() == 0)
            for metric, v in mask_scores(maps[key], images.masks[i]).items():
                assert abs(get(*key, metric, i.item()) - v.item()) < 1e-4
        won = sum((like['KL', 0] > like['Ind', s]) + .5*(like['KL', 0] == like['Ind', s]) for s in (0, 1))/2
        assert get('KL', 0, 'closer', i.item()) == won
