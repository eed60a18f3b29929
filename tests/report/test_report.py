"The report: one file that asks for nothing, escapes everything, says every kind of verdict, and is the same when written again."
import json, re
from functools import cache
from html.parser import HTMLParser
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from kd_knowledge.core import KDError, write_json
from kd_knowledge.data import Images
from kd_knowledge.probes import ESTIMATES, Member, estimate, summary, table
from kd_knowledge.report.paper import PAPER, beside
from kd_knowledge.report.html import SCRIPT, write_report
from kd_knowledge.report.findings import accuracy_warnings, controls, headline, read_run, sentence, share, shares, tally, write_images
from kd_knowledge.report.figures import extremes, write_extremes

CONDITIONS = dict(localization=['Grad-CAM'], adversarial=['teacher', 'foreign'], colour=['0.2', '0.4', '0.6'], crop=['0.3', '0.5'], shift=['2', '4', '8'])
METRICS = dict(localization='closer', adversarial='fooled')
VERDICTS = ['inherited', 'opposite (away from the teacher)', 'no evidence (the interval includes zero)', 'no evidence (inside the null band)',
            'no evidence (the control moves too)', 'cannot tell seed from effect (one seed)', 'control']

def members(students, seeds, independent):
    return ([Member('T', 'teacher', 0, None)] + [Member('Ind', 'control', s, None) for s in range(independent)]
            + [Member(m, 'student', s, None) for m in students for s in range(seeds)])

@cache
def tables(*args, **kwargs):
    rows = long_table(*args, **kwargs)
    return estimate(rows), summary(rows)

def long_table(students, seeds=2, independent=3, n=60):
    rng, rows = np.random.default_rng(0), []
    for probe, conditions in CONDITIONS.items():
        for condition in conditions:
            for m in members(students, seeds, independent):
                if probe == 'localization' and m.role == 'teacher': continue
                values = rng.random(n) < .4 + .5*(m.model in ('T', students[0]))*(condition != 'foreign')
                rows.append(table(probe, condition, METRICS.get(probe, 'agreement'), m, range(n), values))
    return pd.concat(rows)

def make_run(folder, students=('KL', 'CRD', 'KL*'), config=None, notes=None, step='teacher', **kwargs):
    estimates, values = tables(students, **kwargs)
    estimates.to_csv(folder/'estimates.csv', index=False)
    values.to_csv(folder/'values.csv', index=False)
    networks = values[values.probe == 'colour'].drop_duplicates(['model', 'seed'])
    accuracy = dict(network=networks.model, role=networks.role, seed=networks.seed, accuracy=np.where(networks.role == 'teacher', .93, .9))
    pd.DataFrame(accuracy).to_csv(folder/'accuracy.csv', index=False)
    (folder/'config.yaml').write_text(yaml.safe_dump(config or dict(data='shapes', teacher='resnet_small', student='resnet_small')), encoding='utf-8')
    if notes: (folder/'notes.json').write_text(json.dumps(notes), encoding='utf-8')
    write_json(folder/'steps'/'0.json', dict(step=step, key='0', files=[], versions=dict(torch='2.8'), finished='2026-01-01 00:00:00', seconds=75., device='cpu'))
    return folder

@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp('run'), notes=['Labels are the teacher\'s own answers (--target predicted).'])
    return folder, write_report(folder).read_text(encoding='utf-8')

def plain(text): return text.replace('\u00a0', ' ')

class Page(HTMLParser):
    "What a browser would see: open tags, addresses, ids, table heads; fails where tags are not closed in order."
    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.heads, self.tables, self.text = [], [], [], [], [], ''
        self.feed(text)
        assert not self.open, self.open
    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [v for k, v in attributes.items() if k in ('src', 'href', 'srcset', 'action', 'data', 'poster')]
        if 'id' in attributes: self.ids.append(attributes['id'])
        if tag == 'th': self.heads.append(attributes.get('scope'))
        if tag == 'table': self.tables.append(False)
        if tag == 'caption': self.tables[-1] = True
        if tag == 'img': assert attributes['alt'].strip()
        if tag not in ('meta', 'link', 'img'): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text += data

