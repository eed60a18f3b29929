"Nothing that a file says is run, and nothing is written outside of a run folder: tried with files that attempt it."
import json
import os
import pickle
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from kd_knowledge.cli import kd_explore, kd_probe, kd_study
from kd_knowledge.core import KDError, RunFolder
from kd_knowledge.explorer import open_run
from kd_knowledge.models import create_model, load_model, load_network, save_model
from kd_knowledge.report.html import write_report
from kd_knowledge.study.config import load_study
from kd_knowledge.study.probing import load_asked
from tests.conftest import ROOT


class Payload:
    "Whoever unpickles this makes the file `canary`."
    def __reduce__(self): return os.system, ('touch canary',)


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty folder to be in, in which no canary may be afterwards."
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    yield tmp_path/'here'
    assert not list(tmp_path.rglob('canary')), 'a file was run'


def refused(function, *texts):
    with pytest.raises(KDError) as e: function()
    assert '\n' not in str(e.value) and all(t in str(e.value) for t in texts), e.value


def one_line(status, capsys, *texts):
    told = capsys.readouterr().err.strip()
    assert status == 2 and '\n' not in told and all(t in told for t in texts), told


### A network's JSON

TOUCH = dict(command='touch canary')
FORGED = {
    'os:system': TOUCH, 'subprocess:run': dict(args='touch canary', shell=True), 'builtins:eval': {},
    'builtins:exec': {}, 'local-dir:canary': {}, 'torch.hub:load': dict(repo_or_dir='.', model='x', source='local'),
    'timm:resnet18': dict(checkpoint_path='evil.pth'), 'timm:local-dir:hub': {}, 'timm:hf-hub:a/b': {},
    'resnet18': dict(weights='IMAGENET1K_V1'), 'resnet50': dict(pretrained='IMAGENET1K_V1'),
    'timm:vit_tiny_patch16_224': dict(pretrained_cfg=dict(file='evil.pth')),
    'hf:timm_wrapper': dict(config=dict(architecture='resnet18')), 'hf:canary': {},
    'hf:vit': dict(config=dict(auto_map=dict(AutoConfig='canary.Config')))}


@pytest.mark.parametrize('name', FORGED)
def test_a_forged_recipe_calls_nothing(name, here):
    (here/'evil.pth').write_bytes(pickle.dumps(Payload()))
    (here/'canary.py').write_text('open("canary", "w")')
    save_model(create_model('resnet_small', 10, width=4), here/'net')
    about = json.loads((here/'net.json').read_text())
    about['recipe'] = dict(name=name, n_classes=10, kwargs=FORGED[name], trust=True)
    (here/'net.json').write_text(json.dumps(about))
    for load in (load_model, load_network): refused(lambda: load('net'), 'path: net.json')


@pytest.mark.parametrize('recipe', [None, [], 3, dict(name=['a'], n_classes=2, kwargs={}),
                                    dict(name={}, n_classes='a', kwargs=[1]), dict(name='wrn', n_classes=2, kwargs=dict(seed=1)),
                                    dict(name='wrn', n_classes=2, kwargs={}, classes=['a', 'a'])], ids=str)
def test_a_recipe_of_another_shape_is_one_line(recipe, here):
    save_model(create_model('resnet_small', 10, width=4), here/'net')
    (here/'net.json').write_text(json.dumps(dict(recipe=recipe)))
    refused(lambda: load_model('net'), 'net.json')


def test_a_function_is_called_where_it_was_typed_or_trusted(here, monkeypatch):
    (here/'my_own_7.py').write_text('from kd_knowledge.models import create_model\n'
                                    'def net(n_classes): return create_model("resnet_small", n_classes, width=4)\n')
    monkeypatch.syspath_prepend(str(here))
    save_model(create_model('my_own_7:net', 10), 'net')
    refused(lambda: load_model('net'), 'my_own_7:net', 'trust=True')
    for trust in (True, ['my_own_7:net']): load_network('net', trust=trust)


### Pickles behind every ending

