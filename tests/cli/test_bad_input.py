"Bad input: one line on stderr that names the argument and the fix, exit status 2, and nothing written or harmed."
import contextlib, json, os, shutil, subprocess, sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kd_knowledge import cli, data, distillation, models, probes
from kd_knowledge.core import KDError, require
from kd_knowledge.study.run import Study

TINY = dict(n_train=64, n_probe=32, teacher_args=dict(width=4), student_args=dict(width=4), teacher_epochs=1, epochs=1,
            workers=1, device='cpu')
RUN = 'import sys; from kd_knowledge.cli import {0}; sys.exit({0}(sys.argv[1:]))'


def photo(path, seed=0, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def classes(folder, names, n=3):
    for name in names:
        for i in range(n): photo(folder/name/f'{i}.jpg', i)


def small(n_classes, seed, **kwargs):
    return models.create_model('resnet_small', n_classes, seed=seed, width=4, **kwargs)


@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder with networks, images, configs and run folders, most of which are wrong in one way."
    top = tmp_path_factory.mktemp('bad')
    for name, n in dict(ten=10, other=10, control=10, five=5, two=2, cut=10, mixed=10, pickled=10).items():
        models.save_model(small(n, len(name)), top/'nets'/name)
    cut = top/'nets'/'cut.safetensors'
    cut.write_bytes(cut.read_bytes()[:-400])
    models.save_model(models.create_model('mnist_cnn', 10, seed=0), top/'nets'/'cnn')
    (top/'nets'/'mixed.json').write_bytes((top/'nets'/'cnn.json').read_bytes())
    torch.save(small(10, 0).state_dict(), top/'nets'/'pickled.safetensors')
    torch.save(small(10, 0), top/'nets'/'whole.pth')
    models.save_model(small(10, 0), top/'nets'/'alone')
    (top/'nets'/'alone.json').unlink()
    (top/'empty').mkdir()
    classes(top/'one class', ['cat'])
    classes(top/'two', ['cat', 'dog'], 10)
    classes(top/'hollow', ['cat', 'dog'])
    (top/'hollow'/'fox').mkdir()
    classes(top/'corrupt', ['cat', 'dog'], 10)
    for name in ('cat', 'dog'):
        for p in (top/'corrupt'/name).iterdir(): p.write_bytes(p.read_bytes()[:200])
    for i in range(3): photo(top/'flat'/f'{i}.jpg', i)
    texts = dict(unknown='data: shapes\nepoch: 3\n', broken='data: [shapes\n', words='just words\n',
                 typed='epochs: many\n', nan='lr: .nan\n')
    for name, text in texts.items():
        (top/f'{name}.yaml').write_text(text)
    (top/'a file').write_text('mine\n')
    held = Study(**TINY, out=str(top/'held')).check().filled()
    (top/'held').mkdir()
    (top/'held'/'config.yaml').write_text(yaml.safe_dump(asdict(held), sort_keys=False))
    (top/'held'/'report.html').write_text('kept')
    return top


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) if p.is_file() else None for p in Path(folder).rglob('*')}


def arguments(options):
    "Options as a command line; dicts as YAML in one word."
    words = []
    for k, v in options.items():
        words.append('--' + k.replace('_', '-'))
        if isinstance(v, dict): words.append(json.dumps(v))
        elif isinstance(v, list): words += map(str, v)
        else: words.append(str(v))
    return words


def told(status, err, command, names):
    "Check what a command said: one line that names the argument and says more than what is wrong."
    assert status == 2, err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith(f'{command}: {names}'), lines[0]
    text = lines[0].removeprefix(f'{command}: ')
    problem, *fix = text.split(': ', 1)[1].split('. ') if '. ' in lines[0] else lines[0].split('? ')
    assert fix or lines[0].endswith('?'), f'no fix in: {lines[0]}'
    assert 'Traceback' not in err and len(lines[0]) < 700