def test_one_file_that_asks_for_nothing(written):
    folder, text = written
    page = Page(text)
    assert all(a.startswith(('data:', '#')) for a in page.addresses) and len([a for a in page.addresses if a.startswith('data:image/png')]) == 5
    assert not re.search(r'https?://|@import|url\(', text) and text.count('<script') == text.count(f'<script>{SCRIPT}</script>') == 1
    assert "default-src 'none'" in text and 'prefers-color-scheme: dark' in text and '@media print' in text
    assert (folder/'report.html').stat().st_size < 5_000_000

def test_links_and_tables_are_in_order(written):
    page = Page(written[1])
    assert len(set(page.ids)) == len(page.ids)
    assert {a[1:] for a in page.addresses if a.startswith('#')} <= set(page.ids)
    assert set(page.heads) == {'col', 'row'} and all(page.tables)

def test_order(written):
    page = Page(written[1])
    wanted = ['verdicts', 'accuracy', *CONDITIONS, 'run', 'reading']
    assert [i for i in page.ids if not i.startswith('card-')] == wanted

def test_says_verdicts_notes_and_what_was_run(written):
    folder, text = written
    run, said = read_run(folder), plain(Page(text).text)
    for probe in CONDITIONS:
        for row in headline(run.estimates, probe).itertuples(): assert (sentence(row) in said) == (not row.student.endswith('*'))
    for part in ('--target predicted', 'from T*: ', 'with images made for a foreign network: ', tally(run.estimates), '1 min 15 s', 'torch 2.8', 'cpu'): assert part in said

def test_figures_that_are_there_stay_unless_they_shall_be_redrawn(written):
    folder, _ = written
    kept, lost = sorted((folder/'figures').glob('colour-*.png'))[0], sorted((folder/'figures').glob('adversarial-*.png'))[0]
    drawn = kept.read_bytes()
    Image.new('RGB', (4, 4)).save(kept); lost.unlink()
    small = kept.read_bytes()
    write_report(folder, redraw=False)
    assert kept.read_bytes() == small and lost.exists()
    write_report(folder)
    assert kept.read_bytes() == drawn

def test_a_csv_beside_each_figure(written):
    folder, _ = written
    figures = sorted((folder/'figures').glob('*.png'))
    assert [f.stem for f in figures] == ['adversarial-fooled', 'colour-agreement', 'crop-agreement', 'localization-closer', 'shift-agreement']
    for f in figures: assert pd.read_csv(f.with_suffix('.csv')).columns.tolist()[:len(ESTIMATES)] == ESTIMATES
    assert 'teacher' in pd.read_csv(folder/'figures'/'colour-agreement.csv') and 'teacher' not in pd.read_csv(folder/'figures'/'localization-closer.csv')

def test_written_again_it_is_the_same_and_nothing_is_left_over(written):
    folder, text = written
    before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    assert write_report(folder).read_text(encoding='utf-8') == text
    assert {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()} == before

def test_everything_is_escaped(tmp_path):
    evil = '<script>alert("x")</script>&'
    make_run(tmp_path, students=(evil, 'KL'), config=dict(data=evil, teacher=evil), notes=[evil], step=evil)
    values = pd.read_csv(tmp_path/'estimates.csv')
    values.assign(verdict=evil, condition=values.condition.replace('4', evil)).to_csv(tmp_path/'estimates.csv', index=False)
    (tmp_path/'figures').mkdir()
    write_picture(tmp_path/'figures'/'pictures-colour.png'); (tmp_path/'figures'/'pictures-colour.txt').write_text(evil)
    text = write_report(tmp_path, title=evil).read_text(encoding='utf-8')
    assert text.count('<script') == 1 and '&lt;script&gt;' in text and evil in Page(text).text

def write_picture(path, size=32):
    Image.fromarray(np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)).save(path)

def test_pictures_stand_after_their_probe_and_large_ones_shrink(tmp_path):
    make_run(tmp_path); (tmp_path/'figures').mkdir()
    for probe in ('colour', 'shift', 'data'):
        write_picture(tmp_path/'figures'/f'pictures-{probe}.png', 1500)
        (tmp_path/'figures'/f'pictures-{probe}.txt').write_text(f'Pictures of {probe}.')
    sizes = sum(p.stat().st_size for p in (tmp_path/'figures').glob('*.png'))
    text = write_report(tmp_path).read_text(encoding='utf-8')
    assert sizes > 15_000_000 and len(text.encode()) < 5_000_000
    places = [text.index(o) for o in ('id="colour"', '<figcaption>Pictures of colour.', 'id="crop"', '<figcaption>Pictures of shift.', 'id="run"', '<figcaption>Pictures of data.')]
    assert places == sorted(places)

