"How Sphinx reads what `docs/build.py` laid out; nothing is run and nothing is fetched."

import os

project = 'satdino_nb'
author = 'The satdino_nb authors'
copyright = f'2026 onwards, {author}'
version = release = os.environ.get('SATDINO_VERSION', '')
extensions = ['myst_nb', 'sphinx.ext.mathjax']
nb_execution_mode = 'off'  # pages show the outputs that are committed
nb_merge_streams = True
suppress_warnings = [
    'mystnb.unknown_mime_type',  # the others of a cell's forms are shown
    'myst.header',  # a glossary's terms stand two levels down
]
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 4
myst_dmath_double_inline = True
highlight_language = 'default'
html_theme = 'furo'
html_title = 'satdino_nb'
html_static_path = ['static']
html_css_files = ['course.css']
html_copy_source = False
html_show_sourcelink = False
templates_path = []
mathjax_path = 'tex-svg.js'  # one file with its glyphs, copied from a package of PyPI
mathjax3_config = {'options': {'enableMenu': False}, 'svg': {'fontCache': 'local'}}
html_theme_options = {
    'light_css_variables': {'font-stack--monospace': 'ui-monospace, Consolas, Menlo, monospace'},
}
