"""Train the small model that ships, from scenes drawn for it: python data_samples/train_model.py

The scenes (15 classes, 128 px, GSD log-uniform from 0.3 to 10 m) come from worlds with other seeds than the samples',
so the model has seen neither split of them.
"""
import json
import tempfile
from pathlib import Path

from tqdm.auto import tqdm

from satdino_nb.data import Tiles
from satdino_nb.pretrain import PretrainConfig, pretrain
from satdino_nb.scenes import LAND_USES, SceneDataset, to_pil
from satdino_nb.views import view_preset
from satdino_nb.vit import save_satdino, vit_preset

HERE = Path(__file__).parent


def draw(folder: Path, n: int) -> Tiles:
    "`n` scenes as PNG files in `folder`."
    scenes, paths, gsds, labels = SceneDataset(n, size=128, seed=1), [], [], []
    for k in tqdm(range(n), 'drawing scenes'):
        image, gsd, label = scenes[k]
        paths.append(folder/f'{k:05d}.png'); gsds.append(gsd); labels.append(label)
        to_pil(image).save(paths[-1], compress_level=1)
    return Tiles(paths, gsds, labels, LAND_USES)


def main(scenes: int = 3000, steps: int = 1500, out: Path = Path('runs/samples')) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = PretrainConfig(out=out, steps=steps, batch_size=64, held_out=0., views=view_preset('small'),
                                vit=vit_preset('micro', img_size=64, patch_size=8), hidden_dim=512, bottleneck_dim=128,
                                lr=1e-3, log_every=25)
        run = pretrain(config, draw(Path(folder), scenes))
    save_satdino(run.model.cpu(), HERE/'model.safetensors')
    last = run.metrics[-1]
    print(json.dumps({k: last[k] for k in ('dino', 'teacher_entropy', 'teacher_kl', 'gsd_mae')}))


if __name__ == '__main__':
    import tyro
    tyro.cli(main)
