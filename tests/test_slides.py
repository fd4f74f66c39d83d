"Slides: every lesson has some, tagged cells come first, and none of them asks the network."

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip('nbconvert', reason='nbconvert is not installed')
REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / 'lab'), str(REPO / 'docs')]
import check  # noqa: E402
import slides  # noqa: E402


def code(source, *outputs, tags=()):
    return dict(
        cell_type='code', source=source, outputs=list(outputs), metadata=dict(tags=list(tags))
    )


PICTURE = dict(output_type='display_data', data={'image/png': 'AAAA\n'})
PRINTED = dict(output_type='stream', text=['1 < 2\n'])


def test_tagged_cells_become_slides_in_their_order():
    words = dict(cell_type='markdown', source='## b [c](d.ipynb)', metadata=dict(tags=['slide']))
    cells = [code('#| export\nx = 1', PICTURE, PRINTED, tags=['slide']), code('y = 2'), words]
    first, second = slides.tagged_slides(cells)
    assert 'x = 1' in first and '#|' not in first and '1 &lt; 2' in first
    assert 'data:image/png;base64,AAAA"' in first and '>b c<' in second.replace('\n', '')
    assert list(slides.tagged_slides([code('y = 2')])) == []


def test_pictures_of_the_text_are_carried_along():
    words = '![student and teacher](figures/student_teacher.svg) and [a link](05_dino.ipynb)'
    shown = slides.text_html(words)
    assert 'alt="student and teacher" src="data:image/svg+xml;base64,' in shown
    assert '!' not in shown and 'and a link' in shown


def test_sections_become_slides():
    text = '# a\n\n> one\n\nfar\n\n## b\n\ntwo\n\n$$x_1$$\n\nthree'
    cells = [dict(cell_type='markdown', source=text, metadata={}), code('z', PICTURE, PICTURE)]
    first, second = slides.section_slides(cells)
    assert 'one' in first and 'far' not in first and '<img' not in first
    assert 'two' in second and 'three' not in second
    assert second.count('<img') == 1 and '$$x_1$$' in second


def test_every_lesson_has_a_deck_that_asks_no_network(tmp_path, capsys):
    for name in ('sphinx_revealjs', 'mathjax'):
        pytest.importorskip(name, reason=f'{name} is not installed: the extra `docs`')
    slides.main(['--out', str(tmp_path)])
    assert check.faults(tmp_path) == []
    decks = {p.stem for p in tmp_path.glob('*.html')} - {'index'}
    assert decks == {p.stem for p in (REPO / 'nbs').glob('[0-9]*.ipynb') if 'solut' not in p.stem}
    for path in tmp_path.glob('[0-9]*.html'):
        assert len(re.findall('<section>', path.read_text())) >= 3, path.name
    assert str(tmp_path) in capsys.readouterr().out
