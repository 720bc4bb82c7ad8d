"""Facts of the entry, free of torch."""

from ...modeling.registry import Card, Site

_TASKS = ("anxiety", "emotion", "stress")
_A = Site("latent", ("window",), ("latent",), "Normal(0, 1)", "latent of a task, drawn to its prior (eq. 12, 13)")
_A_GIVEN_Y = Site(
    "latent", ("window",), ("latent",), "Normal(m[y], 1)", "latent of a task, about the place of its class"
)
_Y = Site(
    "partly observed", ("window",), (), "", "class of a task, seen on windows of the task's own data set (eq. 14)"
)
_Y_SUMMED = Site("enumerated", ("window",), (), "", "class of a task, summed out where it is not known")
_A_GIVEN_Y_D = Site(
    "latent", ("window",), ("latent",), "Normal(m[y] + delta[d], 1)", "latent of a task, about its class in the domain"
)
_DOMAIN = Site(
    "enumerated", ("window",), (), "", "task whose situation a window belongs to, summed out where no label tells"
)
_F = Site("observed", ("window",), ("summary",), "", "summaries of the signals, explained by all latents together")

CARD = Card(
    name="m3sense",
    title="M3Sense: Affect-Agnostic Multitask Representation Learning Using Multimodal Wearable Sensors",
    authors="S. Samyoun, M. M. Islam, T. Iqbal, J. Stankovic",
    year=2022,
    version="1",
    summary="Anxiety, emotion and stress from wrist sensors by one model, also from unlabelled recordings",
    variants={
        "m3sense": "the paper: labels from the representation, beside a latent per task drawn to its prior",
        "latent": "labels from the latent: an information bottleneck, whose alignment stays alive",
        "generative": "classes have places in the latent space; missing labels are summed out and inform",
        "generative-domain": "as generative; classes shift with the task whose situation a window belongs to",
        "unaligned": "without alignment: multitask, or with one task a single-task baseline",
    },
    sites={
        "m3sense": {**{f"a_{task}": _A for task in _TASKS}, **{f"y_{task}": _Y for task in _TASKS}},
        "latent": {**{f"a_{task}": _A for task in _TASKS}, **{f"y_{task}": _Y for task in _TASKS}},
        "generative": {
            **{f"a_{task}": _A_GIVEN_Y for task in _TASKS},
            **{f"y_{task}": _Y_SUMMED for task in _TASKS},
            "f": _F,
        },
        "generative-domain": {
            "domain": _DOMAIN,
            **{f"a_{task}": _A_GIVEN_Y_D for task in _TASKS},
            **{f"y_{task}": _Y_SUMMED for task in _TASKS},
            "f": _F,
        },
        "unaligned": {f"y_{task}": _Y for task in _TASKS},
    },
    guides={
        "paper": "q(a_T | X_T): a diagonal normal per task (eq. 12)",
        "lowrank": "normal with a covariance of low rank beside the diagonal",
        "delta": "a point per window and task",
        "none": "of the unaligned model, which has no latents",
    },
    guides_of={
        "m3sense": ("paper", "lowrank", "delta"),
        "latent": ("paper", "lowrank", "delta"),
        "generative": ("paper", "lowrank", "delta"),
        "generative-domain": ("paper", "lowrank", "delta"),
        "unaligned": ("none",),
    },
    datasets={"simulated": "simulated: five sets of wrist signals, three labelled for one task each, two unlabelled"},
    experiments={
        "table2": "simulated data, or --data: classical, single-task and multitask models",
        "table4": "simulated data, or --data: combinations of tasks",
        "table5": "simulated data, or --data: with and without alignment, with and without unlabelled windows",
        "table6": "parameters at the paper's sizes",
        "table7": "time for all tasks, by one model and by three",
        "figure7": "simulated data, or --data: a task that was not in training, from few labels",
        "figure8": "simulated data, or --data: every subset of the modalities",
        "stress-predict": "--data, real recordings: rest and stress, people left out in turn, beside the clock",
        "clock": "--data, real recordings: what the time in the session tells of stress, alone and beside the signals",
        "techniques": "simulated data, or --data: do pre-training, augmentation, restarts or ranks help?",
        "alignment": "simulated data: the alignment term over training",
        "calibration": "simulated data: are the class probabilities right?",
        "reference": "simulated data: make the small trained fit that ships with the package",
    },
    limitations=(
        "no published number is reproduced: the paper's split has the same people in training and test",
        "tables and figures are of simulated signals unless --data names real ones, which users get from their sources",
        "network weights are point estimates; the posterior is over the latents of the tasks",
        "in the paper's variant nothing reads the latents: their posterior becomes the prior, and aligns nothing",
        "with gamma other than 1 the objective is no ELBO",
    ),
    # mean, and standard error of three seeds, from simulation seeds 100 to 111; the contract runs seeds 0, 1, 2
    expected={"anxiety": (0.681, 0.037, 3.0), "stress": (0.773, 0.039, 3.0)},
    golden={
        "m3sense": -120.42243637872264,
        "latent": -120.39086574790812,
        "generative": -939.9428688482186,
        "generative-domain": -953.477166705511,
        "unaligned": -9.849363403497115,
    },
    reference="S. Samyoun, M. M. Islam, T. Iqbal, J. Stankovic, M3Sense: Affect-Agnostic Multitask Representation "
    "Learning Using Multimodal Wearable Sensors, Proceedings of the ACM on Interactive, Mobile, Wearable and "
    "Ubiquitous Technologies 6(2), article 73, 2022, doi:10.1145/3534600",
    split="subject",
)
