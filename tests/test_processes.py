"""Several processes (gloo, on the CPU): the same run as one process, to rounding."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from satdino_nb.data import samples_dir
from satdino_nb.pretrain import newest_checkpoint

OPTIONS = (
    '--gsd 2 --batch-size 16 --steps 10 --workers 0 --views.global-size 32 --views.local-size 16 '
    '--views.n-local 3 --vit.img-size 32 --vit.embed-dim 48 --vit.num-heads 3 --vit.depth 2 '
    '--out-dim 128 --hidden-dim 64 --bottleneck-dim 32 --drop-path 0 --no-check --log-every 1 '
    '--knn-every 5 --device cpu'
).split()
OPTIONS += ['--data', str(samples_dir() / 'scenes')]
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='torch without gloo'),
]


def run(launcher, out, *more):
    done = subprocess.run(
        [*launcher, '-m', 'satdino_nb.pretrain', *OPTIONS, *map(str, more), '--out', str(out)],
        text=True,
        capture_output=True,
        env=ENV,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def rows(out):
    return [json.loads(line) for line in (out / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp('single') / 'run'
    run([sys.executable], out)
    return out


@pytest.mark.parametrize(
    'more',
    [(), ('--accumulate', 2), ('--precision', 'bf16')],
    ids=lambda m: ' '.join(map(str, m)) or 'plain',
)
def test_two_processes_are_one_run(single, tmp_path, more):
    run(TORCHRUN, tmp_path / 'run', *more)
    a, b = rows(single), rows(tmp_path / 'run')
    assert len(a) == len(b) == 10
    tolerance = 3e-2 if 'bf16' in more else 1e-4
    for x, y in zip(a, b):
        for key in (
            'loss',
            'dino',
            'gsd',
            'centre_norm',
            *(() if 'bf16' in more else ('grad_norm',)),
            *(() if more else ('teacher_entropy',)),
        ):
            assert y[key] == pytest.approx(x[key], rel=tolerance), (x['step'], key)
    if 'bf16' not in more:
        assert [r['knn'] for r in a if 'knn' in r] == [r['knn'] for r in b if 'knn' in r]
    states = [
        load_file(newest_checkpoint(out / 'checkpoints')[0] / 'model.safetensors')
        for out in (single, tmp_path / 'run')
    ]
    assert states[0].keys() == states[1].keys() and torch.allclose(
        states[0]['loss.centre'], states[1]['loss.centre'], atol=1e-2 if 'bf16' in more else 1e-5
    )


def test_sinkhorn_over_two_processes(tmp_path):
    for name, launcher in (('one', [sys.executable]), ('two', TORCHRUN)):
        run(launcher, tmp_path / name, '--centring', 'sinkhorn')
    for x, y in zip(rows(tmp_path / 'one'), rows(tmp_path / 'two'), strict=True):
        assert y['loss'] == pytest.approx(x['loss'], rel=1e-4)


@pytest.mark.skipif(sys.platform == 'win32', reason='sends signals')
def test_two_processes_stop_together_and_go_on_alone(single, tmp_path):
    """SIGTERM to the launcher reaches both processes.

    The checkpoint fits one process too, which has to be allowed.
    """
    out = tmp_path / 'run'
    launched = subprocess.Popen(
        [
            *TORCHRUN,
            '-m',
            'satdino_nb.pretrain',
            *OPTIONS,
            '--steps',
            '10000',
            '--save-every',
            '100000',
            '--knn-every',
            '0',
            '--out',
            str(out),
        ],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while (
            not ((out / 'metrics.jsonl').exists() and rows(out))
            and launched.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        launched.send_signal(signal.SIGTERM)
        said, _ = launched.communicate(timeout=120)
    finally:
        launched.kill()
    assert 'stopped after' in said, said[-3000:]
    done = newest_checkpoint(out / 'checkpoints')[1]['done']
    assert done == rows(out)[-1]['step'] + 1
    again = [*OPTIONS, '--steps', str(done + 2), '--knn-every', '0', '--out', str(out), '--resume']
    refused = subprocess.run(
        [sys.executable, '-m', 'satdino_nb.pretrain', *again],
        text=True,
        capture_output=True,
        env=ENV,
    )
    assert (
        refused.returncode != 0
        and 'processes: 2 -> 1' in refused.stderr
        and 'steps: 10000' in refused.stderr
    ), refused.stderr
    allowed = subprocess.run(
        [sys.executable, '-m', 'satdino_nb.pretrain', *again, '--allow-changes'],
        text=True,
        capture_output=True,
        env=ENV,
    )
    assert (
        allowed.returncode == 0 and newest_checkpoint(out / 'checkpoints')[1]['done'] == done + 2
    ), allowed.stderr


def test_a_batch_that_cannot_be_divided(tmp_path):
    done = subprocess.run(
        [
            *TORCHRUN,
            '-m',
            'satdino_nb.pretrain',
            *OPTIONS,
            '--batch-size',
            '15',
            '--out',
            str(tmp_path / 'run'),
        ],
        text=True,
        capture_output=True,
        env=ENV,
        timeout=120,
    )
    assert (
        done.returncode != 0
        and '15 cannot be divided into 2 processes x 1 parts' in done.stderr
        and not (tmp_path / 'run').exists()
    )


AUTO = """
import os, sys
from pathlib import Path
import satdino_nb.engine.training as training
import satdino_nb.pretrain as p
from satdino_nb.data import sample_tiles
from satdino_nb.views import view_preset
from satdino_nb.vit import ViTConfig

