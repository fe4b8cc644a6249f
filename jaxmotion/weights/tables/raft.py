"""RAFT, as the code of its authors names it, with the prefix that training on several devices left."""

from __future__ import annotations

from jaxmotion.weights.checkpoint_format import Format
from jaxmotion.weights.rules import Rule, Transform, conv, under

_SHARED = Transform(lambda a, b: a, lambda x: (x, x))
"""One norm that is registered under two names."""


def _batch_norm(torch: str, path: str) -> tuple[Rule, ...]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return tuple(Rule(f"{torch}.{theirs}", f"{path}/{ours}") for theirs, ours in names.items())


def _shared_norm(first: str, second: str, path: str) -> tuple[Rule, ...]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return tuple(
        Rule((f"{first}.{theirs}", f"{second}.{theirs}"), f"{path}/{ours}", _SHARED) for theirs, ours in names.items()
    )


def _residual(layers: int, *, normed: bool) -> tuple[Rule, ...]:
    rules = [rule for n in range(1, layers + 1) for rule in conv(f"conv{n}", f"layer{n}/conv")]
    rules += conv("downsample.0", "downsample/conv")
    if normed:
        rules += [rule for n in range(1, layers + 1) for rule in _batch_norm(f"norm{n}", f"layer{n}/norm")]
        rules += _shared_norm(f"norm{layers + 1}", "downsample.1", "downsample/norm")
    return tuple(rules)


def _encoder(layers: int, *, normed: bool) -> tuple[Rule, ...]:
    stem = (*conv("conv1", "stem/conv"), *(_batch_norm("norm1", "stem/norm") if normed else ()))
    stages = under("layer{n}.{m}.", "stage{n}_{m}/", _residual(layers, normed=normed))
    return (*stem, *stages, *conv("conv2", "out"))


def _raft(layers: int, gates: tuple[tuple[str, str], ...], *, normed: bool) -> tuple[Rule, ...]:
    update = (
        *conv("encoder.convc{n}", "correlation{n}"),
        *conv("encoder.convf{n}", "flow{n}"),
        *conv("encoder.conv", "motion"),
        *(
            rule
            for theirs, ours in gates
            for gate in "zrq"
            for rule in conv(f"gru.conv{gate}{theirs}", f"{ours}/{gate}")
        ),
        *conv("flow_head.conv{n}", "head{n}"),
    )
    return under(
        "module.",
        "",
        (
            *under("fnet.", "features/", _encoder(layers, normed=False)),
            *under("cnet.", "context/", _encoder(layers, normed=normed)),
            *under("update_block.", "update/", update),
            *conv("update_block.mask.0", "mask1"),
            *conv("update_block.mask.2", "mask2"),
        ),
    )


RAFT_SMALL = _raft(3, (("", "gates1"),), normed=False)
RAFT_LARGE = _raft(2, (("1", "gates1"), ("2", "gates2")), normed=True)
COUNTS = ("*num_batches_tracked",)
"""No parameters: what counts the training of batch norms."""


FORMATS = (
    Format(
        "raft-small",
        "a small RAFT of its authors",
        {"flow": RAFT_SMALL},
        ("module.fnet.layer1.0.conv3.weight", "module.update_block.gru.convz.weight"),
    ),
    Format(
        "raft-large",
        "a RAFT of its authors",
        {"flow": RAFT_LARGE},
        ("module.update_block.mask.0.weight", "module.update_block.gru.convz1.weight"),
        ignored=COUNTS,
    ),
)
