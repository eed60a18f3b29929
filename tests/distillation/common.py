"What the tests of distillation share: a small student, a short fit, labels, the paper's objectives."
from kd_knowledge.data import get_dls
from kd_knowledge.models import create_model
from kd_knowledge.study.presets import load_preset
from kd_knowledge.study.steps import objectives_of


def student(): return create_model('resnet_small', 10, width=4)


def batches():
    "Four batches of 16 drawn images of 10 classes."
    return get_dls('shapes', bs=16, n_train=64, n_valid=32)


def fit(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-2)
    return learn


class Labelled:
    "The labels of a training set, which is all that CRD reads of it."
    def __init__(self, y): self.y = y
    def __len__(self): return len(self.y)


def paper_objectives(preset):
    "The students of one of the paper's pairs, with the weights and layers that its preset has written out."
    return dict(Ind=None, **objectives_of(load_preset(preset)))
