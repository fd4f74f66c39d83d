"""The same recipe as a straightforward loop, to measure against.

Views by Pillow in the loading processes, collated as floats, one forward for each resolution
through the whole network, the loss pair by pair, plain AdamW, the teacher parameter by parameter.
A GSD head is trained as in ours.
"""

import time
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as TF

from satdino_nb.data import FMOW
from satdino_nb.dino import DINOHead
from satdino_nb.gsd import crop_gsd
from satdino_nb.pretrain import one_thread
from satdino_nb.views import plain_views
from satdino_nb.vit import SatViT


class Clock:
    """Seconds by part.

    `synchronise` waits for the device, so that its time is counted where it belongs.
    """

    def __init__(self, device):
        self.device, self.seconds = device, {}

    def synchronise(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    @contextmanager
    def __call__(self, part):
        self.synchronise()
        start = time.perf_counter()
        yield
        self.synchronise()
        self.seconds[part] = self.seconds.get(part, 0) + time.perf_counter() - start


class PlainViews(Dataset):
    "Normalised float views of a JPEG file, and their GSDs."

    def __init__(self, paths, gsd, views):
        self.paths, self.gsd, self.views = paths, gsd, views

    def __len__(self):
        return 10**9

    def __getitem__(self, i):
        image = Image.open(self.paths[i % len(self.paths)]).convert('RGB')
        torch.manual_seed(i)
        made = plain_views(image, self.views)
        tensors = [TF.normalize(TF.to_tensor(view), FMOW.mean, FMOW.std) for view, _ in made]
        return tensors, [crop_gsd(self.gsd, box[2:], view.size[::-1]) for view, box in made]


class PlainNetwork(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, views):
        cls, said = [], []
        for size in sorted({v.shape[-1] for v in views}, reverse=True):
            tokens = self.backbone.tokens(torch.cat([v for v in views if v.shape[-1] == size]))
            cls.append(tokens.cls)
            said.append(self.backbone.gsd_head(tokens.gsd).squeeze(-1))
        return self.head(torch.cat(cls)), torch.cat(said)


def plain_loss(student, teacher, centre, n_views, n_global, student_temp, teacher_temp):
    "DINO's double loop."
    student = (student.float() / student_temp).chunk(n_views)
    teacher = F.softmax((teacher.float() - centre) / teacher_temp, -1).detach().chunk(n_global)
    pairs = [
        (-q * F.log_softmax(student[v], -1)).sum(-1).mean()
        for i, q in enumerate(teacher)
        for v in range(n_views)
        if v != i
    ]
    return sum(pairs) / len(pairs)


class PlainLoop:
    "`step()` trains once; `clock` says where the time went."

    def __init__(self, paths, gsd, c, device, precision='fp32'):
        torch.manual_seed(0)
        make = lambda rate: PlainNetwork(
            SatViT(c.vit, FMOW, drop_path_rate=rate),
            DINOHead(c.vit.embed_dim, c.out_dim, c.hidden_dim, c.bottleneck_dim),
        ).to(device)
        self.student, self.teacher, self.c, self.device, self.clock = (
            make(c.drop_path),
            make(0.0),
            c,
            device,
            Clock(device),
        )
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        decay = [p for p in self.student.parameters() if p.ndim > 1]
        self.optimiser = torch.optim.AdamW(
            [
                dict(params=decay),
                dict(
                    params=[p for p in self.student.parameters() if p.ndim <= 1], weight_decay=0.0
                ),
            ],
            lr=1e-4,
            weight_decay=0.04,
        )
        self.centre, self.precision = torch.zeros(c.out_dim, device=device), precision
        loader = DataLoader(
            PlainViews(paths, gsd, c.views),
            c.batch_size,
            num_workers=c.workers,
            worker_init_fn=one_thread,
            prefetch_factor=1 if c.workers else None,
        )
        self.batches = iter(loader)

    def step(self):
        c, clock, n = self.c, self.clock, self.c.views.n_global + self.c.views.n_local
        with clock('data wait'):
            views, gsd = next(self.batches)
        with clock('views'):
            views, truth = (
                [v.to(self.device) for v in views],
                torch.cat(gsd).float().to(self.device),
            )
        with (
            torch.autocast(self.device.type, torch.bfloat16)
            if self.precision == 'bf16'
            else nullcontext()
        ):
            with clock('teacher'), torch.no_grad():
                scores, _ = self.teacher(views[: c.views.n_global])
            with clock('student'):
                out, said = self.student(views)
            with clock('loss'):
                loss = plain_loss(
                    out, scores, self.centre, n, c.views.n_global, c.student_temp, 0.04
                ) + c.gamma * F.mse_loss(said.float(), truth)
                self.centre = self.centre * 0.9 + scores.float().mean(0) * 0.1
        with clock('backward'):
            self.optimiser.zero_grad()
            loss.backward()
        with clock('optimiser'):
            if c.clip_grad:
                torch.nn.utils.clip_grad_norm_(self.student.parameters(), c.clip_grad)
            self.optimiser.step()
        with clock('teacher update'), torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters()):
                t.data.mul_(0.996).add_(0.004 * s.detach().data)
        if not np.isfinite(loss.item()):
            raise FloatingPointError('the plain loop diverged')
