"Folders as hypothesis builds them: the right images with the right labels of the right split, or one line."
import csv
import os
import tempfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from kd_knowledge.core import KDError
from kd_knowledge.data import get_images

WORDS = 'train', 'val', 'test', 'full', 'Training'  # names of splits, which classes may have too
NAMES = st.one_of(
    st.sampled_from(['cat', 'dog', 'a b', 'a.png', '100%', '1', '2', '10', 'n01440764', '<b>', "it's", 'x,y', 'é', '猫']),
    st.text(st.characters(blacklist_categories=['Cc', 'Cs'], blacklist_characters='/'), min_size=1, max_size=12))
SPLITS = dict(train=['train', 'Train', 'training', 'training_set'], test=['test', 'TESTING', 'test_set'],
              valid=['valid', 'val', 'VAL', 'validation', 'dev', 'crossval'])
ENDINGS = '.png', '.PNG', '.bmp', '.tif'
HARM = None, None, None, 'beside', 'broken', 'dead link', 'empty class', 'strange class', 'two of valid', 'not UTF-8'


@pytest.fixture(scope='module')
def pictures():
    "A folder of image files, of which each is named by its red."
    with tempfile.TemporaryDirectory() as folder:
        for i, ending in product(range(64), ENDINGS): Image.new('RGB', (8, 8), (i, 0, 0)).save(f'{folder}/{i}{ending}')
        yield Path(folder)


@st.composite
def layouts(draw):
    "Which files lie where, and what is true of them: split -> number of the image -> its class."
    any_of = lambda *values: draw(st.sampled_from(values))
    names = draw(st.lists(NAMES.filter(lambda k: not k.startswith('.') and len(k.encode()) < 60), min_size=2,
                          max_size=3, unique=True))
    if any_of(*[False] * 5, True): names[0] = any_of(*set(WORDS) - set(names))
    kinds = any_of((), (), ('train', 'valid'), ('train', 'valid', 'test'), ('train', 'test'), ('train',), ('valid',))
    parts = {kind: any_of(*SPLITS[kind]) for kind in kinds} or dict(all='')
    made = SimpleNamespace(
        names=names, parts=parts, files={}, folders=[], links={}, rows=[], loose=[], harm=any_of(*HARM), truth={},
        top=any_of('', 'images/') if 'train' in parts else '', flat=False, listed=False)
    for kind, part in parts.items():
        made.truth[kind] = {}
        for k in names:
            place = f'{part}/{k}'.strip('/')
            if any_of(*[False] * 5, True): made.links[made.top + place] = place = f'../far/{kind}{names.index(k)}'
            else: place = made.top + place
            for j in range(any_of(1, 2, 3)):
                number = sum(map(len, made.truth.values()))
                made.files[f'{place}/{any_of("", "", "sub/")}{j}{any_of(*ENDINGS)}'] = number
                made.truth[kind][number] = k
    if len(parts) > 1 and 'valid' in parts and any_of(False, False, True): flatten(made, any_of(False, True, True))
    for place in any_of((), ('.ipynb_checkpoints/0.png', 'Thumbs.db', 'notes.txt')):
        made.files[place] = 63
    if any_of(False, False, True): made.links['loop'] = '.'
    if any_of(False, False, True): made.loose.append(f'{made.top}loose.png')
    if kinds and any_of(False, True): made.folders.append(f'{made.top}annotations')
    return made


def flatten(made, listed):
    "Put the images of valid into one folder, with a list of their classes beside it where `listed`."
    home, made.flat, made.listed = f'{made.top}{made.parts["valid"]}', True, listed
    made.links = {k: v for k, v in made.links.items() if not k.startswith(f'{home}/')}
    for place, number in list(made.files.items()):
        if number not in made.truth['valid']: continue
        del made.files[place]
        name = f'{number}{Path(place).suffix}'
        made.files[f'{home}/{name}'] = number
        made.rows.append((name, made.truth['valid'][number]))