ENDINGS = '.pth .pt .ckpt .bin .tar .npz .parquet .safetensors .json'.split()


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('zipped', [False, True], ids=['pickle', 'zip'])
def test_a_pickle_is_not_run_whatever_its_ending(ending, zipped, here):
    path = here/f'resnet18{ending}'
    if zipped: torch.save(dict(state_dict=Payload()), path)
    else: path.write_bytes(pickle.dumps(Payload()))
    for what in (path.name, f'resnet18@{path.name}', f'timm:resnet18@{path.name}'): refused(lambda: load_network(what))
    refused(lambda: load_model(path.name))


@pytest.mark.parametrize('config', [
    dict(architecture='resnet18', num_classes=3), dict(architecture='resnet18', model_args=dict(checkpoint_path='evil.pth')),
    dict(architecture='local-dir:.'), dict(architecture='os:system'), dict(architecture=['a']), dict(model_type='vit'),
    dict(model_type='own', auto_map=dict(AutoConfig='own.Config', AutoModelForImageClassification='own.Net')),
    dict(model_type='timm_wrapper', architectures=['x'], model_args=dict(checkpoint_path='evil.pth')),
    dict(model_type='vit', attn_implementation='a/kernel')], ids=lambda c: str(c)[:60])
def test_a_folder_of_the_hub_runs_nothing(config, here):
    (here/'hub').mkdir()
    (here/'hub'/'config.json').write_text(json.dumps(config))
    (here/'hub'/'own.py').write_text('open("canary", "w")')
    for name in ('evil.pth', 'hub/evil.pth', 'hub/pytorch_model.bin'): torch.save(Payload(), here/name)
    for what in ('hub', 'hf:hub', 'timm:local-dir:hub', 'hub/pytorch_model.bin'): refused(lambda: load_network(what), 'path: ')


@pytest.mark.parametrize('ending', ['.npz', '.parquet'])
def test_answers_are_not_unpickled(ending, here, capsys):
    (here/f'a{ending}').write_bytes(pickle.dumps(Payload()))
    given = f'answers:a{ending}'
    status = kd_probe(['--teacher', given, '--students', given, '--controls', given, '--data', 'shapes', '--n', '16', '--size', '24'])
    one_line(status, capsys, 'kd_probe: ')


### Configs

CONFIGS = ['teacher: os:system', 'student: subprocess:run', 'teacher: timm:resnet18\nteacher_args: {checkpoint_path: evil.pth}',
           'trust: true\nteacher: os:system', 'teacher_weights: evil.pth', 'base: ../evil', 'base: [a]',
           '!!python/object/apply:os.system ["touch canary"]', 'teacher: !!python/name:os.system', 'teacher: builtins:eval',
           'student_args: {weights: a}', 'objectives: {KL: {objective: os:system}}', 'data: {a: 1}', 'domains: {a: 1}',
           'probe_args: {localization: {method: os.system}}', 'star_args: {pretrained_cfg: {file: evil.pth}}']


@pytest.mark.parametrize('text', CONFIGS, ids=lambda t: t[:40].replace('\n', ' '))
def test_a_forged_config_calls_nothing(text, here, capsys):
    torch.save(Payload(), 'evil.pth')
    (here/'study.yaml').write_text(text)
    size = '--n-train 32 --n-probe 16 --epochs 1 --teacher-epochs 1 --probes localization --device cpu'.split()
    one_line(kd_study(['--config', 'study.yaml', *size, '--out', 'run']), capsys, 'kd_study: ')
    assert not (here/'run').exists()


def test_what_is_typed_or_trusted_is_called(here):
    (here/'study.yaml').write_text('student: my.module:net')
    refused(lambda: load_study('study.yaml'), 'my.module:net', '--trust')
    assert load_study('study.yaml', trust=True).student == 'my.module:net'


### Run folders

@pytest.fixture(scope='module')
def probed(tmp_path_factory):
    "A finished run of kd_probe, and its networks beside."
    home = tmp_path_factory.mktemp('probed')
    for i, name in enumerate('TIK'): save_model(create_model('resnet_small', 10, seed=i, width=4), home/name)
    status = kd_probe(['--teacher', f'{home}/T', '--students', f'<b>KL={home}/K', '--controls', f'{home}/I', '--data', 'shapes',
                       '--n', '24', '--size', '24', '--probes', 'fidelity', '--device', 'cpu', '--out', str(home/'run')])
    assert status == 0
    return home/'run'


