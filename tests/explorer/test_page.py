"The command `kd_explore` and its tabs: mistakes are told in one line, and a run of `kd_probe` is shown too."
import shutil
import socket
import sys

import pytest

from kd_knowledge.cli import kd_explore, kd_probe
from kd_knowledge.explorer import explore, open_run, Scene
from kd_knowledge.probes import Cast


def fails(capsys, *argv):
    "The one line that a mistake is told in."
    assert kd_explore(list(map(str, argv))) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('kd_explore: ') and len(err.splitlines()) == 1, err
    return err


def test_bad_input(run, tmp_path, capsys):
    nowhere = fails(capsys, tmp_path/'nowhere')
    assert 'there is no run folder' in nowhere and 'kd_study --out' in nowhere
    shutil.copytree(run, tmp_path/'half')
    (tmp_path/'half'/'estimates.csv').unlink()
    assert 'not finished' in fails(capsys, tmp_path/'half')
    for port in (0, -1, 65536): assert 'port: got' in fails(capsys, run, '--port', port)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        assert 'in use' in fails(capsys, run, '--port', s.getsockname()[1])
    for argv in (['--port', 'x'], ['--prot', '1'], ['a', 'b']):
        with pytest.raises(SystemExit) as error: kd_explore(argv)
        assert error.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_without_voila(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'voila.app', None)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    assert "pip install 'kd_knowledge[explore]'" in fails(capsys, run, '--port', port)


NETWORKS = """
from kd_knowledge.models import create_model
def make(seed): return create_model('resnet_small', 10, width=4, seed=seed)
def teacher(): return make(1)
def control(): return make(2)
def student(): return make(3)
"""
NAMES = ['Looks', 'Fooled', 'Unmoved', 'Boundary', 'Report']


def test_a_run_of_kd_probe(tmp_path, monkeypatch):
    "Networks and images given by name are found again; what was not probed is worked out, and there are no logs."
    (tmp_path/'my_networks_2.py').write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    networks = '--teacher my_networks_2:teacher --students KL=my_networks_2:student --controls my_networks_2:control'
    rest = '--data digits --size 32 --n 40 --probes localization --device cpu --out found'
    assert kd_probe([*networks.split(), *rest.split()]) == 0
    tabs = explore('found', trust=True).tabs
    assert [tabs.get_title(i) for i in range(len(tabs.children))] == NAMES
    for i, name in enumerate(NAMES):
        tabs.selected_index = i
        shown = tabs.children[i].children[0]
        assert type(shown).__name__ == name and 'alert' not in shown.numbers.value


def test_a_tab_that_cannot_be_made_says_why(untrained, monkeypatch):
    monkeypatch.setattr(type(untrained), 'stages', lambda scene: scene.found('no such probe'))
    tabs = explore(untrained).tabs
    assert 'role="alert">probe: ' in tabs.children[0].children[0].value


def test_any_two_of_many_students_stand_side_by_side(run):
    scene = open_run(run)
    names = ['KL', 'Hint', 'CRD', 'AT', 'SP']
    nets = dict(zip(['Ind', *names], (scene.cast.firsts*6)[1:]))
    page = explore(Scene(Cast(scene.cast.teacher, {k: m.net for k, m in nets.items()}), scene.images))
    assert page.shown.students == names[:2] and [box.options for box in page.pair] == [tuple(names)]*2
    page.tabs.selected_index = 1
    page.pair[0].value, page.pair[1].value = 'SP', 'CRD'
    assert page.shown.students == ['SP', 'CRD']
    assert [len(box.children) for box in page.tabs.children] == [0, 1, 0, 0, 0]
    text = page.tabs.children[1].children[0].numbers.value
    assert 'SP' in text and 'CRD' in text and 'Hint' not in text
    page.pair[1].value = 'SP'
    assert page.shown.students == ['SP']
