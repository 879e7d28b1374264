"""The documents as their readers see them: pages, the code in them, links and anchors."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_RUN = re.compile(r'<!-- not run: [^>]+ -->\n```python\n.*?```', re.DOTALL)  # with the reason
FENCES = re.compile(r'^ {0,3}(`{3,})[^\n]*\n.*?^ {0,3}\1 *$', re.DOTALL | re.MULTILINE)
LINK = re.compile(r'\]\(<?([^)\s>]+)>?\)')


def pages():
    """All pages, as paths from the root: those of docs, and the ones beside the package."""
    found = [path for suffix in ('md', 'ipynb') for path in (ROOT / 'docs').rglob(f'*.{suffix}')]
    beside = [ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'examples/README.md')]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*found, *beside])


def text_of(page):
    """The Markdown of a page; of a notebook, with its code as Python blocks."""
    text = (ROOT / page).read_text(encoding='utf-8')
    if not page.endswith('.ipynb'):
        return text
    cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in json.loads(text)['cells']]
    return '\n\n'.join(source if kind == 'markdown' else f'```python\n{source}\n```' for kind, source in cells)


def blocks(page, language):
    """The blocks of a page in a language, in order: the name in the comment before each ('' without), and the text."""
    text = NOT_RUN.sub('', text_of(page))
    found = re.findall(rf'(?:<!-- name: (.*?) -->\n)?^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    return [(name, block) for name, block in found]


def commands(page):
    """The lines of the bash blocks of a page that call composer-kd, without comments and without a launcher."""
    for _, block in blocks(page, '(?:bash|console|sh)'):
        for line in block.replace('\\\n', ' ').splitlines():
            line = re.sub(r'^(\w+=\S+ )*', '', line.strip())
            line = re.sub(r'^composer -n \d+ -m composer_kd', 'composer-kd', line)
            if line.startswith('composer-kd'):
                yield re.sub(r' +(#.*|> .*|&)$', '', line)


def links(page):
    """The targets of the links of a page that are no web addresses."""
    text = FENCES.sub('', text_of(page))
    text = re.sub(r'`[^`\n]*`', '', text)
    return [target for target in LINK.findall(text) if not re.match(r'\w+:', target)]


def anchors(page):
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    text = FENCES.sub('', text_of(page))
    found, seen = set(), {}
    for heading in re.findall(r'^#{1,6} +(.*?) *$', text, re.MULTILINE):
        plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
        slug = re.sub(r'[^\w\- ]', '', plain.lower()).replace(' ', '-')
        number = seen[slug] = seen.get(slug, -1) + 1
        found.add(f'{slug}-{number}' if number else slug)
    return found | set(re.findall(r'^\((\S+)\)=$', text, re.MULTILINE))
