import dataclasses
from types import SimpleNamespace

import entry_broken as broken
import entry_events
import entry_mixture
import pytest
import torch

import pyrozoo
from pyrozoo import contract
from pyrozoo.contract import Subject, inference
from pyrozoo.contract.fits import same_after_saving
from pyrozoo.modeling import registry
from pyrozoo.models.medication import guides as medication_guides
from pyrozoo.models.medication.guides import MaximumLikelihood

CARDS = [*map(pyrozoo.card, registry.BUILT_IN), entry_mixture.CARD, entry_events.CARD]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class FewIterations(MaximumLikelihood):
    """The guide ``ml`` by a tenth of its iterations, which no clause counts: they took a third of all clauses' time."""

    def __init__(self, model):
        super().__init__(model, steps=20)


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    monkeypatch.setattr(medication_guides, "FOLD_STEPS", 3)
    monkeypatch.setattr(inference, "N_DRAWS", 2)  # as few as can be mistaken for each other
    monkeypatch.setitem(medication_guides.GUIDES, "ml", FewIterations)


OF_FITS = ("C9", "C10")  # what they look at is decided by the fit and the guide, not by the variant
OF_MODELS = ("C13", "C14", "C15")  # what they look at is the same under other priors, whose densities C3 to C5 look at


def cases():
    """Every clause on every subject; by default on a few of them, with each variant, each guide and a swapped prior."""
    for card in CARDS:
        few = contract.representatives(card)
        once = {subject.guide: subject for subject in reversed(few)}.values()
        for check in contract.CHECKS.values():
            for subject in contract.scoped(check, card):
                slow = check.slow or check.code == "C11" or subject not in (once if check.code in OF_FITS else few)
                slow = slow or (check.code in OF_MODELS and subject.swapped)
                name = f"{check.code}-{contract.label(check, subject)}"
                yield pytest.param(check, subject, id=name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("check", "subject"), list(cases()))
def test_contract(check, subject, toys):
    try:
        check.run(subject)
    except contract.Skipped as reason:
        pytest.skip(str(reason))


def test_a_few_saved_fits_of_every_entry_draw_the_same_in_a_new_process(toys):
    same_after_saving(subject for card in CARDS for subject in contract.representatives(card))


def test_the_few_have_every_variant_guide_and_scope_and_a_swapped_prior():
    for card in CARDS:
        few = contract.representatives(card)
        assert {subject.variant for subject in few} == set(card.variants)
        assert {subject.guide for subject in few} == set(card.guides)
        assert [subject.swapped for subject in few].count(True) == 1
        assert all(contract.scoped(check, card)[0] in few for check in contract.CHECKS.values())


# ---------------------------------------------------------------- the contract can fail
def _site(module, variant, name, **facts):
    sites = module.CARD.sites[variant]
    return {"sites": {variant: sites | {name: dataclasses.replace(sites[name], **facts)}}}


MISTAKES = {
    "card with a tensor": ("C1", entry_events, {}, {"expected": {"rate": torch.ones(3)}}, "something else than text"),
    "wrong plate": ("C2", entry_mixture, {}, _site(entry_mixture, "mixture", "b", plates=("row",)), "plates is"),
    "wrong kind": ("C2", entry_mixture, {}, _site(entry_mixture, "mixture", "k", kind="latent"), "kind is latent"),
    "wrong prior": ("C2", entry_events, {}, _site(entry_events, "events", "rate", prior="Gamma(2, 2)"), "not the"),
    "guide not on card": ("C2", entry_events, {}, {"guides": {"conjugate": ""}}, "make them equal"),
    "latent forgotten": ("C3", entry_events, {"conjugate": broken.NoShare}, {}, "does not sample .'share'"),
    "wrong support": ("C3", entry_events, {"conjugate": broken.WrongSupport}, {}, "'rate': support"),
    "unused parameter": ("C4", entry_mixture, {"mixture": broken.Unused}, {}, "extra: no gradient"),
    "plate sized by batch": ("C5", entry_mixture, {"mixture": broken.BatchSizedPlate}, {}, "on the full batch it is"),
    "plate with own indices": ("C6", entry_mixture, {"mixture": broken.OwnIndices}, {}, "runs over other indices"),
    "solve makes it worse": ("C7", entry_events, {"conjugate": broken.Worse}, {}, r"solve\(\) takes the ELBO"),
    "wrong expectation": ("C8", entry_events, {}, {"expected": {"rate": (2.5, 0.02, 4), "share": (0, 1, 1)}}, "2.5"),
    "unseeded noise": ("C9", entry_mixture, {"mean-field": broken.Unseeded}, {}, "one seed differ"),
    "shared tensor": ("C10", entry_mixture, {"mean-field": broken.Shared}, {}, "a second fit changes"),
    "priors ignored": ("C12", entry_mixture, {"mixture": broken.DeafToPriors}, {}, "changes the log probability of"),
    "random density": ("C13", entry_mixture, {"mixture": broken.RandomDensity}, {}, "changes from call to call"),
    "rows not independent": ("C14", entry_mixture, {"mixture": broken.CrossedRows}, {}, "one by one"),
    "many draws at once": ("C18", entry_events, {"events": broken.OneDraw}, {}, "site 'duration' .* two draws at once"),
    "masks ignored": ("C19", entry_mixture, {"mixture": broken.NoMask}, {}, "'k' in rows where it is hidden"),
    "density changed": ("C16", entry_mixture, {"mixture": broken.OtherScale}, {}, "the log density changed"),
    "no golden value": ("C16", entry_mixture, {}, {"golden": {}}, r"add golden=.'mixture': -47"),
}  # fmt: skip


