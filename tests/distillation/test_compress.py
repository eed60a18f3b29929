"Compressed networks: what training leaves as it is, what files hold, and a study of them."
import pandas as pd
import pytest
import torch

from kd_knowledge.cli import kd_study
from kd_knowledge.data import get_dls
from kd_knowledge.distillation import Compressed, distill_learner
from kd_knowledge.models import anatomy, create_model, load_model, save_model

WAYS = dict(quantised=3, pruned=.75, low_rank=.5)


def network(seed): return create_model('resnet_small', 10, width=4, seed=seed)
def layers(net): return [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]


@pytest.fixture(scope='module')
def nets():
    "Of each way, after two epochs on labels."
    dls = get_dls('shapes', bs=16, size=16, n_train=64, n_valid=32, device='cpu')
    teacher = network(0).eval()
    learn = distill_learner(dls, teacher, {k: Compressed(k, v) for k, v in WAYS.items()}, student=lambda: network(1))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    return dict(learn.students, teacher=teacher)


def test_training_keeps_what_was_compressed(nets):
    for a, b in zip(layers(nets['pruned']), layers(nets['teacher']), strict=True):
        assert (a.weight == 0).sum() == round(.75*b.weight.numel()) and not a.weight.equal(b.weight)
    for m in layers(nets['quantised']): assert all(len(row.unique()) <= 7 for row in m.weight.detach().flatten(1))
    for m in layers(nets['low_rank']):
        w = m.weight.detach().flatten(1)
        assert torch.linalg.matrix_rank(w, rtol=1e-4) <= max(1, round(.5*min(w.shape)))


@pytest.mark.parametrize('how', WAYS)
def test_files_hold_them(nets, how, tmp_path):
    net, x = nets[how].eval(), torch.rand(2, 3, 16, 16)
    again = load_model(save_model(net, tmp_path/'net'))
    assert torch.equal(again(x), net(x)) and anatomy(again) == anatomy(nets['teacher'])


def test_a_study_of_them(tmp_path):
    out = tmp_path/'run'
    assert kd_study(['--preset', 'compression', '--out', str(out), '--n-train', '128', '--n-probe', '64', '--seeds', '1',
                     '--epochs', '1', '--teacher-epochs', '2', '--probes', 'fidelity', 'localization', '--workers', '1',
                     '--device', 'cpu', '--teacher-args', '{width: 4}', '--student-args', '{width: 4}']) == 0
    found = pd.read_csv(out/'estimates.csv')
    assert {'Fine-tuned', 'Nine tenths pruned', 'Quarter rank', 'KL'} <= set(found.student)
    pruned = load_model(out/'models'/'Nine%20tenths%20pruned-0')
    assert all((m.weight == 0).float().mean() > .85 for m in layers(pruned))
