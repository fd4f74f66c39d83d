"""Exercises of the lessons: each id has a check, a hint and a solution; quizzes have feedback."""

import json
import re
from pathlib import Path

import pytest

from satdino_nb.engine.checks import EXERCISES, read_quiz
from satdino_nb.gsd import check, hint, quiz

NBS = Path(__file__).resolve().parents[1] / 'nbs'
LESSONS = [p for p in sorted(NBS.glob('*.ipynb')) if re.match(r'\d', p.name)]


def text(notebook, kind):
    cells = json.loads(notebook.read_text())['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == kind)


def lesson_number(path):
    "'07.1' of 07_1_intervals.ipynb."
    return re.match(r'\d+(_\d)?', path.name)[0].replace('_', '.')


def test_ids_of_the_lessons_are_those_that_are_checked():
    found = {
        name: p
        for p in LESSONS
        for name in re.findall(r'^\d\. \(`([\d.]+-\d)`', text(p, 'markdown'), re.M)
    }
    assert found.keys() == EXERCISES.keys()
    for name, lesson in found.items():
        assert lesson.name.startswith(name.split('-')[0].replace('.', '_')), (name, lesson.name)
        solved = text(NBS / 'solutions' / lesson.name, 'code')
        assert re.search(rf"^assert .*check\('{re.escape(name)}'", solved, re.M), name


def numbers_in(words):
    "Numbers that are written in a text."
    return {float(n) for n in re.findall(r'\d+(?:\.\d+)?', words)}


@pytest.mark.parametrize('name', EXERCISES)
def test_right_wrong_and_known_mistakes_are_told_apart(name):
    known = EXERCISES[name]
    answer = known.answer
    assert check(name, answer) and 'right' in repr(check(name, answer))
    assert check(name, answer * (1 + known.tolerance / 2))
    assert len(known.mistakes) >= 3
    for words, wrong in known.mistakes.items():
        said = check(name, wrong)
        assert not said and words in said.text, words
    unknown = check(name, -12345.0)
    assert not unknown and 'hint' in unknown.text
    for said in [unknown, hint(name), *(check(name, w) for w in known.mistakes.values())]:
        assert float(f'{answer:.3g}') not in numbers_in(said.text.removeprefix(name)), said


def test_what_cannot_be_checked():
    with pytest.raises(ValueError, match='00-1'):
        check('99-1', 1)
    with pytest.raises(ValueError, match='00-1'):
        hint('99-1')
    with pytest.raises(TypeError, match='wants a number, not str'):
        check('00-1', 'five')


@pytest.mark.parametrize('lesson', read_quiz())
def test_quiz_has_feedback_for_each_answer(lesson):
    questions = read_quiz()[lesson]
    right = ''.join(q['right'] for q in questions)
    assert quiz(lesson, right) and 'not right' not in quiz(lesson, right).text
    for i, q in enumerate(questions):
        assert q['question'] in quiz(lesson).text
        for letter, (_, feedback) in zip('abcd', q['answers'], strict=False):
            said = quiz(lesson, right[:i] + letter + right[i + 1 :])
            assert feedback in said.text and bool(said) == (letter == q['right'])
    used = [p for p in LESSONS if f"quiz('{lesson}')" in text(p, 'markdown')]
    assert len(used) == 1, 'a quiz is named in its lesson'


def test_quizzes_refuse_what_is_no_answer():
    with pytest.raises(ValueError, match='letters'):
        quiz('00', 'a')
    with pytest.raises(ValueError, match='none of a, b, c'):
        quiz('00', 'aaz')
    with pytest.raises(ValueError, match='no quiz'):
        quiz('99')


@pytest.mark.parametrize('lesson', LESSONS, ids=lesson_number)
def test_a_lesson_has_three_to_six_exercises_of_which_two_are_checked_and_a_quiz(lesson):
    number = lesson_number(lesson)
    section = text(lesson, 'markdown').split('## Exercises')[1]
    listed = re.findall(r'^(\d)\. \((.*?)\)', section, re.M)
    assert 3 <= len(listed) <= 6
    for i, (n, marks) in enumerate(listed, 1):
        assert int(n) == i and re.search(r'\d min, (easy|medium|hard)', marks), marks
        assert ('`' in marks) == (f'{number}-{n}' in EXERCISES), marks
    assert sum('`' in marks for _, marks in listed) >= 2
    assert len(read_quiz()[number]) == 3
    solved = text(NBS / 'solutions' / lesson.name, 'markdown')
    for n, marks in listed:
        assert f'**{number}-{n}.**' in solved if '`' in marks else f'**{n}.**' in solved
