"""What people are told about a definition: who owns it, its tags, what it is. No value depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trilane.errors import DefinitionError

__all__ = ["About"]


@dataclass(frozen=True, slots=True)
class About:
    """`owner`: whom to ask; `tags`: words to find it by, such as `"team=payments"`; `description`: a sentence."""

    owner: str = ""
    tags: tuple[str, ...] = ()
    description: str = ""

    @staticmethod
    def of(owner: str, tags: Sequence[str], description: str, *, where: str, document: str | None = None) -> About:
        """Checked facts; without a description the first paragraph of `document`, a docstring, describes."""
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise DefinitionError(f"tags={tags!r} is no list of texts", where=where, remedy='Write tags=["team=shop"]')
        first = (document or "").strip().split("\n\n")[0]
        return About(owner, tuple(tags), description or " ".join(first.split()))

    def spec(self) -> dict[str, object]:
        """As plain facts."""
        return {"owner": self.owner, "tags": list(self.tags), "description": self.description}
