"The ground floor: light to import, files whole or absent, folders that may be moved, names that are nearly right."
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.common import says
from kd_knowledge.core import KDError, RunFolder, atomic_path, one_of, write_json, write_text

HEAVY = 'torch', 'numpy', 'pandas', 'matplotlib', 'fastai', 'sklearn'


def test_nothing_heavy_is_imported(fresh):
    there = fresh(f'import sys, kd_knowledge.core; print([m for m in {HEAVY} if m in sys.modules])')
    assert there.stdout.strip() == '[]', there.stderr


# names
@pytest.mark.parametrize('name', ['art_painting', 'Art painting', 'ART-PAINTING', 'artpainting'])
def test_a_name_is_known_however_it_is_spelled(name):
    assert one_of('domain', name, ['photo', 'art_painting']) == 'art_painting'


@pytest.mark.parametrize('name,texts', [
    ('fotos', ("domain: 'fotos' is unknown", 'Did you mean photo?', 'Give one of photo, sketch')),
    (None, ('domain: None is unknown', 'Give one of photo, sketch')), (3, ('domain: 3 is unknown',)),
    (['fog'], ("domain: ['fog'] is unknown",))])
def test_a_name_that_is_not_known(name, texts): says(lambda: one_of('domain', name, dict(photo=1, sketch=2)), *texts)


def test_of_many_names_only_the_near_ones_are_told():
    layers = [f'layer{i}.conv{j}' for i in range(9) for j in range(9)]
    with pytest.raises(KDError) as error: one_of('layer', 'layer3.con', layers)
    assert str(error.value).count('layer') == 5 and 'Did you mean layer3.conv' in str(error.value)
    says(lambda: one_of('layer', 'xyz', layers, other='a number'), 'Give one of layer0.conv0', 'or a number')


# files
KILLED = '''
import os, sys
from kd_knowledge.core import atomic_path
with atomic_path(sys.argv[1]) as part:
    part.write_text('half')
    os.kill(os.getpid(), 9)
'''


def test_a_process_that_is_killed_leaves_the_old_file(tmp_path, fresh):
    write_text(tmp_path/'a.txt', 'whole')
    assert fresh(KILLED, tmp_path/'a.txt').returncode == -9
    assert (tmp_path/'a.txt').read_text() == 'whole'


def test_two_writers_do_not_share_a_part(tmp_path, fresh):
    "Each process writes beside the file under a name of its own; the last one wins, whole."
    with atomic_path(tmp_path/'a.txt') as mine:
        mine.write_text('mine')
        code = 'import sys\nfrom kd_knowledge.core import write_text\nwrite_text(*sys.argv[1:])'
        there = fresh(code, tmp_path/'a.txt', 'other')
        assert (tmp_path/'a.txt').read_text() == 'other', there.stderr
    assert (tmp_path/'a.txt').read_text() == 'mine' and os.listdir(tmp_path) == ['a.txt']


# the run folder
def finished(folder):
    "A run folder with two finished steps."
    run = RunFolder(folder)
    for name in ('networks/T', 'colour'):
        write_text(run/'out'/f'{name}.txt', name)
        run.finish(name, 'key', files=[f'out/{name}.txt'])
    return run


def test_a_moved_folder_is_still_done(tmp_path, monkeypatch):
    finished(tmp_path/'runs'/'a')
    (tmp_path/'runs'/'a').rename(tmp_path/'b')
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path/'b', 'b', './b'):
        run = RunFolder(place)
        assert [r['step'] for r in run.records()] == ['networks/T', 'colour']
        assert all(run.done(r['step'], 'key') for r in run.records())
    text = ''.join(p.read_text() for p in (tmp_path/'b'/'steps').iterdir())
    assert str(tmp_path) not in text


def test_a_copy_keeps_the_order_of_its_records(tmp_path):
    run = finished(tmp_path/'a')
    for name, when in (('networks/T', '2026-01-02 00:00:00'), ('colour', '2026-01-01 00:00:00')):
        path = run._record_path(name)
        write_json(path, {**json.loads(path.read_text()), 'finished': when})
    shutil.copytree(tmp_path/'a', tmp_path/'b', copy_function=shutil.copyfile)
    assert [r['step'] for r in RunFolder(tmp_path/'b').records()] == ['colour', 'networks/T']


@pytest.mark.parametrize('relative', [False, True])
def test_absolute_paths_are_kept_as_seen_from_the_folder(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    run = RunFolder('run' if relative else tmp_path/'run')
    write_text(tmp_path/'run'/'deep'/'a.csv', '')
    run.finish('step', 'key', files=[tmp_path/'run'/'deep'/'a.csv'])
    assert run.done('step', 'key')['files'] == ['deep/a.csv']


LOCKED = '''
import sys
from kd_knowledge.core import KDError, RunFolder
with RunFolder(sys.argv[1]):
    print('inside', flush=True)
    sys.stdin.read()
'''


def test_a_lock_ends_with_its_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', LOCKED, tmp_path/'run'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'inside\n'
    says(lambda: RunFolder(tmp_path/'run').__enter__(), 'out: another run is working in', 'Wait for it')
    process.kill()
    process.communicate()
    with RunFolder(tmp_path/'run'): pass
