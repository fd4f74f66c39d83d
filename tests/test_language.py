"""The words of the lessons: terms are linked to the glossary where they are first used."""

import json
import re
from pathlib import Path

import pytest

LESSONS = Path(__file__).resolve().parents[1] / 'nbs'
HIDDEN = re.compile(  # code, mathematics, headings, summary lines, tables, HTML
    r'```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|^#[^\n]*$|^>[^\n]*$|^\|[^\n]*$|<[^>\n]+>',
    re.S | re.M,
)
LINK = re.compile(r'\[([^\]]*)\]\(([^)]*)\)')
# figures of speech that stood in the lessons, and that nobody would search for
BANNED = '|'.join(
    r"""does not lie
melt into
wear too
leans little
knows where it is
refused at the door
have grown used
ledger
opponent
shine, and here
hedging
not ten witnesses
an anecdote
honest label
stay where it is\*
pass by:
to be told apart\b""".splitlines()
)


def prose(notebook):
    "The text of a notebook's markdown cells."
    cells = json.loads(notebook.read_text())['cells']
    return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')


def reading_order():
    "Lessons in the order of the index's table."
    names = re.findall(r'^\| \[[^]]*\]\((\d\w*)\.ipynb\)', prose(LESSONS / 'index.ipynb'), re.M)
    order = [LESSONS / f'{name}.ipynb' for name in dict.fromkeys(names)]
    assert len(order) > 20
    return order


def glossary():
    "Term: what the glossary says of it."
    parts = re.split(r'^## (.+)\n', prose(LESSONS / 'glossary.ipynb'), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def first_use(term, texts):
    "Place of a term's first use, as (lesson, character), plain or inside of a link; None."
    for i, text in enumerate(texts):
        text = HIDDEN.sub(lambda m: ' ' * len(m[0]), text)
        text = LINK.sub(lambda m: m[0] if 'glossary' in m[2] else ' ' * len(m[0]), text)
        if found := re.search(rf'\b{re.escape(term)}s?\b', text, re.I):
            return i, found.start()
    return None


def first_link(term, texts):
    "Place of the first link to a term, as (lesson, character); None."
    for i, text in enumerate(texts):
        if (at := text.find(f'(glossary.ipynb#{term.replace(" ", "-")})')) >= 0:
            return i, at
    return None


TERMS = glossary()


def test_glossary_defines_about_45_terms_once():
    assert 40 <= len(TERMS) <= 60
    names = re.findall(r'^## (.+)$', prose(LESSONS / 'glossary.ipynb'), re.M)
    assert len(names) == len(set(names)) and names == sorted(names, key=str.lower)


@pytest.mark.parametrize('term', TERMS)
def test_term_is_linked_where_it_is_first_used(term):
    order = reading_order()
    texts = [prose(p) for p in order]
    link, use = first_link(term, texts), first_use(term, texts)
    assert link, f'no lesson links {term}'
    assert use is None or link[0] <= use[0], f'{term} is used in {order[use[0]].name}, unlinked'
    assert f'({order[link[0]].name})' in TERMS[term], 'the glossary names another lesson'


def test_links_to_the_glossary_have_a_target():
    anchors = {term.replace(' ', '-') for term in TERMS}
    for lesson in reading_order():
        for _, target in LINK.findall(prose(lesson)):
            if 'glossary.ipynb' in target:
                assert target.partition('#')[2] in anchors, f'{lesson.name}: {target}'


def not_the_autoencoder(text):
    "The sentences of a text that say MAE and do not say, or stand beside, what it is."
    text = HIDDEN.sub('', text)
    return [s for s in re.split(r'(?<=[.:])\s', text) if re.search(r'(?<!-)\bMAE\b', s)
            and not re.search('BEiT|masked autoencoder', s)]  # fmt: skip


def test_mae_is_only_ever_the_masked_autoencoder():
    for lesson in reading_order():
        assert not_the_autoencoder(prose(lesson)) == [], f'{lesson.name}: write mean absolute error'
    assert not_the_autoencoder('The MAE is 2 m. A masked autoencoder (MAE) is none.') == [
        'The MAE is 2 m.'
    ]


def test_figures_of_speech_stay_out():
    found = {p.name: m[0] for p in reading_order() for m in re.finditer(BANNED, prose(p), re.I)}
    assert found == {}
    assert re.search(BANNED, 'The file knows where it is.')
