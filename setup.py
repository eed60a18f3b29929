"Everything here comes from settings.ini."
import re, shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

licenses = dict(apache2='Apache-2.0', mit='MIT', bsd3='BSD-3-Clause')
statuses = ['', 'Planning', 'Pre-Alpha', 'Alpha', 'Beta', 'Production/Stable', 'Mature', 'Inactive']
newest_python = 13
data_kinds = 'css', 'csv', 'j2', 'js', 'json', 'yaml'  # what is no code, in folders that are no packages

def requirements(key):
    """The requirements under `key`, separated by spaces, new lines or commas; a comma before a version or in brackets
    separates none."""
    words = shlex.split(cfg.get(key, ''))
    return [o for word in words for o in re.split(r',(?=[A-Za-z])(?![^\[]*\])', word.strip(',')) if o]

def classifiers():
    oldest = int(cfg['min_python'].split('.')[1])
    return [f'Development Status :: {cfg["status"]} - {statuses[int(cfg["status"])]}',
            f'Intended Audience :: {cfg["audience"]}', f'Natural Language :: {cfg["language"]}',
            'Programming Language :: Python :: 3',
            *(f'Programming Language :: Python :: 3.{v}' for v in range(oldest, newest_python+1))]

def long_description():
    readme = here/'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else cfg['description']

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], license=licenses[cfg['license']], classifiers=classifiers(), url=cfg['git_url'],
    project_urls=dict(Documentation=cfg['doc_host'] + cfg['doc_baseurl']),
    long_description=long_description(), long_description_content_type='text/markdown',
    packages=find_packages(include=[cfg['lib_path'], f'{cfg["lib_path"]}.*']), include_package_data=False,
    package_data={cfg['lib_path']: [f'**/*.{kind}' for kind in data_kinds]}, zip_safe=False,
    python_requires=f'>={cfg["min_python"]}', install_requires=requirements('requirements'),
    extras_require={k.removesuffix('_requirements'): requirements(k) for k in cfg if k.endswith('_requirements')},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(),
                      nbdev=[f'{cfg["lib_name"]}={cfg["lib_path"]}._modidx:d']),
)
