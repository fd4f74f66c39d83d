"""What the explorer's page on the site holds: three shipped places, what the shipped model says.

    python docs/explorer.py         # docs/explorer.json

`docs/build.py` makes a page of it, and needs neither PyTorch nor a model for that. To be run again
when the places, the model or what a page holds change.
"""

import json
from pathlib import Path

from satdino_nb.data import sample_tiles
from satdino_nb.engine.crop_state import named_tiles
from satdino_nb.engine.explorer_page import baked_page
from satdino_nb.engine.scale_reader import shipped_reader
from satdino_nb.engine.tile_answers import TileAnswers
from satdino_nb.vit import load_satdino

PLACES = ('residential', 'harbour', 'airport')
START = dict(place='residential', out=64, sampling='both', token='gsd')


def main():
    "Write the file."
    places = named_tiles(sample_tiles('place'))
    model = load_satdino('satdino-nano', verbose=False)
    shown = {name: places[name] for name in PLACES}
    answers = TileAnswers(shown, model, reader=shipped_reader(model))
    baked = baked_page(answers, answers.setup, START, size=640, seeds=6, steps=6)
    path = Path(__file__).with_name('explorer.json')
    path.write_text(json.dumps(baked, separators=(',', ':')) + '\n')
    print(f'{path}: {path.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