def test_one_seed_cannot_tell(tmp_path):
    said = Page(write_report(make_run(tmp_path, seeds=1, independent=1)).read_text(encoding='utf-8')).text
    assert 'cannot tell seed from effect' in said and 'No verdict was made' in said and 'over images alone' in said
    assert 'Inherited.' not in said and 'nan' not in said.lower().replace('nances', '')

def test_every_verdict_has_words(tmp_path):
    folder = make_run(tmp_path)
    estimates = pd.read_csv(folder/'estimates.csv', dtype=dict(condition=str))
    told = pd.concat([headline(estimates, p) for p in CONDITIONS]).query('not student.str.endswith("*")').index
    estimates.loc[told, 'verdict'] = (2*VERDICTS)[:len(told)]
    estimates.to_csv(folder/'estimates.csv', index=False)
    text = write_report(folder).read_text(encoding='utf-8')
    for r in estimates.loc[told].itertuples(): assert sentence(r) in plain(Page(text).text)
    for kind in ('inherited', 'opposite', 'no-evidence', 'cannot-tell', 'control'): assert f'class="badge {kind}"' in text

@pytest.mark.parametrize('verdict,said', list(zip(VERDICTS, ['Inherited.', 'The opposite: ', 'No evidence: the interval', 'No evidence: independent', 'No evidence: its control',
                                                        'Cannot tell seed from effect: ', 'This is a control.'])))
def test_verdict_in_words(verdict, said): assert f'). {said}' in sentence(row(verdict=verdict))

def row(**changes):
    known = dict(probe='adversarial', condition='teacher', metric='fooled', student='KL', value=.41, control=.06, difference=.35, low=.28, high=.42,
                 null_low=-.03, null_high=.03, n=500, seeds=2, verdict='inherited')
    return pd.Series({**known, **changes})

def test_sentence():
    assert sentence(row()) == ('KL was fooled by 41 % of the images that fool its teacher, Ind by 6 %: +35 points '
                               '(95 % interval +28 to +42; luck of the seed: −3 to +3). Inherited.')
    assert sentence(row(), row(student='KL*', difference=.12, low=.02, high=.2)).endswith('Inherited (from T*: +12 points).')
    assert sentence(row(), row(condition='foreign', difference=-.2, low=-.3, high=-.1)).endswith('(with images made for a foreign network: −20 points).')
    assert '+0.4 points (95 % interval 0.0 to +0.9;' in sentence(row(difference=.004, low=-.0001, high=.009))
    assert sentence(row(probe='novel', metric='m', condition='c')).startswith('KL reached 41 % in novel (c), Ind 6 %: +35 points')

def test_headline_and_controls(written):
    estimates = read_run(written[0]).estimates
    assert {p: headline(estimates, p).condition.iloc[0] for p in CONDITIONS} == dict(
        localization='Grad-CAM', adversarial='teacher', colour='0.4', crop='0.3', shift='4')
    kl = headline(estimates, 'adversarial').iloc[0]
    assert controls(estimates, kl)[['condition', 'student']].values.tolist() == [['teacher', 'KL*'], ['foreign', 'KL']]
    assert not len(controls(estimates, headline(estimates, 'colour').query('student == "CRD"').iloc[0]))

@pytest.mark.parametrize('changed,said', [({}, []), (dict(T=.9), ['not better']), (dict(KL=.8), ['clearly worse']), (dict(KL=.895), []),
                                          (dict(T=.5, KL=.8), ['not better', 'clearly worse'])])
def test_accuracy_warnings(changed, said, tmp_path):
    accuracy = read_run(make_run(tmp_path)).accuracy
    found = accuracy_warnings(accuracy.assign(accuracy=[changed.get(n, a) for n, a in zip(accuracy.network, accuracy.accuracy)]))
    assert len(found) == len(said) and all(s in f for s, f in zip(said, found))

def test_accuracy_by_the_teachers_own_answers_is_no_accuracy(tmp_path):
    said = Page(write_report(make_run(tmp_path, config=dict(data='photographs', target='predicted'))).read_text(encoding='utf-8')).text
    assert 'accuracy is agreement with the teacher' in said and 'condition of the paper holds' not in said