def refuse(run, argv, command, names, capsys, bad, monkeypatch):
    monkeypatch.chdir(bad)
    before = snapshot(bad)
    capsys.readouterr()
    try: status = run(argv)
    except SystemExit as e: status = e.code
    shown, after = capsys.readouterr(), snapshot(bad)
    shutil.rmtree(bad/'never', ignore_errors=True)
    assert after == before, f'written: {sorted(map(str, set(after) ^ set(before)))}'
    told(status, shown.err, command, names)
    return shown.err


STUDY = { # case -> options beside the tiny ones, the argument that is named, a word of the fix
    'unknown data set': (dict(data='shpes'), 'data', 'shapes'),
    'a folder that is not there': (dict(data='no/such/folder'), 'data', 'folder'),
    'empty folder': (dict(data='./empty', n_train=None, n_probe=None), 'data', 'class folders'),
    'one class': (dict(data='./one class', n_train=None, n_probe=None), 'data', 'two or more'),
    'a class without images': (dict(data='./hollow', n_train=None, n_probe=None), 'data', 'Fill or remove'),
    'corrupt JPEG': (dict(data='./corrupt', n_train=None, n_probe=None), 'data', 'Repair'),
    'a folder without classes': (dict(data='./flat', n_train=None, n_probe=None), 'data', 'one folder for each class'),
    'unknown option of the data': (dict(data_args=dict(cu=.5)), 'cu', 'cue'),
    'cue of 2': (dict(data_args=dict(cue=2)), 'cue', '0 to 1'),
    'images of 4 pixels': (dict(size=4), 'size', '8'),
    'no training image': (dict(n_train=0), 'n_train', '1 or more'),
    'no image for the probes': (dict(n_probe=0), 'n_probe', '1 or more'),
    'more images than there are': (dict(data='digits', n_train=5000), 'n_train', 'at most'),
    'unknown teacher': (dict(teacher='resnt18'), 'teacher', 'resnet18'),
    'unknown student': (dict(student='mnist_cn'), 'student', 'mnist_cnn'),
    'unknown argument of the teacher': (dict(teacher_args=dict(widht=4)), 'teacher', 'Leave out'),
    'width of 0': (dict(student_args=dict(width=0)), 'student', '1 or more'),
    'images too large for the teacher': (dict(teacher='mnist_cnn', teacher_args={}), 'teacher', '28'),
    'a teacher with other classes': (dict(teacher_weights='nets/five'), 'teacher', 'for these classes'),
    'a checkpoint that is not there': (dict(teacher_weights='nets/nobody'), 'teacher_weights', 'a file of weights'),
    'a truncated checkpoint': (dict(teacher_weights='nets/cut'), 'teacher_weights', 'Save'),
    'a pickled checkpoint': (dict(teacher_weights='nets/whole.pth'), 'teacher_weights', 'ARCHITECTURE@FILE'),
    'a pickle that calls itself safetensors': (dict(teacher_weights='nets/pickled'), 'teacher_weights', 'Save'),
    'a checkpoint of another architecture': (dict(teacher_weights='nets/mixed'), 'teacher_weights', 'one network'),
    'weights without their description': (dict(teacher_weights='nets/alone'), 'teacher_weights', 'beside'),
    'unknown objective': (dict(objectives=dict(KLD={})), 'objectives', 'KL'),
    'unknown argument of an objective': (dict(objectives=dict(KL=dict(wait=1))), 'KL', 'weight'),
    'negative weight': (dict(objectives=dict(KL=dict(weight=-1))), 'weight', 'away'),
    'negative weight of the labels': (dict(objectives=dict(Hint=dict(gamma=-.5))), 'gamma', 'Give'),
    'temperature 0': (dict(objectives=dict(KL=dict(tau=0))), 'temperature', '4'),
    'no negatives': (dict(objectives=dict(CRD=dict(n_negatives=0))), 'n_negatives', '16384'),
    'a layer that does not exist': (dict(objectives=dict(Hint=dict(student_layer='layr2'))), 'student_layer', 'layer2'),
    'a depth that does not exist': (dict(objectives=dict(Hint=dict(teacher_layer='F9'))), 'teacher_layer', 'F'),
    'a hint between a map and a vector':
        (dict(objectives=dict(Hint=dict(student_layer='layer2', teacher_layer='fc:input'))), 'student_layer', 'both'),
    'unknown probe': (dict(probes=['colours']), 'probes', 'colour'),
    'arguments of an unknown probe': (dict(probe_args=dict(colours={})), 'probe_args', 'colour'),
    'unknown argument of a probe': (dict(probe_args=dict(adversarial=dict(epsilon=.1))), 'probe_args', 'eps'),
    'epsilon of 8': (dict(probe_args=dict(adversarial=dict(eps=8))), 'eps', '8/255'),
    'no step of the attack': (dict(probe_args=dict(adversarial=dict(steps=0))), 'steps', 'at least 1'),
    'a word for the epsilon': (dict(probe_args=dict(adversarial=dict(eps='much'))), 'probe_args', 'chapter'),
    'one strength for a list': (dict(probe_args=dict(colour=dict(strengths=.2))), 'probe_args', 'chapter'),
    'colour strength of 4': (dict(probe_args=dict(colour=dict(strengths=[.2, 4]))), 'strength', '0 to 1'),
    'crops of no area': (dict(probe_args=dict(crop=dict(scales=[0]))), 'scale', '0 <'),
    'a shift beyond the image': (dict(probe_args=dict(shift=dict(shifts=[100]))), 'm', 'at most'),
    'unknown attribution': (dict(probe_args=dict(localization=dict(method='Salience'))), 'method', 'Saliency'),
    'no seed': (dict(seeds=0), 'seeds', 'positive'),
    'no independent student': (dict(independent_seeds=0), 'independent_seeds', 'positive'),
    'no epoch': (dict(epochs=0), 'epochs', 'positive'),
    'batches of 0': (dict(bs=0), 'bs', 'positive'),
    'no worker': (dict(workers=0), 'workers', 'positive'),
    'learning rate 0': (dict(lr=0.), 'lr', '0.01'),
    'learning rate of NaN': (dict(config='nan.yaml'), 'lr', '0.01'),
    'crop of 2': (dict(crop=2.), 'crop', 'from 0 to 1'),
    'jitter of 2': (dict(jitter=2.), 'jitter', '0 to 1'),
    'a negative seed': (dict(seed=-1), 'seed', '0 or more'),
    'a device that is not here': (dict(device='cuda:7' if not torch.cuda.is_available() else 'mps'), 'device', 'cpu'),
    'a device that is none': (dict(device='tpu'), 'device', 'cpu'),
    'a word for a number': (dict(epochs='many'), 'epochs', '--help'),
    'an option that is unknown': (dict(epoch_count=3), 'unrecognized arguments: --epoch-count', '--help'),
    'a word for a dict': (dict(teacher_args='wide'), 'teacher_args', '{width: 32}'),
    'a broken dict': (dict(teacher_args='{width: '), 'teacher-args', '{width: 32}'),
    'no config': (dict(config='no.yaml'), 'config', 'YAML'),
    'an unknown key in the config': (dict(config='unknown.yaml'), 'config', 'epochs'),
    'a config that is no YAML': (dict(config='broken.yaml'), 'config', 'Mend'),
    'a config without keys': (dict(config='words.yaml'), 'config', 'data: shapes'),
    'a config with a word for a number': (dict(config='typed.yaml'), 'epochs', 'epochs'),
    'a folder that holds another study': (dict(out='held', epochs=3), 'out', 'another folder'),
    'a file in the place of the run folder': (dict(out='a file'), 'out', 'folder'),
    'a run folder in a file': (dict(out='a file/run'), 'out', 'folder'),
    'a run folder where nobody can write': (dict(out='/proc/run'), 'out', 'folder'),
}


