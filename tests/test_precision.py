"""What the machine is good at decides 'auto', once, and a run keeps what it began with."""

import json
from dataclasses import replace

import pytest
import torch

from satdino_nb.data import sample_tiles
from satdino_nb.engine import training
from satdino_nb.pretrain import (
    PretrainConfig,
    bf16_time,
    dry_run,
    fast_precision,
    knn_predict,
    nearest,
    pretrain,
    pretrain_preset,
    settle_search,
)
from satdino_nb.views import view_preset
from satdino_nb.vit import ViTConfig

BASE = PretrainConfig(
    steps=2,
    batch_size=8,
    workers=0,
    views=view_preset('tiny'),
    vit=ViTConfig(32, 8, 48, 2, 3),
    out_dim=64,
    hidden_dim=48,
    bottleneck_dim=16,
    log_every=1,
    check=False,
    device='cpu',
    precision='auto',
)


def say(monkeypatch, ratio):
    "Let the measurement come out as `ratio`."
    monkeypatch.setattr(training, 'bf16_time', lambda *a: ratio)


def test_the_measurement_is_a_ratio_and_is_made_once():
    assert 0.05 < bf16_time() < 100 and bf16_time() == bf16_time()


@pytest.mark.parametrize('ratio, expected', [(0.4, 'bf16'), (0.9, 'fp32'), (5.0, 'fp32')])
def test_a_run_takes_what_is_faster_and_says_so(tmp_path, monkeypatch, capsys, ratio, expected):
    say(monkeypatch, ratio)
    run = pretrain(replace(BASE, out=tmp_path / 'run'), sample_tiles())
    assert (
        run.config.precision
        == json.loads((run.out / 'config.json').read_text())['precision']
        == expected
    )
    assert f'precision: {expected}' in capsys.readouterr().out
    assert (
        dry_run(replace(BASE, out=tmp_path / 'dry'), sample_tiles(), 1).config.precision == expected
    )


def test_a_run_goes_on_as_it_began_wherever_it_is(tmp_path, monkeypatch, capsys):
    say(monkeypatch, 0.4)
    pretrain(replace(BASE, out=tmp_path / 'run'), sample_tiles())
    say(monkeypatch, 5.0)  # another machine
    again = pretrain(replace(BASE, out=tmp_path / 'run', resume=True), sample_tiles())
    assert again.config.precision == 'bf16' and 'as this run began' in capsys.readouterr().out


def test_a_run_that_goes_on_measures_nothing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(training, 'bf16_time', lambda *a: asked.append(a) or 0.4)
    pretrain(replace(BASE, out=tmp_path / 'run'), sample_tiles())
    assert asked  # the first time
    asked.clear()
    for _ in range(2):
        again = pretrain(replace(BASE, out=tmp_path / 'run', resume=True), sample_tiles())
        kept = json.loads((again.out / 'config.json').read_text())['precision']
        assert again.config.precision == kept == 'bf16' and not asked
    pretrain(replace(BASE, out=tmp_path / 'other'), sample_tiles())
    assert asked  # another run


def test_what_is_said_is_done(tmp_path, monkeypatch):
    say(monkeypatch, 0.1)
    run = pretrain(replace(BASE, precision='fp32', out=tmp_path / 'run'), sample_tiles())
    assert run.config.precision == 'fp32'


def test_presets_ask_the_machine():
    assert {pretrain_preset(n).precision for n in ('small-images', 'paper-s16')} == {'auto'}


def test_search_takes_what_is_faster(monkeypatch):
    x, y = torch.randn(20_000, 16), torch.randn(5, 16)
    seen = {}
    for ratio in (0.4, 5.0):
        say(monkeypatch, ratio)
        seen[ratio] = settle_search('auto', 'cpu', len(x), 20), nearest(x, y, 20, search='auto')
    assert [seen[r][0] for r in (0.4, 5.0)] == ['bf16', 'fp32']
    assert torch.equal(seen[5.0][1][1], nearest(x, y, 20)[1])  # exact where fp32 was chosen
    assert settle_search('fp32', 'cpu', 10**6, 20) == 'fp32'
    with pytest.raises(ValueError, match="search='fp8'"):
        knn_predict(x, torch.zeros(20_000).long(), y, search='fp8')


def test_only_cuda_and_cpu_are_asked(monkeypatch):
    say(monkeypatch, 0.1)
    assert fast_precision('mps') == 'fp32' and fast_precision('cpu') == 'bf16'
