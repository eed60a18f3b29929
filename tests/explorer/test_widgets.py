"Widgets answer a move with one picture, which is quick to draw."
import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kd_knowledge.explorer import draw_panel, EXPLORERS, new_canvas, png_bytes, Scene
from kd_knowledge.probes import invariance, localization

MOVES = dict(
    Looks=dict(image=5, stage='F2', target='ring', order='KL, strongest'),
    Fooled=dict(eps=16, steps=3, image=4),
    Unmoved=dict(brightness=.5, contrast=1.5, saturation=.2, hue=.2, crop=.6, shift=3, curve='crop', image=8),
    Boundary=dict(first=4, second=5, third=6, points=5),
    Report=dict(probe='colour', condition='0.4', networks=('KL',), metric='agreement'))


@pytest.fixture
def known(untrained):
    "A scene whose rows are known."
    cast, few = untrained.cast, untrained.few
    rows = localization(cast, few), invariance(cast, few, colours=(.2, .4), crops=(.5,), shifts=(4,))
    return Scene(cast, untrained.images, pd.concat(rows), few=8)


@pytest.mark.parametrize('name', MOVES)
def test_a_move_is_answered_with_one_picture(name, known):
    explorer = EXPLORERS[name](known)
    for control, value in MOVES[name].items():
        explorer.seconds.clear()
        before = explorer.controls[control].value
        explorer.controls[control].value = value
        assert len(explorer.seconds) == (before != value), control
        assert 'alert' not in explorer.numbers.value


def panels():
    "Five panels on our canvas."
    figure, ax = new_canvas(5)
    for i in range(5): draw_panel(ax, i, np.eye(24)[..., None]*[1, 0, 0], 'above', 'below')
    return figure


def subplots():
    "The same in axes of their own."
    figure = Figure(figsize=panels().get_size_inches(), dpi=80)
    for ax in figure.subplots(1, 5):
        ax.imshow(np.eye(24)[..., None]*[1, 0, 0])
        ax.set_title('above', fontsize=8)
        ax.set_xlabel('below', fontsize=8)
    return figure


def test_a_canvas_is_drawn_faster_than_subplots():
    def seconds(make):
        start = time.process_time()
        png_bytes(make())
        return time.process_time() - start
    rounds = np.array([[seconds(panels), seconds(subplots)] for _ in range(3)])
    ours, theirs = np.median(rounds, 0)
    print(f'canvas {1000*ours:.0f} ms, subplots {1000*theirs:.0f} ms')
    assert ours < .7*theirs