@pytest.mark.parametrize('case', STUDY)
def test_kd_study(case, bad, capsys, monkeypatch):
    more, names, fix = STUDY[case]
    options = {k: v for k, v in {**({} if 'config' in more else TINY), 'out': 'never', **more}.items() if v is not None}
    assert fix in refuse(cli.kd_study, arguments(options), 'kd_study', names, capsys, bad, monkeypatch)


GIVEN = dict(teacher='nets/ten', students=['KL=nets/other'], controls=['nets/control'], data='shapes',
             size=32, n=16, bs=16, device='cpu')
PROBE = { # as above
    'no teacher': (dict(teacher=None), 'teacher', 'taught'),
    'no students': (dict(students=None), 'students', 'at least one'),
    'no controls': (dict(controls=None), 'controls', 'no teacher'),
    'no data': (dict(data=None), 'data', 'folder'),
    'unknown target': (dict(target='predict'), 'target', 'predicted'),
    'unknown probe': (dict(probes=['shifts']), 'probes', 'shift'),
    'batches of 0': (dict(bs=0), 'bs', 'positive'),
    'no image': (dict(n=0), 'n', '1 or more'),
    'unknown split': (dict(split='test'), 'split', 'valid'),
    'labels that the networks do not know': (dict(data='./two', n=None), 'target', '--target predicted'),
    'a folder without classes': (dict(data='./flat', n=None), 'data', '--target predicted'),
    'an empty folder': (dict(data='./empty', target='predicted', n=None), 'data', 'end in'),
    'corrupt JPEG': (dict(data='./corrupt', target='predicted', n=None), 'data', 'Repair'),
    'a student with other classes': (dict(students=['KL=nets/five']), 'KL', 'same classes'),
    'a control with other classes': (dict(controls=['nets/two']), 'controls', 'same classes'),
    'a student with the name of another role': (dict(students=['Ind=nets/other']), 'students', 'NAME=NETWORK'),
    'an unknown teacher': (dict(teacher='resnt18'), 'teacher', 'resnet18'),
    'a truncated student': (dict(students=['nets/cut']), 'students', 'Save'),
    'a pickled control': (dict(controls=['nets/whole.pth']), 'controls', 'ARCHITECTURE@FILE'),
    'a checkpoint of another architecture': (dict(foreign='nets/mixed'), 'foreign', 'one network'),
    'epsilon of 8': (dict(probe_args=dict(adversarial=dict(eps=8))), 'eps', '8/255'),
    'images too small for the networks': (dict(teacher='nets/cnn', students=['nets/cnn'], controls=['nets/cnn']),
                                          'T', 'It takes 28: give such a size (--size)'),
    'a device that is none': (dict(device='tpu'), 'device', 'cpu'),
    'a folder that holds other results': (dict(out='held'), 'out', 'another folder'),
    'a file in the place of the run folder': (dict(out='a file'), 'out', 'folder'),
}


