"kd_probe on networks that a module of the user's own makes."
import sys

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from kd_knowledge.cli import kd_probe

MODULE = '''
from kd_knowledge.models import create_model
def teacher(): return create_model('resnet_small', 10, width=8, seed=1)
def control(): return create_model('resnet_small', 10, width=4, seed=2)
def student(): return create_model('resnet_small', 10, width=4, seed=3)
'''


def test_networks_of_a_module(tmp_path, monkeypatch, capsys):
    (tmp_path/'my_networks_1.py').write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    status = kd_probe(['--teacher', 'my_networks_1:teacher',
                       '--students', 'KL=my_networks_1:student', 'KL=my_networks_1:control',
                       '--controls', 'my_networks_1:control', 'my_networks_1:student',
                       '--data', 'digits', '--size', '32', '--n', '40',
                       '--probes', 'localization', 'colour', '--out', 'found', '--device', 'cpu'])
    assert status == 0, capsys.readouterr().err
    found = pd.read_csv(tmp_path/'found'/'estimates.csv')
    assert set(found.student) == {'KL'} and set(found.seeds) == {2}
    assert found.difference.abs().max() < 1e-6  # the same two networks in both roles
    assert capsys.readouterr().out.splitlines()[-1] == f'Report: {tmp_path/"found"/"report.html"}'
    card = ModelCard.load(tmp_path/'found'/'cards'/'KL.md')
    assert [r.metric_type for r in card.data.eval_results] == ['accuracy', 'localization', 'colour']
    assert "load_network('my_networks_1:student')" in card.text and 'trained on is not known here' in card.text


FULL = '''
import resource, sys, psutil, torch
from kd_knowledge import data, models, probes
from kd_knowledge.study.config import Probing
from kd_knowledge.study.probing import ask_probe
torch.set_num_threads(1)
make = lambda seed: models.create_model('resnet_small', 10, width=32, seed=seed)
cast, images = probes.Cast(make(0), dict(Ind=make(1), KL=make(2))), data.get_images('shapes', 'valid', size=64, n=256)
ask = lambda images: ask_probe(Probing(device='cpu'), 'fidelity', cast, images, dict)
ask(images.subset(range(32)))
if len(sys.argv) > 1:
    most = psutil.Process().memory_info().vms + int(sys.argv[1])*2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, -1))
print(ask(images).value.sum().round(3))
'''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only Linux limits a process so')
def test_a_probe_halves_its_batches_when_memory_is_full(fresh):
    free, full = fresh(FULL), fresh(FULL, 60)
    assert free.returncode == full.returncode == 0, full.stderr
    *said, value = full.stdout.splitlines()
    assert said and all(s.startswith('  memory is full: fidelity goes on in batches of ') for s in said)
    assert [value] == free.stdout.splitlines()
