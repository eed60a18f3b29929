"The report: one file that asks for nothing, escapes everything, says every kind of verdict, and stays the same."
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from jinja2 import UndefinedError

from kd_knowledge.report.findings import headline, read_run, sentence, tally
from kd_knowledge.report.html import _asset, _templates, write_report
from tests.report.runs import CONDITIONS, EVIL, VERDICTS, make_full_run, make_run, plain, write_picture

ADDRESSES = 'src href srcset action data poster'.split()
OLD = ['class="gallery"', 'id="networks"', 'By class', 'id="paper"']


class Page(HTMLParser):
    "What a browser would see: open tags, addresses, ids, table heads; fails where tags are not closed in order."
    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.heads, self.tables, self.text = [], [], [], [], [], ''
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [v for k, v in attributes.items() if k in ADDRESSES]
        if 'id' in attributes: self.ids.append(attributes['id'])
        if tag == 'th': self.heads.append(attributes.get('scope'))
        if tag == 'table': self.tables.append(False)
        if tag == 'caption': self.tables[-1] = True
        if tag == 'img': assert attributes['alt'].strip()
        if tag not in ('meta', 'link', 'img'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text += data


def pictures(page, kind=''): return [a for a in page.addresses if a.startswith(f'data:image/{kind}')]

def files(folder): return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}

### One page

def test_one_file_that_asks_for_nothing(written):
    folder, text = written
    page, script = Page(text), _asset('report.js')
    own = [a for a in page.addresses if not a.startswith(('data:', '#'))]
    assert own == ['cards/KL.md', 'cards/CRD.md'] and len(pictures(page, 'png')) == 5
    assert not re.search(r'https?://|@import|url\(', text)
    assert text.count('<script') == text.count(f'<script>{script}</script>') == 1
    assert "default-src 'none'" in text and 'prefers-color-scheme: dark' in text and '@media print' in text
    assert (folder/'report.html').stat().st_size < 5_000_000

def test_links_and_tables_are_in_order(written):
    page = Page(written[1])
    assert len(set(page.ids)) == len(page.ids)
    assert {a[1:] for a in page.addresses if a.startswith('#')} <= set(page.ids)
    assert set(page.heads) == {'col', 'row'} and all(page.tables)

def test_order(written):
    page = Page(written[1])
    assert [i for i in page.ids if not i.startswith('card-')] == ['verdicts', 'accuracy', *CONDITIONS, 'run', 'reading']

def test_says_verdicts_notes_and_what_was_run(written):
    folder, text = written
    run, words = read_run(folder), plain(Page(text).text)
    for probe in CONDITIONS:
        for row in headline(run.estimates, probe).itertuples():
            assert (sentence(row) in words) == (not row.student.endswith('*'))
    parts = ['--target predicted', 'from T*: ', 'with images made for a foreign network: ', tally(run.estimates)]
    for part in (*parts, '1 min 15 s', 'torch 2.8', 'cpu'): assert part in words

def test_written_again_it_is_the_same_and_nothing_is_left_over(written):
    folder, text = written
    before = files(folder)
    assert write_report(folder).read_text(encoding='utf-8') == text and files(folder) == before

def test_a_name_that_the_template_is_not_given_is_an_error():
    with pytest.raises(UndefinedError): _templates().get_template('report.html.j2').render(title='x')

### Escaping and sizes

def test_everything_is_escaped(tmp_path):
    make_run(tmp_path, students=(EVIL, 'KL'), config=dict(data=EVIL, teacher=EVIL), notes=[EVIL], step=EVIL)
    values = pd.read_csv(tmp_path/'estimates.csv')
    changed = values.assign(verdict=EVIL, condition=values.condition.replace('4', EVIL))
    changed.to_csv(tmp_path/'estimates.csv', index=False)
    (tmp_path/'figures').mkdir()
    write_picture(tmp_path/'figures'/'pictures-colour.png')
    (tmp_path/'figures'/'pictures-colour.txt').write_text(EVIL)
    text = write_report(tmp_path, title=EVIL).read_text(encoding='utf-8')
    assert text.count('<script') == 1 and '&lt;script&gt;' in text and EVIL in Page(text).text

def test_names_in_galleries_parts_and_model_cards_are_escaped(tmp_path):
    config = dict(data=EVIL, teacher=EVIL, epochs=1, objectives={EVIL: {}}, recipe=EVIL)
    make_full_run(tmp_path, students=(EVIL, 'KL'), vocab=(EVIL, 'ring', 'bar'), config=config)
    text = write_report(tmp_path).read_text(encoding='utf-8')
    assert text.count('<script') == 1 and Page(text).text.count(EVIL) > 20

def test_pictures_stand_after_their_probe_and_large_ones_shrink(tmp_path, report):
    make_run(tmp_path)
    (tmp_path/'figures').mkdir()
    for probe in ('colour', 'shift', 'data'):
        write_picture(tmp_path/'figures'/f'pictures-{probe}.png', 1500)
        (tmp_path/'figures'/f'pictures-{probe}.txt').write_text(f'Pictures of {probe}.')
    sizes = sum(p.stat().st_size for p in (tmp_path/'figures').glob('*.png'))
    text = report(tmp_path)
    assert sizes > 15_000_000 and len(text.encode()) < 5_000_000
    captions = [f'<figcaption>Pictures of {o}.' for o in ('colour', 'shift', 'data')]
    wanted = ['id="colour"', captions[0], 'id="crop"', captions[1], 'id="run"', captions[2]]
    places = [text.index(o) for o in wanted]
    assert places == sorted(places)