@pytest.mark.parametrize('case', PROBE)
def test_kd_probe(case, bad, capsys, monkeypatch):
    more, names, fix = PROBE[case]
    options = {k: v for k, v in {**GIVEN, 'out': 'never', **more}.items() if v is not None}
    assert fix in refuse(cli.kd_probe, arguments(options), 'kd_probe', names, capsys, bad, monkeypatch)


def pixels(n=2): return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_nan():
    x = pixels()
    x[1, 2, 3, 4] = torch.nan
    return x


def cast(): return probes.Cast(small(10, 0), dict(Ind=[small(10, 1)], KL=[small(10, 2)]))


def dls(): return data.get_dls(n_train=16, n_valid=8, bs=8, device='cpu')


def wrong_labels():
    made = dls()
    made.train_ds.y = made.train_ds.y + 3
    return made


Y = torch.tensor([0, 1])


FUNCTIONS = { # case -> call, the argument that is named, a word of the fix
    'NaN in an image, Grad-CAM': (lambda: probes.grad_cam(small(10, 0), with_nan(), Y), 'pixels', 'Repair'),
    'NaN in an image, attack': (lambda: probes.fgsm(small(10, 0), with_nan(), Y), 'pixels', 'Repair'),
    'NaN in an image, invariance': (lambda: probes.views('colour', with_nan(), .4), 'pixels', 'Repair'),
    'images in 0 to 255, Grad-CAM': (lambda: probes.grad_cam(small(10, 0), 255*pixels(), Y), 'pixels', r'\[0, 1\]'),
    'images in 0 to 255, attack': (lambda: probes.fgsm(small(10, 0), 255*pixels(), Y), 'pixels', r'\[0, 1\]'),
    'normalised images, invariance': (lambda: probes.views('crop', pixels() - .5, .4), 'pixels', r'\[0, 1\]'),
    'bytes': (lambda: data.check_pixels(pixels().byte()), 'pixels', '255'),
    'labels out of range, Grad-CAM': (lambda: probes.grad_cam(small(10, 0), pixels(), Y + 9), 'y', '9'),
    'labels out of range, training': (lambda: distillation.classifier_learner(wrong_labels()), 'labels', 'from 0'),
    'labels out of range, images': (lambda: data.shapes(4).with_labels([0, 1, 2, 10]), 'y', '0 to 9'),
    'labels of other images': (lambda: data.shapes(4).with_labels([0, 1]), 'y', 'each image'),
    'a student with other classes, training':
        (lambda: distillation.distill_learner(dls(), small(10, 0), dict(KL=distillation.KL()), student=small(7, 0)),
         'KL', 'these classes'),
    'a teacher with other classes, training':
        (lambda: distillation.distill_learner(dls(), small(7, 0), dict(KL=distillation.KL())), 'teacher',
         'these classes'),
    'a student with other classes, probes': (lambda: probes.Cast(small(10, 0), dict(Ind=small(10, 1), KL=small(5, 0))),
                                             'KL', 'same classes'),
    'a cast without control': (lambda: probes.Cast(small(10, 0), dict(KL=small(10, 1))), 'students',
                               'without the teacher'),
    'a layer that does not exist': (lambda: models.find_module(small(10, 0), 'layr1'), 'layer', 'layer1'),
    'zero images left after filtering': (lambda: data.shapes(4).subset(torch.zeros(4, dtype=torch.bool)), 'idxs',
                                         'filter'),
    'no image that the attack fools': (lambda: probes.adversarial(cast(), data.shapes(4), eps=1e-9), 'eps', 'larger'),
    'epsilon of 8': (lambda: probes.fgsm(small(10, 0), pixels(), Y, eps=8), 'eps', '8/255'),
    'negative epsilon': (lambda: probes.fgsm(small(10, 0), pixels(), Y, eps=-.1), 'eps', 'positive'),
    'temperature 0, contrastive': (lambda: distillation.CRD(tau=0), 'temperature', '.07'),
    'negative weight': (lambda: distillation.Hint(weight=-1), 'weight', 'away'),
    'no objective': (lambda: distillation.distill_learner(dls(), small(10, 0), dict(KL='KL')), 'students', r'KL\(\)'),
    'no teacher to learn from': (lambda: distillation.distill_learner(dls(), None, dict(KL=distillation.KL())),
                                 'teacher', 'trained'),
    'batches of 0': (lambda: data.get_dls(bs=0), 'bs', '1 or more'),
}


