"""How many scenes a second one core renders: fresh worlds, GSDs log-uniform between 0.3 and 10 m.

python bench/scenes.py --size 256 --n 12
"""

import os
import platform
import time

os.environ.setdefault('OMP_NUM_THREADS', '1')

import common
import numpy as np
import PIL
import torch

from satdino_nb.scenes import LAND_USES, SceneDataset


def main():
    parser = common.parser(__doc__)
    parser.add_argument('--size', type=int, default=256, help='pixels along a side')
    parser.add_argument('--n', type=int, default=12, help='scenes of each land use')
    parser.add_argument('--seed', type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f'{common.cpu_info("model name") or common.processor()}, one thread, '
        f'Python {platform.python_version()}, Pillow {PIL.__version__}, numpy {np.__version__}'
    )
    scenes = SceneDataset(args.n * len(LAND_USES), size=args.size, seed=args.seed)
    SceneDataset(1, size=args.size)[0]  # tables that are made once
    spent = {land_use: [] for land_use in LAND_USES}
    for k in range(len(scenes)):
        start = time.perf_counter()
        _, _, label = scenes[k]
        spent[LAND_USES[label]].append(time.perf_counter() - start)
    for land_use, seconds in spent.items():
        print(
            f'{land_use:12} {1 / np.mean(seconds):6.1f} a second, '
            f'{1e3 * np.mean(seconds):6.1f} ms each, worst {1e3 * max(seconds):6.1f} ms'
        )
    every = np.concatenate(list(spent.values()))
    print(
        f'{"all":12} {1 / every.mean():6.1f} a second, '
        f'{1e3 * every.mean():6.1f} ms each, worst {1e3 * every.max():6.1f} ms, '
        f'{args.size} x {args.size} pixels, {len(every)} scenes'
    )


if __name__ == '__main__':
    main()
