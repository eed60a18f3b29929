"The weights, temperatures and layers of the paper, typed once more from its tables, are those that the presets hold."
import pytest

from kd_knowledge.study.presets import load_preset
from kd_knowledge.study.steps import objectives_of

RESNETS = (.5, .5), (1., 5.), (1., .8)
REPDISTILLER = (.1, .9), (1., 100.), (1., .8)  # those of its scripts, for all its pairs
WEIGHTS = {  # preset -> (gamma, alpha) of KL, (gamma, beta) of Hint, (gamma, beta) of CRD
    'resnet50-resnet18-imagenet': RESNETS,
    'vgg19-vgg11-imagenet': ((1., .2), (1., .5), (1., .8)),
    'vgg19-resnet18-imagenet': ((.9, .1), (1., .2), (1., 1.2)),
    'vit_b_32-resnet18-imagenet': ((1., .2), (1., 1.), (1., .2)),
    'swin_b-swin_t-imagenet': ((.1, .9), (1., 1.), (1., .8)),
    'resnet50-resnet18-imagenet-stylized-lower': ((.1, .9), (1., .2), (1., .8)),
    'resnet50-resnet18-imagenet-stylized-higher': ((.9, .1), (1., 100.), (1., 1.2)),
    'resnet50-resnet18-imagenet-colour': RESNETS,
    'resnet50-resnet18-imagenet-crops': ((.5, .5), (1., .2), (1., .8)),
    'mnist-domains': ((.1, .9), (1., 2.), (1., .1)),
    'cifar100-wrn40_2-shufflenetv1': REPDISTILLER,
    'cifar100-vgg13-vgg8': REPDISTILLER,
    'cifar100-resnet50-mobilenetv2': REPDISTILLER}
LAYERS = {  # preset -> the student's layer, the teacher's layer, as in the paper's appendix
    'vgg19-vgg11-imagenet': ('net.features.9', 'net.features.15'),
    'vgg19-resnet18-imagenet': ('net.layer2', 'net.features.15'),
    'vit_b_32-resnet18-imagenet': ('net.layer4', 'net.encoder.layers.encoder_layer_11'),
    'swin_b-swin_t-imagenet': ('net.features.3', 'net.features.3'),
    'mnist-domains': ('net.conv2', 'net.conv2'),
    'cifar100-resnet50-mobilenetv2': ('net.features.6', 'net.layer2')}  # RepDistiller's hint layer 2


@pytest.mark.parametrize('preset', WEIGHTS)
def test_the_papers_weights(preset):
    found = objectives_of(load_preset(preset))
    assert list(found) == ['KL', 'Hint', 'CRD']
    assert tuple((o.gamma, o.weight) for o in found.values()) == WEIGHTS[preset]
    rest = found['KL'].tau, found['CRD'].tau, found['CRD'].n_negatives
    assert rest == ((8., .1, 32) if preset == 'mnist-domains' else (4., .07, 16384))
    assert found['CRD'].negatives == 'bank'
    assert (found['Hint'].student_layer, found['Hint'].teacher_layer) == LAYERS.get(preset, (None, None))