if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    training.bf16_time = lambda *a: (0.4, 5.0)[rank]  # fast in bf16, slow in bf16
    made, plain = [], p.start_accelerator
    p.start_accelerator = lambda c: made.append(plain(c)) or made[0]
    sizes = dict(vit=ViTConfig(32, 8, 48, 2, 3), out_dim=64, hidden_dim=48, bottleneck_dim=16)
    c = p.PretrainConfig(
        out=Path(sys.argv[1]), steps=2, batch_size=16, views=view_preset("tiny"), **sizes,
        workers=0, check=False, device="cpu", precision="auto",
    )
    run = p.pretrain(c, sample_tiles())
    sys.stdout.write(f"RANK {rank} {run.config.precision} {made[0].mixed_precision}\\n")
"""


def test_processes_that_measure_differently_take_one_precision(tmp_path):
    """bf16 would be chosen by the first process alone, fp32 by the second.

    Both take what the first one measured, as it is saved, and the log says it once.
    """
    (tmp_path / 'auto.py').write_text(AUTO)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / 'auto.py'), str(tmp_path / 'run')],
        text=True,
        capture_output=True,
        env=ENV,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.startswith('RANK')]
    assert sorted(said) == ['RANK 0 bf16 bf16', 'RANK 1 bf16 bf16'], done.stdout
    assert done.stdout.count('precision: ') == done.stdout.count('precision: bf16') == 1
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['precision'] == 'bf16'


SHARDED = """
import sys, torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from satdino_nb.data import FMOW, sample_tiles
from satdino_nb.dino import param_groups
from satdino_nb.pretrain import PretrainConfig, build, plain_backbone
from satdino_nb.pretrain import schedules, train_step, view_batches
from satdino_nb.views import view_preset
from satdino_nb.vit import ViTConfig, save_satdino

if __name__ == "__main__":
    cpu, a = torch.device("cpu"), Accelerator(cpu=True)
    vit = ViTConfig(32, 8, 48, 2, 3)
    sizes = dict(out_dim=64, hidden_dim=48, bottleneck_dim=16)
    run = dict(steps=6, batch_size=16, workers=0, drop_path=0.)
    c = PretrainConfig(views=view_preset("tiny"), vit=vit, **sizes, **run)
    model = build(c, FMOW, cpu)
    if a.num_processes > 1:
        mesh = init_device_mesh("cpu", (a.num_processes,))
        for network in (model.student, model.teacher):
            for block in network.backbone.blocks: fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimiser, s = torch.optim.AdamW(param_groups(model.student)), schedules(c)
    batches = view_batches(sample_tiles(), c, cpu, 0, a.process_index, a.num_processes)
    for step, (_, parts) in enumerate(batches):
        losses, norm = train_step(model, optimiser, parts, s[step], c, a)
        loss = a.reduce(losses.total, "mean").item()
        if a.is_main_process: print("ROW", loss, norm.item(), flush=True)
    teacher = plain_backbone(model.teacher.backbone)
    if a.is_main_process: save_satdino(teacher, sys.argv[1])
    a.wait_for_everyone()
    a.end_training()
