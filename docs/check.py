"""What a built site must keep: links lead somewhere, nothing is fetched from elsewhere.

python docs/check.py docs/_build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {  # attributes whose address a browser loads by itself
    'script': 'src',
    'img': 'src',
    'iframe': 'src',
    'source': 'src',
    'video': 'src',
    'audio': 'src',
    'embed': 'src',
    'object': 'data',
}
LOADED_LINKS = {'stylesheet', 'icon', 'preload', 'modulepreload', 'prefetch', 'preconnect'}
DIRECTIVE = re.compile(r'^#\|\s*(export|exporti|exports|hide|default_exp|eval|echo)\b', re.M)


class Page(HTMLParser):
    "What a page links to and loads, the names in it, and what it shows as code."

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids, self.code, self.nameless = [], [], set(), '', 0
        self.depth = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ('id', 'name') if attrs.get(k)}
        if tag == 'a' and 'href' in attrs:
            self.links.append(attrs['href'])
        if tag == 'link' and set((attrs.get('rel') or '').split()) & LOADED_LINKS:
            self.loads.append(attrs.get('href') or '')
        if attrs.get(FETCHED.get(tag, '')):
            self.loads.append(attrs[FETCHED[tag]])
        self.nameless += tag == 'img' and 'alt' not in attrs
        self.depth += tag == 'pre'

    def handle_endtag(self, tag):
        self.depth -= tag == 'pre'
        self.code += '\n' * (tag == 'pre')

    def handle_data(self, data):
        if self.depth:
            self.code += data


def is_remote(address):
    "Whether an address names another machine."
    return bool(urlsplit(address).netloc)


def lost(address, page, pages, root):
    "Whether a link of the file `page` to this site leads nowhere; `pages` are its pages, by path."
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return False
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= 'index.html'
    if not target.is_relative_to(root) or not target.exists():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and target in pages and anchor not in pages[target].ids


def faults(root):
    "Lines about what is wrong with the site in the folder `root`; `ValueError` if it has no page."
    root = Path(root).resolve()
    pages = {p: Page(p.read_text()) for p in sorted(root.rglob('*.html'))}
    if root / 'index.html' not in pages:
        raise ValueError(f'{root} has no index.html; python docs/build.py makes the site')
    found = []
    for path, page in pages.items():
        name = path.relative_to(root)
        wrong = [a for a in page.links + page.loads if lost(a, path, pages, root)]
        found += [f'{name}: {a} leads nowhere' for a in dict.fromkeys(wrong)]
        found += [f'{name}: loads {a} from elsewhere' for a in page.loads if is_remote(a)]
        found += [f'{name}: shows the directive {d[0]}' for d in DIRECTIVE.finditer(page.code)]
        if page.nameless:
            found.append(f'{name}: {page.nameless} pictures without a text in their place')
    for sheet in sorted(root.rglob('*.css')):
        text = sheet.read_text()
        asked = re.findall(r'(?:url\(\s*|@import\s+)["\']?((?:https?:)?//[^"\')\s]+)', text)
        found += [f'{sheet.relative_to(root)}: loads {a} from elsewhere' for a in asked]
    return found


def main(root='docs/_build/html'):
    found = faults(root)
    print('\n'.join(found) or f'{root}: every link leads somewhere, nothing is fetched')
    return bool(found)


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