@pytest.mark.parametrize('name', ['config.yaml', 'accuracy.csv', 'estimates.csv', 'values.csv'])
@pytest.mark.parametrize('content', [None, '', 'a,b\n1,2\n', '{'])
def test_an_unfinished_folder_says_how_to_finish_it(name, content, tmp_path):
    make_run(tmp_path)
    if name == 'config.yaml' and content == '': return
    (tmp_path/name).unlink() if content is None else (tmp_path/name).write_text(content)
    with pytest.raises(KDError) as e: write_report(tmp_path)
    assert f'kd_study --out {tmp_path}' in str(e.value) and '\n' not in str(e.value)
    assert not (tmp_path/'report.html').exists() and not (tmp_path/'figures').exists()

def test_no_folder(tmp_path):
    with pytest.raises(KDError, match='kd_study --out'): write_report(tmp_path/'nowhere')
    assert not (tmp_path/'nowhere').exists()

def many_images(n=60, size=32, vocab=('disc', 'ring', 'bar'), groups=True):
    x = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(n) % len(vocab), vocab, size, groups=torch.arange(n) % 4 if groups else None, group_vocab=['a', 'b', 'c', 'd'])

def make_full_run(folder, students=('KL', 'CRD', 'KL*'), vocab=('disc', 'ring', 'bar'), size=32, **kwargs):
    "As `make_run`, with what a study leaves of images and networks."
    make_run(folder, students, **kwargs)
    rows, images = long_table(students), many_images(size=size, vocab=vocab)
    (folder/'probes').mkdir()
    for probe, part in rows.groupby('probe'): part.to_parquet(folder/'probes'/f'{probe}.parquet')
    write_images(folder, dict(seen=images)); write_extremes(folder, rows, dict(seen=images))
    networks = [dict(network=m.model, role=m.role, seed=m.seed, parameters=1234567, recipe=dict(name='resnet18', n_classes=3, kwargs=dict(width=8)),
                     objective=dict(objective='KL', weight=.5) if m.role == 'student' else {}) for m in members(students, 2, 3)]
    write_json(folder/'networks.json', networks)
    return folder

@pytest.fixture(scope='module')
def full(tmp_path_factory):
    folder = make_full_run(tmp_path_factory.mktemp('full'), config=dict(data='shapes', teacher='resnet18', epochs=3, n_train=3600, jitter=.4))
    return folder, write_report(folder).read_text(encoding='utf-8')

def test_an_older_folder_is_reported_without_what_it_lacks(written):
    _, text = written
    for part in ('class="gallery"', 'id="networks"', 'By class', 'id="paper"'): assert part not in text

def test_what_a_study_leaves_is_shown(full):
    folder, text = full
    page = Page(text)
    assert 'networks' in page.ids and text.count('class="card network"') == 5
    assert text.count('class="gallery"') == len(CONDITIONS) and len([a for a in page.addresses if a.startswith('data:image')]) == 5 + 16*len(CONDITIONS)
    assert text.count('By class (3 classes)') == text.count('By group (4 groups)') == len(CONDITIONS)
    assert '1,234,567' in page.text and 'resnet18 (width 8), 3 classes' in page.text and 'KL (weight 0.5) from T*' in page.text and '3 epochs' in page.text and '3,600 images, no crops, colour jitter 0.4' in page.text
    before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    write_report(folder)
    assert {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()} == before

def test_parts_are_the_means_of_their_images(full):
    folder, text = full
    rows, images = pd.read_parquet(folder/'probes'/'colour.parquet').query('condition == "0.4"'), pd.read_csv(folder/'images.csv')
    shown = pd.DataFrame(re.findall(r'<tr><th scope="row">(disc|ring|bar)</th>' + 6*'<td>(.*?)</td>', text[text.index('id="colour"'):text.index('id="crop"')]))
    rows = rows.assign(part=rows['sample'].map(images.set_index('sample')['class']))
    means = rows.groupby(['part', 'model', 'seed']).value.mean().unstack(['model', 'seed'])
    for part, n, teacher, ind, luck, kl, _ in shown.itertuples(index=False):
        mean = means.loc[part]
        assert n == '20' and teacher == f'{100*mean["T"].mean():.1f}' and ind == f'{100*mean["Ind"].mean():.1f}'
        assert luck == f'±{100*(mean["Ind"].max() - mean["Ind"].min()):.1f}'
        assert re.sub('<.*?>', '', kl).replace('−', '-') == f'{100*(mean["KL"].mean() - mean["Ind"].mean()):+.1f}'
        assert ('<b>' in kl) == (abs(mean['KL'].mean() - mean['Ind'].mean()) > mean['Ind'].max() - mean['Ind'].min())
    assert len(shown) == 3