@pytest.fixture
def run(probed, here):
    "A copy of it, which a test may forge."
    return shutil.copytree(probed, here/'run')


def forge(path, **values): path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


@pytest.mark.parametrize('values', [
    dict(teacher='os:system'), dict(students=['KL=os:system']), dict(controls=['builtins:eval@evil.pth']),
    dict(foreign='subprocess:run'), dict(teacher='os:system', trust=True), dict(teacher='evil.pth'), dict(students=3),
    dict(seeds=1, teacher='os:system'), dict(data=['a']), dict(base='../../evil')], ids=str)
def test_a_forged_run_folder_calls_nothing(values, run, capsys):
    torch.save(Payload(), 'evil.pth')
    forge(run/'config.yaml', **values)
    refused(lambda: open_run(run))
    if values != dict(teacher='evil.pth'): one_line(kd_explore([str(run), '--no-browser']), capsys, 'kd_explore: folder: ')


def test_a_run_folder_is_opened_without_writing_elsewhere(run):
    forge(run/'config.yaml', data_args=dict(cache=str(run.parent/'elsewhere'), memory=0))
    assert load_asked(run).data_args == {}
    open_run(run)
    assert not (run.parent/'elsewhere').exists()


@pytest.mark.parametrize('table', ['estimates', 'values'])
@pytest.mark.parametrize('column', ['probe', 'student', 'model', 'condition'])
def test_names_in_tables_lead_nowhere(table, column, run):
    path = run/f'{table}.csv'
    found = pd.read_csv(path, keep_default_na=False)
    if column not in found: return
    path.write_text(found.assign(**{column: '../../x'}).to_csv(index=False))
    before = set(run.parent.parent.rglob('*')) - set(run.rglob('*'))
    try: write_report(run)
    except KDError as e: assert '\n' not in str(e)
    assert set(run.parent.parent.rglob('*')) - set(run.rglob('*')) == before


def test_html_in_a_run_folder_is_text(run):
    evil = '<script>alert(1)</script>'
    (run/'notes.json').write_text(json.dumps([evil]))
    (run/'networks.json').write_text((run/'networks.json').read_text().replace('resnet_small', evil))
    (run/'images.csv').write_text((run/'images.csv').read_text().replace('seen', evil))
    for path in (run/'figures').glob('*.txt'): path.write_text(evil)
    forge(run/'config.yaml', data=evil)
    page = write_report(run).read_text()
    assert 'alert(1)' in page and evil not in page and '<b>KL' not in page


@pytest.mark.parametrize('text', ['', '[]', '{"key": 1}', '{"finished": 3, "key": "k", "files": "../../x"}', '[' * 5000])
def test_a_forged_record_is_no_finished_step(text, here):
    (here/'steps').mkdir()
    (here/'steps'/'a.json').write_text(text)
    run = RunFolder(here)
    assert not run.done('a', 'k') and len(run.records()) <= 1


### The package

def test_bandit_finds_nothing_that_is_not_explained():
    pytest.importorskip('bandit', reason='make env brings it')
    found = subprocess.run([sys.executable, '-m', 'bandit', '-r', 'kd_knowledge', '-ll', '-q', '-f', 'json'], cwd=ROOT,
                           capture_output=True, text=True)
    results = json.loads(found.stdout)['results']
    assert not results, [f'{o["filename"]}:{o["line_number"]} {o["test_id"]} {o["issue_text"]}' for o in results]
    marks = [line for path in (ROOT/'kd_knowledge').rglob('*.py') for line in path.read_text().splitlines() if 'nosec' in line]
    assert len(marks) <= 5 and all('nosec B' in line and ': ' in line.split('nosec')[1] for line in marks), marks


def test_safetensors_are_numbers(here):
    save_file(dict(w=torch.zeros(2)), 'resnet18.safetensors')
    refused(lambda: load_network('resnet18.safetensors'), 'are missing')
