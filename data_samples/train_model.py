"""Train the small model that ships, from scenes drawn for it: python data_samples/train_model.py

The scenes (15 classes, 128 px, GSD log-uniform from 0.3 to 10 m) come from worlds with other
seeds than the samples', so the model has seen neither split of them.
"""

import json
import tempfile
from pathlib import Path

from satdino_nb.data import DatasetTiles
from satdino_nb.pretrain import PretrainConfig, pretrain
from satdino_nb.scenes import SceneDataset
from satdino_nb.views import view_preset
from satdino_nb.vit import save_satdino, vit_preset

HERE = Path(__file__).parent


def main(scenes: int = 3000, steps: int = 1500, out: Path = Path('runs/samples')) -> None:
    with tempfile.TemporaryDirectory() as folder:  # each scene is drawn once, then kept there
        tiles = DatasetTiles(SceneDataset(scenes, size=128, seed=1, cache=folder))
        config = PretrainConfig(
            out=out,
            steps=steps,
            batch_size=64,
            held_out=0.0,
            check=False,
            views=view_preset('small'),
            vit=vit_preset('micro', img_size=64, patch_size=8),
            hidden_dim=512,
            bottleneck_dim=128,
            lr=1e-3,
            log_every=25,
        )
        run = pretrain(config, tiles)
    save_satdino(run.model.cpu(), HERE / 'model.safetensors')
    last = run.metrics[-1]
    print(json.dumps({k: last[k] for k in ('dino', 'teacher_entropy', 'teacher_kl', 'gsd_mae')}))


if __name__ == '__main__':
    import tyro

    tyro.cli(main)