def test_extremes():
    part = long_table(('KL', 'CRD', 'KL*')).query('probe == "colour"')
    found, at = extremes(part, 'colour', 5), part[part.condition == '0.4']
    each = at.groupby(['sample', 'model']).value.mean().unstack()
    effects = ((each['KL'] + each['CRD'])/2 - each['Ind']).round(6)
    assert found.columns.tolist() == ['end', 'condition', 'sample', 'effect', 'KL', 'CRD'] and set(found.condition) == {'0.4'}
    assert found.effect.round(6).tolist() == effects[found['sample']].tolist()
    ordered = sorted(effects, reverse=True)
    assert found.effect.round(6).tolist() == ordered[:5] + ordered[-5:]
    assert len(extremes(part[part['sample'] < 3], 'colour')) == 2

def test_many_large_photographs_stay_under_five_megabytes(tmp_path):
    make_full_run(tmp_path, size=224)
    for probe in CONDITIONS: write_picture(tmp_path/'figures'/f'pictures-{probe}.png', 900)
    text = write_report(tmp_path).read_text(encoding='utf-8')
    assert len(text.encode()) < 5_000_000 and text.count('class="tile"') == 16*len(CONDITIONS)

def test_names_in_galleries_parts_and_model_cards_are_escaped(tmp_path):
    evil = '<script>alert("x")</script>&'
    make_full_run(tmp_path, students=(evil, 'KL'), vocab=(evil, 'ring', 'bar'), config=dict(data=evil, teacher=evil, epochs=1, objectives={evil: {}}, recipe=evil))
    text = write_report(tmp_path).read_text(encoding='utf-8')
    assert text.count('<script') == 1 and Page(text).text.count(evil) > 20

@pytest.mark.parametrize('changed,teacher,wanted', [
    ({}, .76, [.5, .4, .6]), (dict(control=.5, difference=-.1, low=-.2, high=.05), .3, [.5, -.25, 1.]), (dict(control=.3, difference=.7, low=.6, high=.8), 1., [1., .857, 1.143]),
    (dict(null_low=-.4, null_high=.4), .4, None), (dict(null_low=np.nan, null_high=np.nan), .065, None), ({}, np.nan, None)])
def test_share(changed, teacher, wanted):
    found = share(row(**changed), teacher)
    assert (found is None) == (wanted is None)
    if wanted and not changed: assert found.share == pytest.approx(.35/.7) and found.low == pytest.approx(.28/.7) and found.null_high == pytest.approx(.03/.7)
    elif wanted: assert found[['share', 'low', 'high']].tolist() == pytest.approx(wanted, abs=1e-3)

def test_shares_of_a_run(written):
    folder, text = written
    found, values = shares(read_run(folder)).set_index(['probe', 'student']), read_run(folder).values
    assert found.teacher['localization', 'KL'] == 1
    assert found.teacher['colour', 'KL'] == values.query('probe == "colour" and role == "teacher" and condition == "0.4"').value.item()
    stored = pd.read_csv(folder/'figures'/'inherited.csv')
    assert stored.share.tolist() == pytest.approx(found.share.tolist(), nan_ok=True) and 'KL*' not in set(stored.student)
    assert f'<b>{100*found.share["colour", "KL"]:.0f}\u00a0%</b>' in text

def test_a_teacher_like_its_independent_students_gives_no_share(tmp_path):
    values = pd.read_csv(make_run(tmp_path)/'values.csv', dtype=dict(condition=str))
    ind = values.query('probe == "colour" and model == "Ind" and condition == "0.4"').value.mean()
    values.loc[(values.probe == 'colour') & (values.role == 'teacher'), 'value'] = ind
    values.to_csv(tmp_path/'values.csv', index=False)
    said = plain(Page(write_report(tmp_path).read_text(encoding='utf-8')).text)
    assert f'No share: the teacher ({100*ind:.1f} %) and Ind ({100*ind:.1f} %) lie no further apart than the luck of the seed.' in said
    assert pd.read_csv(tmp_path/'figures'/'inherited.csv').query('probe == "colour"').share.isna().all()