@pytest.mark.parametrize('case', FUNCTIONS)
def test_functions(case):
    call, names, fix = FUNCTIONS[case]
    with pytest.raises(KDError, match=rf'^{names}: .*{fix}') as e: call()
    assert '\n' not in str(e.value)


FRESH = [('kd_study', dict(data='shpes'), 'data'), ('kd_study', dict(probe_args=dict(adversarial=dict(eps=8))), 'eps'),
         ('kd_probe', dict(teacher='nets/cut'), 'teacher')]


@pytest.mark.parametrize('command,more,names', FRESH, ids=['data set', 'epsilon', 'network'])
def test_in_a_fresh_process(command, more, names, bad, fresh):
    before = snapshot(bad)
    given = TINY if command == 'kd_study' else GIVEN
    res = fresh(RUN.format(command), *arguments({**given, 'out': 'never', **more}), cwd=bad)
    told(res.returncode, res.stderr, command, names)
    assert res.stdout == '' and snapshot(bad) == before


HOLD = '''
import sys
from kd_knowledge.core import RunFolder
with RunFolder(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
'''


def test_a_run_folder_in_use(bad, capsys, monkeypatch):
    "Another process works in the folder: the second run says so, and leaves it as it is."
    other = subprocess.Popen([sys.executable, '-c', HOLD, bad/'held'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    try:
        assert other.stdout.readline() == 'held\n'
        said = refuse(cli.kd_study, arguments({**TINY, 'out': 'held'}), 'kd_study', 'out', capsys, bad, monkeypatch)
        assert 'another run' in said and 'Wait' in said
    finally: other.communicate()


@pytest.fixture
def full(tmp_path):
    "A full disk of 1 MB."
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tmp_path]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('only root can mount a small disk')
    try:
        with open(tmp_path/'filler', 'wb', buffering=0) as f, contextlib.suppress(OSError):
            while f.write(bytes(4096)): pass
        yield tmp_path
    finally: subprocess.run(['umount', tmp_path], check=True)


def files(folder):
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in Path(folder).rglob('*') if p.is_file()}
    return {name: size for name, size in sizes.items() if size}


