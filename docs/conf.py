"""Settings of Sphinx (`make docs`). Its source folder is the repository, so that links are those of any viewer."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import composer_kd  # noqa: E402

project = 'composer_kd'
author = 'composer_kd developers'
copyright = author
version = release = composer_kd.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.autosummary',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
root_doc = 'docs/index'
source_suffix = {'.md': 'markdown', '.ipynb': 'markdown'}
include_patterns = ['docs/**.md', 'docs/**.ipynb', 'benchmarks/results/**.md', 'CHANGELOG.md', 'CONTRIBUTING.md']
exclude_patterns = ['.*', '*.egg-info', 'build', 'composer_kd', 'data', 'dist', 'runs', 'tests', 'wandb']  # not walked

myst_heading_anchors = 4  # as GitHub names them
myst_enable_extensions = ['colon_fence', 'dollarmath']
suppress_warnings = ['myst.header', 'toc.empty_glob']  # results of benchmarks skip a level of headings

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'
autodoc_preserve_defaults = True
autoclass_content = 'both'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_admonition_for_examples = False

# Names of other projects become links where their inventories can be fetched: `DOCS_ONLINE=1 make docs`.
if os.environ.get('DOCS_ONLINE'):
    extensions.append('sphinx.ext.intersphinx')
    intersphinx_mapping = {
        'python': ('https://docs.python.org/3', None),
        'torch': ('https://docs.pytorch.org/docs/stable', None),
        'composer': ('https://docs.mosaicml.com/projects/composer/en/stable', None),
    }

html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['tables.css']
html_extra_path = ['_site']  # the site's first page leads to docs/index.html
html_title = f'composer_kd {release}'
html_show_copyright = False
html_copy_source = False
html_theme_options = {'navigation_with_keys': True}
pygments_style = 'friendly'
pygments_dark_style = 'native'


def notebook_as_markdown(app, name, source):
    """Notebooks are pages as the others: their cells in order, code as Python."""
    if Path(app.env.doc2path(name)).suffix == '.ipynb':
        cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in json.loads(source[0])['cells']]
        source[0] = '\n\n'.join(text if kind == 'markdown' else f'```python\n{text}\n```' for kind, text in cells)


def setup(app):
    app.connect('source-read', notebook_as_markdown)
