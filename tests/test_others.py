"""The same input given to other libraries: their neighbours, their loss, their trainers.

What is absent here is skipped; `docs/with_others.md` is run where torchgeo is installed.
"""

import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from satdino_nb.data import collate, sample_tiles
from satdino_nb.dino import DINOLoss
from satdino_nb.engine.neighbours import nearest
from satdino_nb.evaluate import knn_predict
from satdino_nb.features import extract_features
from satdino_nb.search import SatDINOFeatures
from satdino_nb.vit import load_satdino


@pytest.fixture(scope='module')
def sides():
    "Features of training and test tiles and the labels of both."
    model = load_satdino('satdino-nano', verbose=False)
    parts = [sample_tiles(name) for name in ('train', 'test')]
    x = [extract_features(model, tiles, device='cpu').cls.float() for tiles in parts]
    return *x, *(torch.tensor(tiles.labels) for tiles in parts)


def same_neighbours(scores, found, others, other_scores):
    "Equal cosines; equal rows wherever the next cosine is not the same to rounding."
    assert np.allclose(scores, other_scores, atol=1e-5)
    gap = np.abs(np.diff(scores, axis=1)) > 1e-4
    clear = np.pad(gap, ((0, 0), (1, 0)), constant_values=True)
    clear &= np.pad(gap, ((0, 0), (0, 1)), constant_values=False)
    assert clear.mean() > 0.5 and (found == others)[clear].all()


def test_neighbours_are_those_of_scikit_learn(sides):
    neighbors = pytest.importorskip('sklearn.neighbors')
    train, test = sides[:2]
    scores, found = nearest(train, test, 10)
    index = neighbors.NearestNeighbors(n_neighbors=10, metric='cosine').fit(train.numpy())
    distances, others = index.kneighbors(test.numpy())
    same_neighbours(scores.numpy(), found.numpy(), others, 1 - distances)


def test_neighbours_are_those_of_faiss(sides):
    faiss = pytest.importorskip('faiss', reason="no faiss: pip install 'satdino_nb[search]'")
    train, test = (np.ascontiguousarray(x.numpy()) for x in sides[:2])
    scores, found = nearest(*sides[:2], 10)
    faiss.normalize_L2(train)
    faiss.normalize_L2(test)
    index = faiss.IndexFlatIP(train.shape[1])
    index.add(train)
    other_scores, others = index.search(test, 10)
    same_neighbours(scores.numpy(), found.numpy(), others, other_scores)


