"The pictures of a report: a CSV beside each, none drawn twice, the images with the largest effects."
import pandas as pd
from PIL import Image

from kd_knowledge.probes.evidence import ESTIMATES
from kd_knowledge.report.figures import extremes, write_extremes
from kd_knowledge.report.html import write_report
from tests.report.runs import long_table, make_run, many_images


def test_figures_that_are_there_stay_unless_they_shall_be_redrawn(tmp_path):
    folder = make_run(tmp_path)
    for name in ('estimates', 'values'): # two probes will do
        rows = pd.read_csv(folder/f'{name}.csv', dtype=str)
        rows[rows.probe.isin(['colour', 'adversarial'])].to_csv(folder/f'{name}.csv', index=False)
    write_report(folder)
    kept, lost = (next((folder/'figures').glob(f'{p}-*.png')) for p in ('colour', 'adversarial'))
    drawn = kept.read_bytes()
    Image.new('RGB', (4, 4)).save(kept)
    lost.unlink()
    small = kept.read_bytes()
    write_report(folder, redraw=False)
    assert kept.read_bytes() == small and lost.exists()
    write_report(folder)
    assert kept.read_bytes() == drawn

def test_a_csv_beside_each_figure(written):
    folder, _ = written
    figures = sorted((folder/'figures').glob('*.png'))
    assert [f.stem for f in figures] == ['adversarial-fooled', 'colour-agreement', 'crop-agreement',
                                         'localization-closer', 'shift-agreement']
    for f in figures: assert pd.read_csv(f.with_suffix('.csv')).columns.tolist()[:len(ESTIMATES)] == ESTIMATES
    assert 'teacher' in pd.read_csv(folder/'figures'/'colour-agreement.csv')
    assert 'teacher' not in pd.read_csv(folder/'figures'/'localization-closer.csv')

def test_extremes():
    part = long_table(('KL', 'CRD', 'KL*')).query('probe == "colour"')
    found, at = extremes(part, 'colour', 5), part[part.condition == '0.4']
    each = at.groupby(['sample', 'model']).value.mean().unstack()
    effects = ((each['KL'] + each['CRD'])/2 - each['Ind']).round(6)
    assert found.columns.tolist() == ['end', 'condition', 'sample', 'effect', 'KL', 'CRD']
    assert set(found.condition) == {'0.4'}
    assert found.effect.round(6).tolist() == effects[found['sample']].tolist()
    ordered = sorted(effects, reverse=True)
    assert found.effect.round(6).tolist() == ordered[:5] + ordered[-5:]
    assert len(extremes(part[part['sample'] < 3], 'colour')) == 2

def test_a_metric_that_no_student_has_makes_no_gallery_of_its_own():
    part = long_table(('KL', 'CRD')).query('probe == "colour" and condition == "0.4"')
    alone = part[part.role == 'teacher'].assign(probe='bias', metric='shape bias', condition='cue conflict')
    rows = pd.concat([alone, part.assign(probe='bias', metric='answered by a cue')])
    assert set(extremes(rows, 'bias').condition) == {'0.4'}

def test_only_probes_whose_samples_are_images_have_galleries(tmp_path):
    part = long_table(('KL', 'CRD')).query('probe == "colour"')
    rows = pd.concat([part, part.assign(probe='boundary'), part.assign(probe='novel')])
    write_extremes(tmp_path, rows, dict(seen=many_images()))
    assert sorted(p.name for p in (tmp_path/'figures').iterdir()) == ['extremes-colour.csv', 'extremes-colour.png']
