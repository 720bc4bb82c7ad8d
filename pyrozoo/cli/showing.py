"""list, show: what is in the zoo."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable

from ..files import one_line
from ..modeling import registry

_MARGIN = 110


def list_entries(arguments: argparse.Namespace) -> int:
    """List the entries of the zoo; one that cannot be loaded is named on standard error."""
    broken = False
    for name in registry.list_models():
        try:
            card = registry.card(name)
        except KeyError as error:
            print(f"pyrozoo: error: {one_line(error)}", file=sys.stderr)
            broken = True
            continue
        print(f"{name}: {card.title} ({card.year})")
        print(_wrapped(card.summary, "    "))
        print(f"    variants: {', '.join(card.variants)}")
    return 2 if broken else 0


def show_command(arguments: argparse.Namespace) -> int:
    """Show the card of an entry."""
    card = registry.card(arguments.name)
    print(f"{card.name}, version {card.version}: {card.title}\n{card.authors} ({card.year})")
    print(f"{card.reference}\n" if card.reference else "")
    print(_wrapped(card.summary))
    _section("Variants (the first is the default)", card.variants.items())
    for variant, sites in _sites(card).items():
        header = ("site", "kind", "plates", "dims", "prior", "meaning")
        rows = [
            (name, s.kind, ", ".join(s.plates) or "-", ", ".join(s.dims) or "-", s.prior or "-", s.meaning)
            for name, s in sites.items()
        ]
        _section(f"Generative sites of {variant}", [header, *rows])
    _section("Guides (the first is the default)", card.guides.items())
    _section("Data sets", card.datasets.items())
    _section("Experiments (`pyrozoo reproduce`)", card.experiments.items())
    expected = [(k, f"{value:g} ± {k_se:g} × {se:g}") for k, (value, se, k_se) in card.expected.items()]
    _section("Expected on simulated data (mean ± k × standard error)", expected)
    _section("The same in every restart", [(site,) for site in card.identified])
    if card.limitations:
        print("\nLimitations")
        print("\n".join(_wrapped(f"- {text}", "  ", "    ") for text in card.limitations))
    return 0


def _sites(card: registry.Card) -> dict[str, dict[str, registry.Site]]:
    """Sites of every variant, of the card or else of the models, which have to be imported for them."""
    if card.sites:
        return card.sites
    from ..contract.subject import Subject, guides_of

    return {variant: Subject(card.name, variant, guides_of(card, variant)[0]).sites for variant in card.variants}


def _section(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a titled, aligned table, or nothing if it is empty."""
    rows = list(rows)
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        print(f"\n{title}")
        print("\n".join(f"  {line}".rstrip() for line in lines))


def _wrapped(text: str, indent: str = "", later: str | None = None) -> str:
    later = indent if later is None else later
    return textwrap.fill(text, _MARGIN, initial_indent=indent, subsequent_indent=later)