def test_a_full_disk(full, bad, capsys, monkeypatch):
    before = files(full)
    said = refuse(cli.kd_study, arguments({**TINY, 'out': full/'run'}), 'kd_study', '', capsys, bad, monkeypatch)
    assert 'No space left' in said and 'room' in said and files(full) == before


@pytest.mark.parametrize('workers', [1, 2])
def test_a_disk_that_fills_up(workers, full, bad, capsys, monkeypatch):
    "What was finished before stays whole, and the study goes on from there when there is room."
    os.truncate(full/'filler', 700_000)
    said = refuse(cli.kd_study, arguments({**TINY, 'workers': workers, 'out': full/'run'}), 'kd_study', '', capsys, bad,
                  monkeypatch)
    assert 'No space left' in said and 'room' in said
    assert not [p for p in full.rglob('*') if '.part' in p.name]
    finished = {f for p in full.glob('run/steps/*.json') for f in json.loads(p.read_text())['files']}
    assert finished and all((full/'run'/f).stat().st_size for f in finished)
    for f in finished:
        if f.endswith('.safetensors'): models.load_model(full/'run'/f)


def test_a_read_only_disk(full, bad, capsys, monkeypatch):
    os.truncate(full/'filler', 1000)
    subprocess.run(['mount', '-o', 'remount,ro', full], check=True)
    before = snapshot(full)
    said = refuse(cli.kd_study, arguments({**TINY, 'out': full/'run'}), 'kd_study', '', capsys, bad, monkeypatch)
    assert 'Read-only' in said and snapshot(full) == before


def test_a_training_that_diverges(tmp_path, bad, capsys, monkeypatch):
    said = refuse(cli.kd_study, arguments({**TINY, 'lr': 1e30, 'out': tmp_path/'run'}), 'kd_study', 'lr', capsys, bad,
                  monkeypatch)
    assert 'lower learning rate' in said and 'Exception' not in said
    assert not list((tmp_path/'run').glob('models/KL*')) and not list((tmp_path/'run').glob('steps/students*KL*'))


def test_the_line_is_one():
    with pytest.raises(KDError, match=r'^a: two lines\. Give one$'): require(False, 'a', 'two\nlines', 'Give one')