def test_votes_are_those_of_scikit_learn(sides):
    "DINO's weights, exp(cosine / temperature), as a weight function of its classifier."
    neighbors = pytest.importorskip('sklearn.neighbors')
    train, test, y, _ = sides
    ours = knn_predict(train, y, test, k=20, temperature=0.07)
    theirs = neighbors.KNeighborsClassifier(
        20, metric='cosine', weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(train.numpy(), y.numpy())
    shares = ours / ours.sum(1, keepdim=True)
    assert np.allclose(shares.numpy(), theirs.predict_proba(test.numpy()), atol=1e-4)


def test_the_transformer_feeds_a_pipeline_as_plain_features_do(sides):
    pipeline = pytest.importorskip('sklearn.pipeline')
    from sklearn.neighbors import KNeighborsClassifier

    train, test = sample_tiles('train'), sample_tiles('test').subset(range(20))
    direct = KNeighborsClassifier(5, metric='cosine').fit(sides[0].numpy(), train.labels)
    piped = pipeline.make_pipeline(
        SatDINOFeatures(device='cpu', workers=0), KNeighborsClassifier(5, metric='cosine')
    ).fit(train, train.labels)
    assert (piped.predict(test) == direct.predict(sides[1][:20].numpy())).all()


@pytest.mark.parametrize('views', [2, 6])
@pytest.mark.parametrize('temperature', [0.04, 0.07])
def test_the_loss_and_its_centre_are_those_of_lightly(views, temperature):
    loss = pytest.importorskip('lightly.loss', reason='no lightly: pip install lightly')
    g = torch.Generator().manual_seed(0)
    ours, theirs = DINOLoss(64), loss.DINOLoss(64, student_temp=0.1)
    for _ in range(3):  # the centre has moved after the first
        teacher = torch.randn(2, 8, 64, generator=g) + 0.5
        student = torch.randn(views, 8, 64, generator=g, requires_grad=True)
        other = student.detach().clone().requires_grad_()
        a = ours(student, ours.probabilities(teacher, temperature))
        b = theirs(list(teacher), list(other), teacher_temp=temperature)
        ours.update_centre(teacher)
        a.backward()
        b.backward()
        assert a.item() == pytest.approx(b.item(), rel=1e-5)
        assert torch.allclose(student.grad, other.grad, atol=1e-7)
    assert torch.allclose(ours.centre, theirs.center.flatten(), atol=1e-6) and ours.centre.any()


def guide(repo, mark):
    "The piece of Python of `docs/with_others.md` that has a word in it."
    text = (repo / 'docs' / 'with_others.md').read_text()
    found = [code for code in re.findall(r'```python\n(.*?)```', text, re.S) if mark in code]
    assert len(found) == 1, mark
    return found[0]


@pytest.fixture
def torchgeo_guide(repo):
    pytest.importorskip('torchgeo.trainers', reason='no torchgeo: pip install torchgeo')
    made: dict = {}
    exec(guide(repo, 'class Samples'), made)
    return made


@pytest.mark.slow
def test_our_networks_train_in_torchgeo(repo, torchgeo_guide, tmp_path, monkeypatch):
    "The guide, as it is printed: a step of training and one of validation, and the head learns."
    monkeypatch.chdir(tmp_path)
    made = torchgeo_guide
    exec(guide(repo, 'ClassificationTask'), made)
    assert np.isfinite(float(made['trainer'].callback_metrics['val_loss']))
    assert 0 <= float(made['trainer'].callback_metrics['val_OverallAccuracy']) <= 1
    net, first = made['task'].model, load_satdino('satdino-nano', verbose=False)
    weights = dict(first.named_parameters())
    same = [torch.equal(p, weights[n]) for n, p in net.named_parameters() if n in weights]
    assert len(same) > 50 and all(same), 'a frozen backbone has the weights that ship'
    assert net.head.bias.any(), 'it begins with zeros'


@pytest.mark.slow
def test_our_network_segments_in_torchgeo(repo, torchgeo_guide, tmp_path, monkeypatch):
    "The guide, as it is printed: weights that ship stay as they are, and the decoder learns."
    import lightning

    monkeypatch.chdir(tmp_path)
    made = torchgeo_guide | dict(lightning=lightning)
    exec(guide(repo, 'SemanticSegmentationTask'), made)
    task, scenes = made['segmenting'], made['scenes']
    assert np.isfinite(float(made['trainer'].callback_metrics['val_loss']))
    weights = dict(load_satdino('satdino-nano', verbose=False).named_parameters())
    inner = dict(task.model.encoder.model.named_parameters())
    same = [torch.equal(p, weights[n]) for n, p in inner.items() if n in weights]
    assert len(same) > 50 and all(same), 'a frozen backbone has the weights that ship'
    sample = made['MaskedSamples'](scenes)[0]
    said = task.eval()(sample['image'][None])
    assert said.shape == (1, len(scenes.classes), 64, 64) and sample['mask'].shape == (64, 64)
    steps = made['trainer'].optimizers[0].state
    decoder = [p for p in task.model.decoder.parameters() if p in steps]
    assert decoder and any(steps[p]['exp_avg'].any() for p in decoder), 'the decoder learns'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['satdino_nano_patch8', 'resnet18'])
def test_other_forms_train_in_torchgeo(torchgeo_guide, tmp_path, name):
    "What `load_satdino` read, through its state dict; and any name of timm."
    import lightning
    from torchgeo.trainers import ClassificationTask

    made = torchgeo_guide
    task = ClassificationTask(name, num_classes=len(sample_tiles().classes), lr=1e-3)
    if name.startswith('satdino'):
        own = load_satdino('satdino-nano', verbose=False)
        task.model.load_state_dict(own.state_dict(), strict=False)
        x = torch.rand(2, 3, 64, 64)
        assert torch.allclose(task.model.eval().forward_features(x), own.eval().forward_features(x))
    loader = DataLoader(made['Samples'](sample_tiles('test'), 64), 8)
    trainer = lightning.Trainer(
        accelerator='cpu',
        fast_dev_run=1,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    before = [p.detach().clone() for p in task.model.parameters()]
    trainer.fit(task, loader, loader)
    moved = [not torch.equal(a, b) for a, b in zip(before, task.model.parameters())]
    assert np.mean(moved) > (0.9 if name.startswith('satdino') else 0.3)  # residuals begin at 0


@pytest.mark.slow
def test_the_model_of_torchgeo_bench_embeds(repo):
    interface = pytest.importorskip(
        'torchgeo_bench.models.interface', reason='no torchgeo-bench (Python 3.12): pip install it'
    )
    assert interface
    from torchgeo_bench.datasets.base import BandSpec

    made: dict = {}
    exec(guide(repo, 'BenchModel'), made)
    numbers = dict(mean=110.0, std=50.0, min=0.0, max=255.0)
    bands = [BandSpec('aerial', name, name, **numbers) for name in ('red', 'green', 'blue')]
    images = collate([sample_tiles('test')[i] for i in range(4)]).images.float()
    said = made['SatDINOBench'](bands=bands)(images)
    own = load_satdino('satdino-nano', verbose=False).eval()
    size = (own.config.img_size,) * 2
    with torch.no_grad():
        shown = torch.nn.functional.interpolate(
            own.normalisation(images / 255), size, mode='bicubic'
        )
        assert said.shape == (4, 128) and torch.allclose(said, own(shown), atol=1e-5)
