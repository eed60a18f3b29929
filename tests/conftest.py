"What the tests share: the repository, a copy of it, its wheel, and commands in a fresh process."
import os, shutil, subprocess, sys, time, zipfile
from pathlib import Path
from types import SimpleNamespace
import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
ROOT = Path(__file__).resolve().parents[1]
LONG = 'house/test_site', 'study/', 'house/test_', 'explorer/', 'cli/'  # first, so that no worker waits at the end
NOT_SOURCE = ['.git', '.venv', '_proc', '_docs', 'runs', 'build', 'dist', '*.egg-info', '__pycache__',
              '.ipynb_checkpoints', '.pytest_cache']

def pytest_addoption(parser):
    text = 'fail where a test was skipped for a thing that can be brought'
    parser.addoption('--nothing-skipped', action='store_true', help=text)

def pytest_collection_modifyitems(items):
    "The files that take longest come first."
    place = lambda item: next((i for i, o in enumerate(LONG) if f'tests/{o}' in item.path.as_posix()), len(LONG))
    items.sort(key=place)

def pytest_sessionfinish(session):
    "With `--nothing-skipped` a reason that ends with `brings it` is a failure."
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if not reporter or not session.config.getoption('nothing_skipped'): return
    lost = sorted({o.longrepr[2] for o in reporter.stats.get('skipped', []) if o.longrepr[2].endswith('brings it')})
    if lost:
        reporter.write_line('\n' + '\n'.join(f'must not be skipped here: {o}' for o in lost), red=True)
        session.exitstatus = 1

@pytest.fixture(scope='session')
def root() -> Path:
    "The repository's folder."
    return ROOT

def copy_sources(dest):
    "Copy to `dest` what a commit would hold, or, outside git, everything that no tool made."
    listed = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        return shutil.copytree(ROOT, dest, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    for name in filter(None, listed.stdout.split('\0')):
        if not (ROOT/name).is_file(): continue
        (dest/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, dest/name)

@pytest.fixture(scope='session')
def wheel(tmp_path_factory) -> Path:
    "The wheel, built from a copy of the sources."
    tree = tmp_path_factory.mktemp('wheel')/'tree'
    copy_sources(tree)
    res = subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tree.parent],
                         cwd=tree, capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-2000:] + res.stderr[-2000:]
    return next(tree.parent.glob('*.whl'))

@pytest.fixture(scope='session')
def unpacked(wheel) -> Path:
    "The folder that the wheel was unpacked to."
    dest = wheel.parent/'unpacked'
    zipfile.ZipFile(wheel).extractall(dest)
    return dest

def python(code, *args, path=None, cwd=None, timeout=300, **env):
    "Run `code` in a fresh Python, with `path` first on its search path; gives stdout, stderr, returncode, seconds."
    env = {**os.environ, **env, **({'PYTHONPATH': str(path)} if path else {})}
    start = time.perf_counter()
    res = subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, env=env, capture_output=True,
                         text=True, timeout=timeout)
    return SimpleNamespace(stdout=res.stdout, stderr=res.stderr, returncode=res.returncode,
                           seconds=time.perf_counter() - start)

@pytest.fixture(scope='session')
def fresh():
    "A function that runs code in a fresh Python: `python(code, *args, path, cwd, timeout, **env)`."
    return python
