"The wheel holds the package alone, and the package works where there is no nbdev and no Jupyter."
import zipfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path

import pytest
import yaml

REFUSE = """
import importlib, pkgutil, sys
absent = {'nbdev', 'execnb', 'fastgit', 'ghapi', 'ipykernel', 'jupyter_client', 'jupyter_core', 'jupyter_server',
          'jupyterlab', 'nbclient', 'nbconvert', 'nbformat', 'notebook', 'pytest', 'timm'}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in absent: raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Refuse())
"""

IMPORT_ALL = REFUSE + """
import kd_knowledge
assert kd_knowledge.__file__.startswith(sys.argv[1]), kd_knowledge.__file__
for o in pkgutil.walk_packages(kd_knowledge.__path__, 'kd_knowledge.'):
    importlib.import_module(o.name)
    print(o.name)
"""

LIGHT = """
import sys
import kd_knowledge
print(kd_knowledge.__version__, *sorted({'torch', 'fastai', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))
"""

STUDY = REFUSE + """
import kd_knowledge
from kd_knowledge.cli import kd_study
assert kd_knowledge.__file__.startswith(sys.argv[1]), kd_knowledge.__file__
sizes = '--n-train 64 --n-probe 32 --size 16 --bs 32 --seeds 1 --epochs 1 --teacher-epochs 1 --no-starred'
probes = '--probes colour fidelity --workers 1 --device cpu'
sys.exit(kd_study([*sizes.split(), *probes.split(), '--out', sys.argv[2]]))
"""

@pytest.fixture
def settings(root):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

@pytest.fixture
def metadata(unpacked):
    return message_from_string(next(unpacked.glob('*.dist-info/METADATA')).read_text(encoding='utf-8'))

def test_wheel_holds_the_package_alone(wheel, root):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split('/')[0] for n in names}
    assert {t for t in tops if not t.endswith('.dist-info')} == {'kd_knowledge'}
    ours = {str(p.relative_to(root)) for p in (root/'kd_knowledge').rglob('*.py')}
    assert {n for n in names if n.endswith('.py')} == ours
    assert any(n.endswith('LICENSE') for n in names)

def test_stored_configs_name_no_machine(root):
    "The run folder of a stored result is where any clone would have it."
    found = [yaml.safe_load(p.read_text(encoding='utf-8'))['out'] for p in (root/'nbs'/'results').glob('*/config.yaml')]
    assert len(found) > 20 and not [out for out in found if Path(out).is_absolute()]

def test_wheel_metadata(metadata, settings):
    assert metadata['Name'].replace('-', '_') == settings['lib_name'] and metadata['Version'] == settings['version']
    assert metadata['Requires-Python'] == f'>={settings["min_python"]}' and metadata['License'] == 'Apache-2.0'

def test_pins_are_in_the_development_extra_only(metadata):
    needs = metadata.get_all('Requires-Dist')
    own, dev = [o for o in needs if 'extra ==' not in o], [o for o in needs if 'extra ==' in o]
    assert not [o for o in own if '==' in o or '<' in o]
    assert any(o.startswith('nbdev==') for o in dev) and any(o.startswith('torch>=') for o in own)
    assert len(dev) + len(own) == len(set(needs))

def test_entry_points(unpacked):
    entries = ConfigParser(delimiters=['='])
    entries.read_string(next(unpacked.glob('*.dist-info/entry_points.txt')).read_text())
    assert dict(entries['nbdev']) == dict(kd_knowledge='kd_knowledge._modidx:d')
    assert set(entries['console_scripts']) == {'kd_study', 'kd_probe', 'kd_parent', 'kd_results', 'kd_explore'}

@pytest.mark.parametrize('text,want', [
    ('', []), ('a b', ['a', 'b']), ('a>=1, b<2,c', ['a>=1', 'b<2', 'c']), ('a>=1,<2 b', ['a>=1,<2', 'b']),
    ('a[x,y]>=1,b', ['a[x,y]>=1', 'b']), ('a\n\tb>=2\n\tc', ['a', 'b>=2', 'c']),
    ('\'a>=1; python_version < "3.11"\' b', ['a>=1; python_version < "3.11"', 'b'])])
def test_requirements_are_separated_by_commas_or_spaces(text, want, root, monkeypatch):
    import setuptools
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: None)
    names = dict(__file__=str(root/'setup.py'), __name__='setup')
    exec((root/'setup.py').read_text(), names)
    names['cfg'] = dict(requirements=text)
    assert names['requirements']('requirements') == want

def test_imports_without_nbdev_and_jupyter(unpacked, fresh, tmp_path):
    res = fresh(IMPORT_ALL, unpacked, path=unpacked, cwd=tmp_path)
    assert res.returncode == 0, res.stderr[-2000:]
    assert set(res.stdout.split()) >= {f'kd_knowledge.{p.stem}' for p in (unpacked/'kd_knowledge').glob('[!_]*.py')}

def test_the_wheel_alone_makes_a_report(unpacked, fresh, tmp_path):
    "Templates, styles and tables are in it, and neither nbdev nor Jupyter is needed."
    res = fresh(STUDY, unpacked, tmp_path/'run', path=unpacked, cwd=tmp_path)
    assert res.returncode == 0, res.stdout[-2000:] + res.stderr[-2000:]
    page = (tmp_path/'run'/'report.html').read_text(encoding='utf-8')
    assert '<style>' in page and '<script' in page and 'KL' in page and len(page) > 20_000
    assert (tmp_path/'run'/'cards'/'KL.md').read_text(encoding='utf-8').startswith('---\nlibrary_name: kd_knowledge')

def test_the_wheel_holds_what_is_no_code(wheel, root):
    kinds = '.yaml', '.csv', '.css', '.js', '.json', '.j2'
    there = {str(p.relative_to(root)) for p in (root/'kd_knowledge').rglob('*') if p.suffix in kinds}
    assert there and there <= set(zipfile.ZipFile(wheel).namelist())

def test_import_is_light(unpacked, fresh, tmp_path, settings):
    "Its seconds are measured by the benchmarks and told by test_rooms."
    version, *heavy = fresh(LIGHT, path=unpacked, cwd=tmp_path).stdout.split()
    assert version == settings['version'] and not heavy
