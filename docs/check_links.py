"""Checks the links of the built site without a network: pages, anchors, pictures, downloads.

python -m docs.check_links
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).parent / "_build" / "html"


class Page(HTMLParser):
    """The links of a page, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := known.get(key))}
        self.links += [value for key in ("href", "src") if (value := known.get(key))]


def broken(site: Path) -> list[str]:
    """Returns a line for each link that leads nowhere; links to other hosts are not followed."""
    pages = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            missing = anchor and target in pages and anchor not in pages[target].anchors
            if not target.exists() or missing:
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return found


def main() -> int:
    """Returns 0 where every link leads somewhere."""
    if not (SITE / "index.html").exists():
        print(f"there is no {SITE}: run python -m docs.build first")
        return 1
    lines = broken(SITE)
    print("\n".join(lines) or "every local link leads somewhere")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
