"Real data sets in miniature: a few real JPEGs, PNGs, pickles and tables in the layouts in which they are handed out."
import hashlib, pickle
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

PACS = 'photo art_painting cartoon sketch'.split(), 'dog elephant giraffe guitar horse house person'.split()
VLCS = 'Caltech101 LabelMe SUN09 VOC2007'.split(), 'bird car chair dog person'.split()
SIXTEEN = 'airplane bear bicycle bird boat bottle car cat chair clock dog elephant keyboard knife oven truck'.split()
RACES = ['White', 'Black', 'Indian', 'East Asian', 'Southeast Asian', 'Middle Eastern', 'Latino_Hispanic']
FIVE = dict(sketch='ske', stylized='sty', silhouette=None, edge=None,
            **{'cue-conflict': None})  # None: class folders, no sessions


@cache
def photographs():
    from sklearn.datasets import load_sample_images
    return load_sample_images().images


def picture(k, i, size, grey=False):
    "Picture `i` of class `k`: a patch of a photograph, with a square of the class's colour; wider than high."
    photograph = photographs()[i % 2]
    top, left = 37 * i % (photograph.shape[0] - size), 61 * (i + k) % (photograph.shape[1] - 2 * size)
    patch = photograph[top:top + size, left:left + size + size // 4].copy()
    patch[size // 4:size // 2, size // 4:size // 2] = np.random.default_rng(k).integers(0, 256, 3)
    return Image.fromarray(patch).convert('L' if grey else 'RGB')


def save(path, *args, **kwargs):
    "Save `picture(...)` at `path`, in the format of its ending."
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(*args, **kwargs).save(path)


def imagenet(folder, classes=('n01440764', 'n02099601', 'n03445777'), n=6, size=64):
    "imagenet/train and imagenet/val, `n` and n // 3 images (one at least) in each class folder. Returns `folder`."
    for split, many in (('train', n), ('val', max(1, n // 3))):
        for k, name in enumerate(classes):
            for i in range(many):
                save(Path(folder)/'imagenet'/split/name/f'{name}_{i}.JPEG', k, i + 100 * (split == 'val'), size)
    return folder


def _batch(path, n, classes, seed, **keys):
    "A pickled batch of CIFAR: `n` images of 32 x 32 as rows of red, green and blue, and their labels."
    from kd_knowledge.data import shapes
    images = shapes(n, seed=seed)
    y = images.y.tolist() if classes == 10 else [i % classes for i in range(n)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({'data': images.x.numpy().reshape(n, -1),
                                   **{k: y if v is None else v for k, v in keys.items()}}))


def cifar(folder, n=100):
    """CIFAR-10 and CIFAR-100 as torchvision unpacks them, `n` train and `n` test images of each. Returns `folder`.

    The files are real in layout and content; their checksums cannot be those that torchvision knows: see `trust`."""
    ten, hundred = Path(folder)/'cifar-10-batches-py', Path(folder)/'cifar-100-python'
    for i in range(1, 6): _batch(ten/f'data_batch_{i}', n // 5, 10, i, labels=None)
    _batch(ten/'test_batch', n, 10, 6, labels=None)
    names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    (ten/'batches.meta').write_bytes(pickle.dumps({'label_names': names}))
    for split in ('train', 'test'): _batch(hundred/split, n, 100, 7, fine_labels=None, coarse_labels=[0] * n)
    (hundred/'meta').write_bytes(pickle.dumps({'fine_label_names': [f'class {k}' for k in range(100)]}))
    return folder


def trust(monkeypatch, folder):
    "Let torchvision's own integrity check expect the checksums of the files in `folder`, for one test."
    from torchvision.datasets import CIFAR10, CIFAR100
    for cls in (CIFAR10, CIFAR100):
        md5 = lambda name: hashlib.md5((Path(folder)/cls.base_folder/name).read_bytes()).hexdigest()
        for kind in ('train_list', 'test_list'):
            monkeypatch.setattr(cls, kind, [[name, md5(name)] for name, _ in getattr(cls, kind)])
        monkeypatch.setattr(cls, 'meta', {**cls.meta, 'md5': md5(cls.meta['filename'])})


def pacs(folder, n=5, size=48):
    "PACS/DOMAIN/CLASS, `n` images of each class in each domain, those of sketch grey PNGs. Returns `folder`, the root."
    for domain in PACS[0]:
        for k, name in enumerate(PACS[1]):
            for i in range(n):
                save(Path(folder)/'PACS'/domain/name/f'pic_{i:03d}.{"png" if domain == "sketch" else "jpg"}', k, i,
                     size, grey=domain == 'sketch')
    return folder


def vlcs(folder, n=5, size=48):
    "VLCS/DOMAIN/CLASS, `n` images of each class in each domain. Returns `folder`, the root."
    for d, domain in enumerate(VLCS[0]):
        for k, name in enumerate(VLCS[1]):
            for i in range(n): save(Path(folder)/'VLCS'/domain/name/f'img_{name}_{i}.jpg', k, i + 10 * d, size)
    return folder


def fairface(folder, n=6, size=64):
    "fairface/train and fairface/val with tables: `n` and n // 2 faces, which are none, of each race. Returns `folder`."
    home, ages = Path(folder)/'fairface', ['0-2', '20-29', 'more than 70']
    for split, many in (('train', n), ('val', n // 2)):
        rows = ['file,age,gender,race,service_test']
        for i in range(many * len(RACES)):
            save(home/split/f'{i + 1}.jpg', i // 7 % 2, i, size)
            gender = ['Male', 'Female'][i // 7 % 2]
            rows.append(f'{split}/{i + 1}.jpg,{ages[i % 3]},{gender},{RACES[i % 7]},{i % 2 == 0}')
        (home/f'fairface_label_{split}.csv').write_text('\n'.join(rows) + '\n')
    return folder


def model_vs_human(folder, n=1, size=48):
    "The five data sets of model-vs-human as handed out, `n` PNGs of each of the sixteen classes. Returns `folder`."
    for domain, short in FIVE.items():
        home = Path(folder)/'model-vs-human'/'datasets'/domain
        for k, name in enumerate(SIXTEEN):
            for i in range(n):
                own = f'{name}{i + 1}' + (f'-{SIXTEEN[(k + 3) % 16]}{i + 1}' if domain == 'cue-conflict' else '')
                session = f'{16 * i + k + 1:04d}_{short}_dnn_0_{name}_00_{name}-{i:04d}-{domain}-7.png'
                path = home/'dnn'/'session-1'/session if short else home/name/f'{own}.png'
                save(path, k, i, size, grey=domain in ('silhouette', 'edge'))
    return folder
