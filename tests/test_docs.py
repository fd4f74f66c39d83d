"The site: built without a warning, and what its check is there for."

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from satdino_nb.engine.checks import EXERCISES

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / 'docs'))
import build  # noqa: E402
import check  # noqa: E402

slow = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "Folder of the pages, built anew; skips where Sphinx is not installed."
    for name in ('sphinx', 'myst_nb', 'furo', 'mathjax'):
        pytest.importorskip(name, reason=f'{name} is not installed: the extra `docs`')
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, REPO / 'docs/build.py', '--out', out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / 'html'


@slow
def test_links_lead_somewhere_and_nothing_is_fetched(site):
    assert check.faults(site) == []


@slow
def test_answers_are_on_no_page(site):
    assert not list(site.rglob('*00_answers*')) and not list(site.rglob('*solutions*'))
    pages = [p for p in site.rglob('*.html') if p.stem != '00_checks']  # which shows one of each
    shown = ''.join(p.read_text() for p in pages)
    for name, exercise in EXERCISES.items():
        for words in [exercise.hint, *exercise.mistakes]:
            assert words not in shown and html.escape(words) not in shown, name


def test_every_picture_of_a_lesson_is_described():
    "By its cell's `#| fig-alt:`, which the site and the slides show in its place."
    pages = [*REPO.glob('nbs/[0-9]*.ipynb'), *REPO.glob('nbs/experiments/*.ipynb')]
    described = []
    for path in [*pages, REPO / 'nbs/index.ipynb']:
        for cell in json.loads(path.read_text())['cells']:
            kinds = [k for o in cell.get('outputs', []) for k in o.get('data', {})]
            if any(k.startswith('image/') for k in kinds):
                words = build.alt_text(''.join(cell['source']), '')
                assert len(words) > 30 and not words.startswith('Figure'), (path.name, cell['id'])
                described.append(words)
    assert len(described) > 80 and len(set(described)) == len(described)


@slow
def test_every_notebook_is_a_page_with_its_pictures(site):
    for path in build.notebooks():
        page = (site / path.with_suffix('.html')).read_text()
        shown = len(re.findall(r'<img[^>]+src="[./]*_images/', page))
        cells = json.loads((REPO / path).read_text())['cells']
        outputs = [o.get('data', {}) for c in cells for o in c.get('outputs', [])]
        drawn = sum(bool({'image/png', 'image/jpeg', 'image/svg+xml'} & o.keys()) for o in outputs)
        texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
        drawn += len(re.findall(r'!\[[^\]]*\]\(', '\n'.join(texts)))
        assert bool(shown) == bool(drawn) and shown <= drawn, path


@slow
def test_the_reference_has_every_listed_name(site):
    names = 0
    for page in sorted((site / 'reference').glob('*.html')):
        tree, _, _ = build.definitions(page.stem)
        text = page.read_text()
        for name in build.listed(tree):
            assert f'id="satdino_nb.{page.stem}.{name}"' in text, (page.stem, name)
            names += 1
    assert names > 100


@slow
def test_pages_in_a_browser_without_network(site):
    from browsing import BROWSER, FLAGS, PATIENCE

    if BROWSER is None:
        pytest.skip('no chromium or google-chrome on the PATH')
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    asked, errors = [], []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        page = browser.new_page(viewport=dict(width=1300, height=900))
        page.set_default_timeout(PATIENCE * 1000)
        page.on('request', lambda r: re.match('file:|data:|blob:', r.url) or asked.append(r.url))
        page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: errors.append(str(e)))
        for name in ('index', 'nbs/05_dino', 'nbs/03_views', 'reference/pretrain', 'CONTRIBUTING'):
            page.goto((site / f'{name}.html').as_uri())
            if name == 'nbs/05_dino':
                page.wait_for_selector('mjx-container svg')
                assert page.locator('.math:not(:has(mjx-container))').count() == 0
                assert page.locator('[data-mjx-error]').count() == 0
            wide = 'elements => elements.filter(e => e.scrollWidth > e.clientWidth + 1).length'
            assert page.eval_on_selector_all('pre', wide) == 0, name
            assert page.evaluate('document.documentElement.scrollWidth') <= 1300, name
        browser.close()
    assert asked == [] and errors == []


