"""Facts of the entry, free of torch."""

from ...modeling.registry import Card, Site

_C = Site(
    "latent", ("unit",), ("context",), "Normal(0, 1)", "context of a unit: what makes its response its own (eq. 1)"
)
_Z = Site("latent", ("row",), ("latent",), "Normal(0, 1)", "state of a row (eq. 1)")
_X = Site("observed", ("row",), ("input",), "", "cheap sensors (eq. 1)")
_Y = Site("partly observed", ("row",), ("target",), "", "target, e.g. total flow, seen on labelled rows (eq. 1)")

CARD = Card(
    name="ssmtl",
    title="A deep latent variable model for semi-supervised multi-unit soft sensing in industrial processes",
    authors="B. Grimstad, K. Løvland, L. S. Imsland, V. Gunnerud",
    year=2024,
    reference="B. Grimstad, K. Løvland, L. S. Imsland, V. Gunnerud: A deep latent variable model for semi-supervised "
    "multi-unit soft sensing in industrial processes, 2024, arXiv:2407.13310",
    version="1",
    summary="Predict a rarely measured quantity of many similar units from cheap sensors, also from unlabelled rows",
    variants={
        "ssmtl": "semi-supervised multi-task: latent state z and context c generate x and y",
        "mtl": "multi-task baseline of appendix A: y from x and c, labelled rows only",
        "ssl-vae": "semi-supervised VAE of figure 5, x <- z -> y: no contexts, all rows of one unit",
        "ml-vae": "multi-level VAE of figure 5, c -> x <- z: inputs only, labels are not used",
    },
    sites={
        "ssmtl": {"c": _C, "z": _Z, "x": _X, "y": _Y},
        "mtl": {"c": _C, "y": _Y},
        "ssl-vae": {"z": _Z, "x": _X, "y": _Y},
        "ml-vae": {"c": _C, "z": _Z, "x": _X},
    },
    guides={
        "paper": "free mean and variance of each unit's context (eq. 11), amortised rows (eq. 12, 13)",
        "mvn": "full covariance of each unit's context",
        "flow": "a spline flow shared by all units: skewed or multimodal contexts",
        "delta": "one point per unit: the most probable context",
        "amortized": "a set encoder reads a unit's rows, so that an unseen unit needs no optimisation",
        "normal": "AutoNormal on the contexts, composed with the amortised rows",
    },
    guides_of={"ssl-vae": ("paper",)},
    datasets={
        "dryer": "real: industrial batch dryer, 71 batches, 9,220 rows, 9 process tags",
        "simulated": "simulated: choke and pipe of appendix B, valves of similar size (unlabelled data help much)",
        "simulated-any-valve": "simulated: the same with valves of any size (unlabelled data help little)",
        "simulated-drift": "simulated: wells that lose pressure while their water cut rises, with the time of rows",
    },
    experiments={
        "dryer": "real data: SSMTL, MTL and trees with five labels per batch",
        "table1": "simulated data: STL, MTL and SSMTL at three ratios of unlabelled to labelled rows",
        "table2": "real data: STL, MTL and SSMTL at three ratios, error over batches with percentiles",
        "figure11": "simulated data: calibration of new units with 1 to 10 labels, in three modes",
        "figure11b": "real data: unseen batches whose labels arrive in time, in three modes, beside trees and MTL",
        "cross-fitted": "real data: one fit, four restarts, Gaussian processes, and a law learned on held-out labels",
        "drift": "simulated data: wells that lose pressure; later rows, with and without a law that knows the time",
        "intervals": "both: coverage and width of the head's, the generative model's and conformal intervals",
        "faults": "both: AUROC of the row log density and of simple monitors against injected sensor faults",
        "guides": "both: every guide with every prior of the contexts",
        "tables": "both: inputs with gaps on the dryer, a log scale of the target on simulated wells",
        "reference": "real data: make the small trained fit that ships with the package",
    },
    limitations=(
        "network weights are point estimates; the posterior is over c, z and the missing y",
        "a fit's own predictive intervals are too narrow with few labels: use pyrozoo.cross_fitted, or conformal",
        "a cross-fitted fit keeps up to 2,000 labels and their inputs, for the Gaussian processes beside it",
        "with alpha > 0 the objective is no ELBO and q(c) is overconfident; c is not identified (it may be rotated)",
        "rows are exchangeable given their unit; real rows follow one another in time",
        "an unseen unit needs calibration (models.ssmtl.calibrate) or the amortised guide, which reads inputs only",
    ),
    identified=("y",),
    calibrated=("c",),
    # mean and standard error of three seeds, from simulation seeds 100 to 105; the contract runs seeds 0, 1, 2
    expected={"mape": (1.66, 0.053, 4.0)},
    golden={
        "ssmtl": -653.8161098228275,
        "mtl": -67.56655369402117,
        "ssl-vae": -648.2281318447289,
        "ml-vae": -422.6488795462375,
    },
)
