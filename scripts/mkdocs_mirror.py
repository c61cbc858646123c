"""Shows files of the repository's root as pages of the documentation, so that neither is a copy of the other.

A link that is right from the root is wrong from a page: links below docs/ lose that prefix, links to another
mirrored file lead to its page, and links to other files of the repository become their path as code.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MIRRORS = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each mirrored file that exists as a generated page."""
    root = Path(config.config_file_path).parent
    for source, page in MIRRORS.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_relinked, text)))
    return files


def _relinked(link: re.Match[str]) -> str:
    target, anchor = link["target"], link["anchor"] or ""
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    if target in MIRRORS:
        return f"[{link['text']}]({MIRRORS[target]}{anchor})"
    if target.startswith("docs/"):
        return f"{link['image']}[{link['text']}]({target.removeprefix('docs/')}{anchor})"
    return link["text"] if link["text"].strip("`") == target else f"{link['text']} (`{target}`)"