"""


def test_sharded_parameters_are_the_same_run(tmp_path):
    """The step on parameters in shards (FSDP2, torch's fully_shard) over two processes.

    Losses, gradient norms and the teacher's weights are as with one.
    """
    (tmp_path / 'sharded.py').write_text(SHARDED)
    found = []
    for name, launcher in (('one', [sys.executable]), ('two', TORCHRUN)):
        done = subprocess.run(
            [*launcher, str(tmp_path / 'sharded.py'), str(tmp_path / f'{name}.safetensors')],
            text=True,
            capture_output=True,
            env=ENV,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(
            [
                float(v)
                for line in done.stdout.splitlines()
                if line.startswith('ROW')
                for v in line.split()[1:]
            ]
        )
    assert len(found[0]) == 12 and found[1] == pytest.approx(found[0], rel=1e-4)
    one, two = (load_file(tmp_path / f'{name}.safetensors') for name in ('one', 'two'))
    assert one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=1e-4) for k in one)


TUNED = """
import os, sys, torch
from satdino_nb.data import sample_tiles
from satdino_nb.finetune import FineTuneConfig, fine_tune
from satdino_nb.vit import load_satdino

if __name__ == "__main__":
    mixup, batch = float(sys.argv[2]), int(sys.argv[3])
    c = FineTuneConfig(epochs=2, batch_size=batch, drop_path=0.0, mixup=mixup, precision="fp32")
    tiles = sample_tiles("train").subset(range(0, 240, 6))
    net, losses = fine_tune(load_satdino("satdino-nano", verbose=False), tiles, c, "cpu")
    print("LOSSES", *losses)
    torch.save([net.state_dict(), losses], f"{sys.argv[1]}.{os.environ.get('RANK', 0)}")
"""


@pytest.mark.parametrize('mixup,batch', [(0.0, 16), (0.4, 9)])
def test_fine_tuning_by_two_processes_is_that_of_one(tmp_path, mixup, batch):
    """Losses and weights, with batches that divide and one that does not, and with mixup.

    Both processes end with the same classifier, to the bit.
    """
    (tmp_path / 'tuned.py').write_text(TUNED)
    for name, launcher in (('one', [sys.executable]), ('two', TORCHRUN)):
        done = subprocess.run(
            [*launcher, str(tmp_path / 'tuned.py'), str(tmp_path / name), str(mixup), str(batch)],
            text=True,
            capture_output=True,
            env=ENV,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two, other = (torch.load(tmp_path / n) for n in ('one.0', 'two.0', 'two.1'))
    assert two[1] == pytest.approx(one[1], rel=1e-4) and two[1] == other[1]
    for k, v in one[0].items():
        assert torch.equal(two[0][k], other[0][k]) and torch.allclose(v, two[0][k], atol=2e-4), k


def test_more_processes_than_tiles_in_a_batch_are_refused(tmp_path):
    (tmp_path / 'tuned.py').write_text(TUNED)
    done = subprocess.run(
        [*TORCHRUN, str(tmp_path / 'tuned.py'), str(tmp_path / 'x'), '0', '1'],
        text=True,
        capture_output=True,
        env=ENV,
        timeout=300,
    )
    assert done.returncode != 0 and 'a batch of 1 tiles for 2 processes' in done.stderr


def test_a_fine_tuned_report_by_two_processes(tmp_path):
    "One process writes and prints the report; its numbers are those of one process alone."
    words = '--models satdino-nano --gsd 2 --protocols finetune --no-baselines --workers 0'.split()
    words += '--device cpu --tuning.epochs 1 --tuning.drop-path 0 --tuning.batch-size 64'.split()
    words += ['--tuning.precision', 'fp32', '--data', str(samples_dir() / 'scenes')]
    for name, launcher in (('one', [sys.executable]), ('two', TORCHRUN)):
        done = subprocess.run(
            [*launcher, '-m', 'satdino_nb.evaluate', *words, '--out', str(tmp_path / name)],
            text=True,
            capture_output=True,
            env=ENV,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count('| satdino-nano |') >= 1
        said = [line for line in done.stdout.splitlines() if line.startswith('# ')]
        assert len(said) == len(set(said)), 'said once'
    one, two = (
        json.loads((tmp_path / n / 'results.json').read_text())['results'] for n in ('one', 'two')
    )
    assert [r['value'] for r in two] == pytest.approx([r['value'] for r in one], abs=0.02) and one