def build(made, home, pictures):
    "The folder on disk."
    def put(place, number):
        path = home/place.lstrip('/')
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures/f'{number}{path.suffix if path.suffix in ENDINGS else ".png"}', path)
    for place, number in made.files.items(): put(place, number)
    for place in made.loose: put(place, 62)
    for place in made.folders: (home/place).mkdir(parents=True)
    for place, to in made.links.items():
        (home/place).parent.mkdir(parents=True, exist_ok=True)
        (home/place).symlink_to(home if to == '.' else home/to)
    if made.listed:
        with open(home/made.top/'labels.csv', 'w', newline='', encoding='utf-8') as f:
            csv.writer(f).writerows([('file', 'class'), *made.rows])
    part = home/made.top/next(iter(made.parts.values()))
    if made.harm == 'beside': put(f'{made.top}holdout/0.png', 61)
    if made.harm == 'broken': (part/made.names[0]/'broken.png').write_bytes(b'GIF89a')
    if made.harm == 'dead link': (part/made.names[0]/'dead.png').symlink_to(home/'nowhere')
    if made.harm == 'empty class': (part/'no image').mkdir()
    if made.harm == 'strange class': put(f'{made.top}{list(made.parts.values())[-1]}/strange class/0.png', 60)
    if made.harm == 'two of valid': [put(f'{made.top}{k}/x/0.png', 61) for k in ('val2', 'crossval', 'Valid')]
    if made.harm == 'not UTF-8': put(f'{made.top}{list(made.parts.values())[0]}/' + os.fsdecode(b'\xff\xfe') + '/0.png', 59)


def ask(home, split, unlabeled):
    "Number of each image -> its class as it was read; the line of a refusal."
    try: images = get_images(home, split, size=8, unlabeled=unlabeled)
    except KDError as error: return str(error)
    numbers = images.x[:, 0, 4, 4].tolist()
    assert len(set(numbers)) == len(numbers) == len(set(images.ids))
    return {i: images.vocab[k] for i, k in zip(numbers, images.y.tolist())}


def may_refuse(made):
    "Whether what was built cannot be read by anybody, or may mean two things."
    twofold = any(k in WORDS for k in made.names) or made.flat and any(k != k.strip() for k in made.names)
    return made.harm or twofold or made.flat and not made.listed


@pytest.mark.filterwarnings('ignore::kd_knowledge.core.KDWarning')
@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(layouts())
def test_any_folder_is_read_rightly_or_refused_in_one_line(pictures, made):
    with tempfile.TemporaryDirectory(dir=pictures) as folder:
        home = Path(folder)/'home'
        home.mkdir()
        build(made, home, pictures)
        found = {(s, u): ask(home, s, u) for s in ('train', 'valid') for u in (False, True)}
    truth, extra = made.truth, {62} if made.loose else set()
    for (split, unlabeled), what in found.items():
        if isinstance(what, str):
            alone = 'all' in truth or set(truth) == {'train'}
            single = alone and len(next(iter(truth.values()))) == len(made.names)
            needed = may_refuse(made) or split not in truth and set(truth) == {'valid'} or single and split == 'valid'
            assert needed and '\n' not in what and what.startswith(('data:', 'white:')), (split, unlabeled, what)
        elif not unlabeled: assert_labels(made, split, what)
        else: assert_numbers(made, split, set(what), extra)
    both = [found[s, False] for s in ('train', 'valid')]
    if 'all' in truth and all(isinstance(f, dict) for f in both):
        assert not set(both[0]) & set(both[1]) and both[0] | both[1] == truth['all'] | harmless(made)


def harmless(made):
    "Images of folders that nobody can tell from classes: number -> class."
    if 'all' not in made.truth: return {}
    found = dict(beside={61: 'holdout'}).get(made.harm, {})
    return found | ({60: 'strange class'} if made.harm == 'strange class' else {})


def assert_labels(made, split, what):
    expected = part_of(made, split)
    alone = 'all' in made.truth or set(made.truth) == {'train'}
    if alone: assert what.items() <= (expected | harmless(made) | {60: 'strange class'}).items()
    else: assert {k: v for k, v in what.items() if k < 59} == expected


def assert_numbers(made, split, what, extra):
    expected = set(part_of(made, split))
    whole = 'all' in made.truth
    assert {k for k in what if k < 59} == expected
    assert 62 not in what or whole and extra


def part_of(made, split):
    "Number -> class of the images that the split is made of."
    truth = made.truth
    if 'all' in truth: return truth['all']
    return truth.get(split) or truth.get('test') or truth['train']