def _parts(module, parts):
    """Parts of a toy entry, some of them replaced."""
    tables = {
        table: {name: parts.get(name, part) for name, part in getattr(module, table).items()}
        for table in ("VARIANTS", "GUIDES")
    }
    return SimpleNamespace(**{**vars(module), **tables})


@pytest.fixture
def mistaken():
    """Register a toy entry with a mistake; its first variant and guide are checked."""

    def register(module, parts, facts):
        card = dataclasses.replace(module.CARD, name="mistaken", **facts)
        pyrozoo.register(card, parts if isinstance(parts, str) else _parts(module, parts))
        return Subject("mistaken", next(iter(card.variants)), next(iter(card.guides)))

    yield register
    pyrozoo.unregister("mistaken")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_contract_finds(mistake, mistaken):
    code, module, parts, facts, message = MISTAKES[mistake]
    with pytest.raises(AssertionError, match=message):
        contract.CHECKS[code].run(mistaken(module, parts, facts))


def test_the_contract_finds_state_that_is_not_saved(mistaken):
    subject = mistaken(entry_events, "entry_broken", {"guides": {"conjugate": ""}})
    with pytest.raises(AssertionError, match="draws other values"):
        contract.CHECKS["C11"].run(subject)


def test_the_contract_finds_a_guide_that_plain_pyro_cannot_call(mistaken):
    subject = mistaken(entry_mixture, {"mean-field": broken.NeedsH}, {})
    with pytest.raises(TypeError, match="'h'"):
        contract.CHECKS["C15"].run(subject)


# ---------------------------------------------------------------- running it
def test_all_clauses_are_there():
    assert list(contract.CHECKS) == [f"C{i}" for i in range(1, 23)]


def test_recovery_of_the_closed_form(toys):
    contract.CHECKS["C8"].run(Subject("toy-events", "events", "conjugate"))


def test_check_reports_every_clause(mistaken):
    subject = mistaken(entry_mixture, {"mixture": broken.Unused}, {})
    results = list(contract.check(subject.name, fast=True))
    failed = {result.code for result in results if not result.ok}
    skipped = {result.code for result in results if result.skipped}
    assert failed == {"C4"}  # an unused parameter changes nothing else
    assert skipped == {"C11"}  # a new process cannot import a namespace
    assert {result.code for result in results} == set(contract.CHECKS) - {"C8", "C17"}
    assert all(result.message for result in results if result.skipped or not result.ok)


def test_check_survives_an_entry_that_raises(mistaken):
    subject = mistaken(entry_mixture, {"mean-field": broken.NeedsH}, {})
    results = list(contract.check(subject.name, only=["C15", "C16"]))
    assert any(result.code == "C15" and "TypeError" in result.message for result in results if not result.ok)
    assert results[-1].code == "C16"


def test_check_of_some_clauses_and_subjects(toys, mistaken):
    both = [result.subject for result in contract.check("toy-mixture", only=["C6", "C2"])]
    assert both == ["toy-mixture/mixture", "toy-mixture/mixture"]
    every = [result.subject for result in contract.check("toy-mixture", only=["C3"])]
    fast = [result.subject for result in contract.check("toy-mixture", only=["C3"], fast=True)]
    assert len(every) > len(fast) == 1
    assert fast == every[:1]
    assert [result.code for result in contract.check("toy-events", only=["C8"])] == ["C8"]  # slow, but named

    subject = mistaken(entry_mixture, {"mixture": broken.Unused}, {})
    results = list(contract.check(subject.name, only=["C2", "C4", "C6"], stop=True))
    assert [(result.code, result.ok) for result in results] == [("C2", True), ("C4", False)]
    with pytest.raises(ValueError, match="no check 'C99'"):
        next(contract.check("toy-mixture", only=["C99"]))


def test_a_constant_in_single_precision_is_named_as_the_likely_cause(mistaken):
    subject = mistaken(entry_mixture, {"mixture": broken.SingleConstant}, {})
    (result,) = contract.check(subject.name, only=["C4"], fast=True)
    assert not result.ok
    assert "a tensor that was made when a module was imported, in single precision" in result.message


def test_unknown_entry():
    with pytest.raises(KeyError, match="no model 'nothing'"):
        next(contract.check("nothing"))


def test_a_card_without_sites_has_those_of_its_models(mistaken):
    found = mistaken(entry_mixture, {}, {"sites": {}}).sites
    said = entry_mixture.CARD.sites["mixture"]
    assert {name: (site.kind, site.plates, site.dims, site.prior) for name, site in found.items()} == {
        name: (site.kind, site.plates, site.dims, site.prior) for name, site in said.items()
    }
    contract.CHECKS["C2"].run(Subject("mistaken", "mixture", "mean-field"))


def test_priors_of_a_card_without_sites(mistaken):
    found = mistaken(entry_events, {}, {"sites": {}}).sites
    assert [site.prior for site in found.values()] == ["Gamma with arrays", "Dirichlet with arrays", "", ""]
    assert found["rate"].dims == ("type",)