def test_the_papers_figures_are_those_of_its_list(root):
    listed = pd.read_csv(root/'nbs'/'studies'/'paper.csv', dtype=dict(condition=str)).replace(dict(condition={'Grad-CAM': 'grad_cam'}))
    listed = listed[listed.value != 'rises'].set_index(['table', 'setting', 'condition', 'student'])
    unit = listed.unit.map({'%': 1, 'share': 100})
    for printed in (p for found in PAPER.values() for p in found):
        for condition, (ind, *values) in printed.values.items():
            for student, value in zip(('KL', 'Hint', 'CRD'), values):
                key = printed.table, printed.pair, condition, student
                assert [float(listed.value[key])*unit[key], listed.independent[key]*unit[key]] == pytest.approx([value, ind])

@pytest.mark.parametrize('preset,probe,metric,pair', [
    ('shapes', 'adversarial', 'fooled', 'ResNet50 -> ResNet18'), ('shapes', 'crop', 'agreement', None), ('shapes', 'bias', 'shape bias', None),
    ('shapes-vgg13-vgg8', 'localization', 'closer', 'VGG19 -> VGG11'), ('shapes-crops', 'crop', 'agreement', 'ResNet50 -> ResNet18, students without crops'),
    ('shapes-shift', 'shift', 'agreement', 'anti-aliased ResNet50 -> ResNet18'), ('shapes-vit-resnet', 'adversarial', 'fooled', 'ViT-B/32 -> ResNet18'),
    ('shapes-vit-resnet', 'bias', 'shape bias', 'ViT-B/32 -> ResNet18'), ('shapes-swin-resnet', 'colour', 'agreement', 'Swin-T -> ResNet18'),
    ('shapes-swin-swin', 'domains', 'consensus', 'Swin-Base -> Swin-Tiny'), ('shapes-stylized-lower', 'bias', 'shape bias', 'stylized ResNet50 -> ResNet18, lower weight'),
    ('shapes-stylized-higher', 'bias', 'shape bias', 'stylized ResNet50 -> ResNet18, higher weight'), ('fashion-domains', 'boundary', 'agreement', 'MNIST CNN -> same'),
    ('fashion-domains', 'domains', 'accuracy', 'MNIST CNN -> same')])
def test_a_preset_stands_beside_its_own_figures(preset, probe, metric, pair):
    from dataclasses import asdict
    from kd_knowledge.study.presets import load_preset
    assert getattr(beside(asdict(load_preset(preset).filled()), probe, metric), 'pair', None) == pair

def test_the_papers_figures_stand_in_the_report(tmp_path):
    config = dict(data='shapes', teacher='resnet_small', student='resnet_small', objectives=dict(KL={}, CRD={}), jitter=.4)
    said = plain(Page(write_report(make_run(tmp_path, config=config)).read_text(encoding='utf-8')).text)
    assert 'In the paper (ResNet50 → ResNet18; Tables 7 to 9): +16.2 points, 68.56 against 52.32 %.' in said and 'Beside the paper' in said

def test_finished_studies_of_other_networks_or_none_have_no_figure():
    assert beside({}, 'adversarial', 'fooled') is None and beside(dict(objectives={}), 'calibration', 'ECE') is None

def test_one_independent_student_leaves_the_luck_of_a_part_open(tmp_path):
    make_full_run(tmp_path, seeds=1, independent=1)
    for path in (tmp_path/'probes').glob('*.parquet'): pd.read_parquet(path).query('seed == 0').to_parquet(path)
    parts = re.findall('<table class="parts">(.*?)</table>', write_report(tmp_path).read_text(encoding='utf-8'))
    assert len(parts) == 2*len(CONDITIONS) and all('<td>–</td>' in p and '<b>' not in p and 'nan' not in p for p in parts)

def test_a_metric_that_no_student_has_makes_no_gallery_of_its_own(tmp_path):
    part = long_table(('KL', 'CRD')).query('probe == "colour" and condition == "0.4"')
    alone = part[part.role == 'teacher'].assign(probe='bias', metric='shape bias', condition='cue conflict')
    assert set(extremes(pd.concat([alone, part.assign(probe='bias', metric='answered by a cue')]), 'bias').condition) == {'0.4'}
