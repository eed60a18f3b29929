"kd_probe on networks that a module of the user's own makes."
import pandas as pd

from kd_knowledge.study import kd_probe

MODULE = '''
from kd_knowledge.models import create_model
def teacher(): return create_model('resnet_small', 10, width=8, seed=1)
def control(): return create_model('resnet_small', 10, width=4, seed=2)
def student(): return create_model('resnet_small', 10, width=4, seed=3)
'''


def test_networks_of_a_module(tmp_path, monkeypatch, capsys):
    (tmp_path/'my_networks_1.py').write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    status = kd_probe(['--teacher', 'my_networks_1:teacher', '--students', 'KL=my_networks_1:student', 'KL=my_networks_1:control', '--controls', 'my_networks_1:control',
                       'my_networks_1:student', '--data', 'digits', '--size', '32', '--n', '40', '--probes', 'localization', 'colour', '--out', 'found', '--device', 'cpu'])
    assert status == 0, capsys.readouterr().err
    found = pd.read_csv(tmp_path/'found'/'estimates.csv')
    assert set(found.student) == {'KL'} and set(found.seeds) == {2}
    assert found.difference.abs().max() < 1e-6  # the same two networks in both roles
    assert capsys.readouterr().out.splitlines()[-1] == f'Report: {tmp_path/"found"/"report.html"}'