def test_many_large_photographs_stay_under_five_megabytes(tmp_path, report):
    make_full_run(tmp_path, size=224)
    for probe in CONDITIONS: write_picture(tmp_path/'figures'/f'pictures-{probe}.png', 900)
    text = report(tmp_path)
    assert len(text.encode()) < 5_000_000 and text.count('class="tile"') == 16*len(CONDITIONS)

### What it says

def test_one_seed_cannot_tell(tmp_path, report):
    words = Page(report(make_run(tmp_path, seeds=1, independent=1))).text
    for part in ('undecided (one network of each)', 'No verdict was made', 'over images alone'): assert part in words
    assert 'There is one network of each' in words
    for part in ('These very networks differ: KL lies above Ind', 'Of these very networks: '): assert part in words
    assert 'Inherited.' not in words and 'nan' not in words.lower().replace('nances', '')

def test_every_verdict_has_words(tmp_path, report):
    folder = make_run(tmp_path)
    estimates = pd.read_csv(folder/'estimates.csv', dtype=dict(condition=str))
    rows = pd.concat([headline(estimates, p) for p in CONDITIONS]).query('not student.str.endswith("*")').index
    estimates.loc[rows, 'verdict'] = (2*VERDICTS)[:len(rows)]
    estimates.to_csv(folder/'estimates.csv', index=False)
    text = report(folder)
    assert 'KL moved away from its teacher in adversarial vulnerability (1 of' in Page(text).text
    for r in estimates.loc[rows].itertuples(): assert sentence(r) in plain(Page(text).text)
    for kind in ('inherited', 'opposite', 'absent', 'undecided', 'control'):
        assert f'class="badge {kind}"' in text

def test_accuracy_by_the_teachers_own_answers_is_no_accuracy(tmp_path, report):
    words = Page(report(make_run(tmp_path, config=dict(data='photographs', target='predicted')))).text
    assert 'accuracy is agreement with the teacher' in words and 'condition of the paper holds' not in words

def test_a_teacher_like_its_independent_students_gives_no_share(tmp_path, report):
    values = pd.read_csv(make_run(tmp_path)/'values.csv', dtype=dict(condition=str))
    estimates = pd.read_csv(tmp_path/'estimates.csv', dtype=dict(condition=str))
    ind = estimates.query('probe == "colour" and condition == "0.4"').control.iloc[0]
    values.loc[(values.probe == 'colour') & (values.role == 'teacher'), 'value'] = ind
    values.to_csv(tmp_path/'values.csv', index=False)
    words = plain(Page(report(tmp_path)).text)
    assert (f'No share: the teacher ({100*ind:.1f} %) and Ind ({100*ind:.1f} %) cannot be told '
            'apart.') in words
    assert pd.read_csv(tmp_path/'figures'/'inherited.csv').query('probe == "colour"').share.isna().all()

def test_the_papers_figures_stand_in_the_report(tmp_path, report):
    config = dict(data='shapes', teacher='resnet_small', student='resnet_small', objectives={}, jitter=.4)
    words = plain(Page(report(make_run(tmp_path, config=config))).text)
    assert 'In the paper (ResNet50 → ResNet18; Tables 7 to 9): +16.2 points, 68.56 against 52.32 %.' in words
    assert 'Beside the paper' in words

### What a study leaves of images and networks

def test_an_older_folder_is_reported_without_what_it_lacks(written):
    for part in OLD: assert part not in written[1]

def test_what_a_study_leaves_is_shown(full):
    folder, text = full
    page, n = Page(text), len(CONDITIONS)
    assert 'networks' in page.ids and text.count('class="card network"') == 5
    assert text.count('class="gallery"') == n and len(pictures(page)) == 5 + 16*n
    assert text.count('By class (3 classes)') == text.count('By group (4 groups)') == n
    for part in ('1,234,567', 'resnet18 (width 8), 3 classes', 'KL (weight 0.5) from T*', '3 epochs',
                 '3,600 images, no crops, colour jitter 0.4'): assert part in page.text
    before = files(folder)
    write_report(folder)
    assert files(folder) == before

def test_parts_are_the_means_of_their_images(full):
    folder, text = full
    rows = pd.read_parquet(folder/'probes'/'colour.parquet').query('condition == "0.4"')
    classes = pd.read_csv(folder/'images.csv').set_index('sample')['class']
    section = text[text.index('id="colour"'):text.index('id="crop"')]
    shown = pd.DataFrame(re.findall(r'<tr><th scope="row">(disc|ring|bar)</th>' + 6*'<td>(.*?)</td>', section))
    rows = rows.assign(part=rows['sample'].map(classes))
    means = rows.groupby(['part', 'model', 'seed']).value.mean().unstack(['model', 'seed'])
    for part, n, teacher, ind, luck, kl, _ in shown.itertuples(index=False):
        mean = means.loc[part]
        band, gain = 1.96*2**.5*mean['Ind'].std(), mean['KL'].mean() - mean['Ind'].mean()
        assert n == '20' and teacher == f'{100*mean["T"].mean():.1f}' and ind == f'{100*mean["Ind"].mean():.1f}'
        assert luck == f'±{100*band:.1f}' and re.sub('<.*?>', '', kl).replace('−', '-') == f'{100*gain:+.1f}'
        assert ('<b>' in kl) == (abs(gain) > band)
    assert len(shown) == 3

def test_one_independent_student_leaves_the_luck_of_a_part_open(tmp_path, report):
    make_full_run(tmp_path, seeds=1, independent=1)
    for path in (tmp_path/'probes').glob('*.parquet'): pd.read_parquet(path).query('seed == 0').to_parquet(path)
    parts = re.findall('<table class="parts">(.*?)</table>', report(tmp_path), re.DOTALL)
    assert len(parts) == 2*len(CONDITIONS)
    assert all('<td>–</td>' in p and '<b>' not in p and 'nan' not in p for p in parts)
