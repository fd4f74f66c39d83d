"""The library's own training step with a clock on its parts."""

from dataclasses import replace

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from plain import Clock
from torch.utils.data import DataLoader

from satdino_nb.data import FMOW, Tiles
from satdino_nb.pretrain import batches as batch_order
from satdino_nb.pretrain import one_thread, schedules, set_up, train_step, view_source


class OurLoop:
    "`step()` trains once, by `satdino_nb.pretrain.train_step`; `clock` says where the time went."

    def __init__(self, tiles: Tiles, c, device, timed=True):
        self.c, self.device, self.clock, self.timed = (
            replace(c, steps=10**6),
            device,
            Clock(device),
            timed,
        )
        AcceleratorState._reset_state(True)
        self.accelerator = Accelerator(
            cpu=device.type == 'cpu', mixed_precision=c.precision.replace('fp32', 'no')
        )
        self.own, self.model, self.optimiser = set_up(c, FMOW, self.accelerator)
        if timed:
            self.put_clock()
        self.now = schedules(replace(c, steps=1000))[500]
        self.source = view_source(c, device)(tiles, self.c)
        order = lambda: enumerate(batch_order(len(tiles), c.batch_size, 10**6))
        items = ([(step, epoch, int(i)) for i in index] for step, (epoch, index) in order())
        self.batches = zip(
            order(),
            DataLoader(
                self.source,
                batch_sampler=items,
                collate_fn=self.source.join,
                num_workers=c.workers,
                worker_init_fn=one_thread,
                prefetch_factor=1 if c.workers else None,
            ),
        )

    def put_clock(self):
        "Wrap the parts of the step."

        def around(owner, name, part):
            plain = getattr(owner, name)

            def timed(*args, **kw):
                with self.clock(part):
                    return plain(*args, **kw)

            object.__setattr__(owner, name, timed)

        call = '_compiled_call_impl' if self.c.compile else 'forward'  # outside of what is compiled
        around(self.own.teacher, call, 'teacher')
        around(self.own.student, call, 'student')
        around(self.own.loss, 'forward', 'loss')
        around(self.own, 'update_teacher', 'teacher update')
        around(self.accelerator, 'backward', 'backward')
        around(self.optimiser, 'step', 'optimiser')

    def step(self):
        with self.clock('data wait'):
            (step, (epoch, index)), batch = next(self.batches)
        with self.clock('views'):
            _, views = self.source.finish(batch, self.device, step, epoch, index)
        losses, norm = train_step(
            self.model, self.optimiser, [views], self.now, self.c, self.accelerator
        )
        if not losses.total.isfinite():
            raise FloatingPointError('our loop diverged')
