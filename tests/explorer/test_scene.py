"A scene: what a run folder gives, and what the record of a probe, the user's own as well, says can be shown."
import pandas as pd
import pytest
import torch

from kd_knowledge.core import KDError
from kd_knowledge.explorer import as_scene, effects, open_run, Report, Scene
from kd_knowledge.explorer.estimates import behind
from kd_knowledge.probes import Probe, PROBES, register_probe, table
from tests.common import says


@pytest.fixture
def registered():
    "A function that registers a probe for one test."
    before = dict(PROBES)
    yield register_probe
    PROBES.clear()
    PROBES.update(before)


def light(cast, images):
    "The brightness of each image; a student of KL sees as much more as the image is bright."
    mean = images.pixels(range(len(images))).mean((1, 2, 3))
    rows = lambda m: table('light', 'all', 'mean', m, range(len(images)), mean*(1 + (m.role == 'student')))
    return pd.concat(map(rows, cast.networks))


def by_domain(cast, images, domains=None):
    "The number of each image, in each domain."
    sets = dict(seen=images, **(domains or {}))
    def rows(m, name, n): return table('by_domain', name, 'number', m, range(n), range(n))
    return pd.concat([rows(m, name, len(found)) for m in cast.networks for name, found in sets.items()])


def row_of(scene, probe): return scene.estimates.query('probe == @probe').iloc[0]


def test_a_run_gives_networks_images_tables_and_logs(run):
    scene = open_run(run, models=['KL'])
    assert [m.model for m in scene.shown.networks] == ['T', 'Ind', 'KL'] and len(scene.images) == 64
    known = pd.read_csv(run/'estimates.csv', dtype={'condition': str})
    assert scene.estimates.value.tolist() == known.value.tolist()
    assert len(scene.found('colour')) == len(pd.read_parquet(run/'probes'/'colour.parquet'))
    assert list(scene.known['logs'])[0] == 'Ind-KL-Hint-CRD-0' and as_scene(scene) is scene


def test_a_quick_probe_that_the_run_had_not_is_asked_of_the_first_few(scene):
    assert scene.found('shift')['sample'].nunique() == len(scene.few) == 32
    says(lambda: scene.found('fidelity'), "probe: 'fidelity' was not run", 'localization')


def test_a_probe_of_ones_own_is_asked_and_shown(untrained, registered):
    registered(Probe('light', light, 'Light', 'Is it bright?', quick=True))
    assert untrained.found('light')['sample'].nunique() == 8
    report = Report(untrained)
    report.controls['probe'].value = 'light'
    assert 'KL' in report.numbers.value and report.behind.value[:4] == b'\x89PNG'
    bright = untrained.few.pixels(range(8)).mean((1, 2, 3)).argmax().item()
    sample, effect, pixels = behind(untrained, row_of(untrained, 'light'))[0]
    assert sample == bright and torch.equal(pixels, untrained.images.pixels([bright])[0])


def test_one_that_is_not_quick_is_shown_where_its_rows_are_given(untrained, registered):
    registered(Probe('light', light, 'Light', 'Is it bright?'))
    with pytest.raises(KDError): untrained.found('light')
    scene = Scene(untrained.cast, untrained.images, light(untrained.cast, untrained.images))
    assert list(Report(scene).controls['probe'].options) == ['light']
    assert len(behind(scene, row_of(scene, 'light'))) == 12


def test_a_condition_that_names_a_domain_shows_its_images(untrained, registered):
    registered(Probe('by_domain', by_domain, 'Numbers', 'Which?', quick=True))
    night = untrained.images.subset(range(8, 24))
    scene = Scene(untrained.cast, untrained.images, few=8, domains=lambda: dict(night=night))
    row = scene.estimates.query('probe == "by_domain" and condition == "night"').iloc[0]
    shown = {sample: pixels for sample, _, pixels in behind(scene, row)}
    assert len(shown) == 12 and all(torch.equal(pixels, night.pixels([i])[0]) for i, pixels in shown.items())


def test_samples_that_are_no_images(untrained, registered):
    black = lambda images, samples, seed: torch.zeros(len(samples), 3, 2, 2)
    for samples, own, n in (('layer', None, 0), ('plane', None, 0), ('plane', black, 8), ('share', None, 8)):
        registered(Probe('light', light, 'Light', 'Is it bright?', samples=samples, behind=own))
        scene = Scene(untrained.cast, untrained.images, light(untrained.cast, untrained.few))
        assert len(behind(scene, row_of(scene, 'light'))) == n


def test_rows_of_a_probe_that_is_not_registered_are_shown(untrained):
    scene = Scene(untrained.cast, untrained.images, light(untrained.cast, untrained.few))
    assert len(behind(scene, row_of(scene, 'light'))) == 8 and 'KL' in Report(scene).numbers.value


def test_every_control_of_a_student_counts(untrained):
    rows = light(untrained.cast, untrained.few)
    found = effects(rows, 'KL')
    assert (found > 0).all() and found.is_monotonic_decreasing and len(found) == 8
