"Teachers that are given: a last layer that is new is refused or trained first; classes in another order are put in order."
import json

import pytest
import torch
import torchvision

from kd_knowledge.core import KDWarning, noted
from kd_knowledge.data import get_dls
from kd_knowledge.distillation.cohort import classifier_learner, distill_learner
from kd_knowledge.distillation.objectives import KL
from kd_knowledge.models.classes import name_classes
from kd_knowledge.models.core import create_model, load_model, save_model
from kd_knowledge.study.config import Probing, Study
from kd_knowledge.study.run import run_probing, run_study
from kd_knowledge.study.steps import Bench
from kd_knowledge.study.training import new_network, study_dls, train_teacher
from tests.common import says

NETWORK = 'shufflenet_v2_x0_5'


@pytest.fixture
def study(tmp_path, monkeypatch):
    "A small study whose teacher has the weights of ImageNet, which stand for a download."
    url = torchvision.models.get_model_weights(NETWORK).DEFAULT.url
    (tmp_path/'hub'/'checkpoints').mkdir(parents=True)
    torch.save(torchvision.models.get_model(NETWORK).state_dict(), tmp_path/'hub'/'checkpoints'/url.split('/')[-1])
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))

    def make(**changed):
        return Study(**dict(out=str(tmp_path/'run'), teacher=NETWORK, teacher_weights='pretrained', size=32, n_train=32,
                            n_probe=16, bs=16, epochs=1, teacher_epochs=1, seeds=1, independent_seeds=1, workers=1,
                            student_args=dict(width=4), objectives=dict(KL={}), probes=['fidelity'], device='cpu',
                            lr=.01) | changed)
    return make


def test_a_new_last_layer_is_refused_before_anything_is_written(study, tmp_path):
    says(lambda: run_study(study()), 'teacher_weights: ', '--teacher-head train')
    assert not (tmp_path/'run').exists()
    says(lambda: study(teacher_head='yes').check(), 'teacher_head: ', 'Give train')
    says(lambda: study(teacher_head='train', teacher_weights='').check(), 'teacher_head: ', 'no teacher_weights')


def test_a_new_last_layer_is_trained_alone_and_the_report_says_so(study, tmp_path):
    asked = study(teacher_head='train')
    run_study(asked)
    taught = load_model(tmp_path/'run'/'models'/'T-0').state_dict()
    before = new_network(asked.filled(), 'T', study_dls(asked.filled()).train_ds).state_dict()
    moved = {k for k, v in before.items() if not v.equal(taught[k])}
    assert moved == {'net.fc.weight', 'net.fc.bias'}
    recipe = json.loads((tmp_path/'run'/'models'/'T-0.json').read_text())['recipe']
    assert 'new_head' not in recipe and recipe['classes'][0] == 'disc'
    page = (tmp_path/'run'/'report.html').read_text(encoding='utf-8')
    assert 'the last layer of T is new' in page and 'its new last layer alone: 1 epoch' in page


def test_a_teacher_with_its_classes_in_another_order_is_put_in_order(study, tmp_path):
    drawn = study_dls(study().filled()).valid_ds
    net = name_classes(create_model('resnet_small', 10, seed=0, width=4), drawn.vocab[::-1])
    given = str(save_model(net, tmp_path/'given'))
    asked = study(teacher='resnet_small', teacher_weights=given).filled()
    with noted() as notes: train_teacher(Bench(asked), 'T')
    assert 'order' in notes[0]
    x = drawn.pixels(range(4))
    with torch.no_grad(): assert load_model(tmp_path/'run/models/T-0')(x).allclose(net.eval()(x).flip(1), atol=1e-5)
    name_classes(net, [f'{name}!' for name in drawn.vocab])
    save_model(net, tmp_path/'given')
    says(lambda: new_network(asked, 'T', drawn), 'teacher_weights: ', 'none is called disc')


def test_a_learner_says_so_of_a_teacher_and_clears_the_mark(study):
    dls, net = get_dls('shapes', bs=16, n_train=32, n_valid=16), create_model('resnet_small', 10, width=4)
    net.recipe['new_head'] = True
    with pytest.warns(KDWarning, match='teacher: its last layer is new'): distill_learner(dls, net, dict(KL=KL()))
    learn = classifier_learner(dls, net)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.students['T'].recipe == {k: v for k, v in net.recipe.items() if k != 'new_head'} | dict(classes=dls.vocab)


def test_a_network_that_was_never_trained_is_not_probed(tmp_path):
    net = create_model('resnet_small', 10, width=4)
    net.recipe['new_head'] = True
    new, old = save_model(net, tmp_path/'new'), save_model(create_model('resnet_small', 10, width=4), tmp_path/'old')
    asked = dict(teacher=str(new), students=[f'KL={old}'], controls=[str(old)], data='shapes', size=16, n=8)
    says(lambda: run_probing(Probing(**asked, out=str(tmp_path/'run'))), 'teacher: ', 'never trained')
    assert not (tmp_path/'run').exists()