def test_the_explorers_page_is_small_whole_and_of_the_samples_alone():
    "Its data are committed, its script is the present one; nothing in it is from elsewhere."
    from satdino_nb.data import sample_tiles
    from satdino_nb.engine.explorer_view import explorer_js

    page = build.explorer_page()
    assert len(page.encode()) < 1e6 and explorer_js() in page and '{js}' not in page
    baked = json.loads(re.search(r'id="baked">(.*?)</script>', page, re.S)[1])
    tiles = sample_tiles('place')
    samples = {Path(p).stem: g for p, g in zip(tiles.paths, tiles.gsds)}
    assert {p['name']: p['gsd'] for p in baked['setup']['places']}.items() <= samples.items()
    assert set(baked['places']) == {p['name'] for p in baked['setup']['places']}
    for place in baked['places'].values():
        assert place['jpeg'] and len(place['views']) >= 4 and len(place['answers']) > 40
    estimates = [a['estimate'] for place in baked['places'].values() for a in place['answers']]
    assert None in estimates  # not answered
    assert all(e['low'] < e['gsd'] < e['high'] for e in estimates if e)
    assert 'href="explorer.html"' in (REPO / 'docs/index.md').read_text()
    assert 'explorer.html' in (REPO / 'README.md').read_text()


BAD = {
    '<a href="gone.html">x</a>': 'gone.html leads nowhere',
    '<a href="#gone">x</a>': '#gone leads nowhere',
    '<a href="../../above.html">x</a>': 'above.html leads nowhere',
    '<img src="gone.png" alt="">': 'gone.png leads nowhere',
    '<img src="index.html">': 'without a text',
    '<script src="https://cdn.example.org/a.js"></script>': 'from elsewhere',
    '<link rel="stylesheet" href="//fonts.example.org/a.css">': 'from elsewhere',
    '<pre>#| export\nx = 1</pre>': 'shows the directive',
}


@pytest.mark.parametrize('html', BAD)
def test_the_check_sees(tmp_path, html):
    page = '<h1 id="top">a</h1> <a href="#top">b</a> <a href="https://arxiv.org">c</a> <pre>x</pre>'
    (tmp_path / 'index.html').write_text(page)
    (tmp_path / 'a.css').write_text('p { background: url("data:x") }')
    assert check.faults(tmp_path) == []
    (tmp_path / 'index.html').write_text(page + html)
    (fault,) = check.faults(tmp_path)
    assert BAD[html] in fault and 'index.html' in fault


def test_the_check_sees_a_font_from_elsewhere_and_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match='no index.html'):
        check.faults(tmp_path)
    (tmp_path / 'index.html').write_text('<p>a</p>')
    (tmp_path / 'a.css').write_text('@import url("https://fonts.example.org/a.css");')
    assert 'fonts.example.org' in check.faults(tmp_path)[0]


def test_links_and_directives_of_a_page():
    pages = {Path('nbs/00_gsd.ipynb')}
    turned = build.turn_links(
        '[a](../00_gsd.ipynb#x) [b](../../LICENSE) [c](https://a.org) [d](#here)',
        Path('nbs/engine/00_lengths.ipynb'),
        pages,
        'https://host/blob',
    )
    assert turned == (
        '[a](../00_gsd.ipynb#x) [b](https://host/blob/LICENSE) [c](https://a.org) [d](#here)'
    )
    with pytest.raises(SystemExit, match='nbs/a.ipynb.*gone.md'):
        build.turn_links('[a](gone.md)', Path('nbs/a.ipynb'), pages, '')
    assert build.shown_code('#| export\n\ndef f(): ...\n') == 'def f(): ...'
    assert build.shown_code('#| hide\nx = 1') == '' == build.shown_code('#| default_exp gsd')


def test_signatures_are_found_behind_the_lesson():
    text = build.reference(Path('nbs/03_views.ipynb'))[1]
    assert '{py:function} centre_view(batch: Batch, size: int' in text
    assert '{py:class} MultiCrop' in text and '(self' not in text


def test_minutes_of_reading_are_words_at_200_a_minute():
    text = (REPO / 'docs/teaching.md').read_text()
    part = text.split('## How long a lesson takes')[1].split('\n## ')[0]
    timed = set()
    said = {n: int(m) for n, m in re.findall(r'\| (\d\d(?:\.\d)?) \| (\d+) (?=\|)', part)}
    for path in REPO.glob('nbs/[0-9]*.ipynb'):
        number = re.match(r'\d+(_\d)?(?=_)', path.name)[0].replace('_', '.')
        cells = json.loads(path.read_text())['cells']
        texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
        words = sum(len(t.split()) for t in texts)
        assert abs(said.pop(number) - words / 200) < 1, number
        timed.add(number)
    assert said == {}
    ran = text.split('## How long a lesson runs')[1].split('\n## ')[0]
    assert {n for n, _ in re.findall(r'\| (\d\d(?:\.\d)?) \| (\d+) \*? ?(?=\|)', ran)} == timed
