"""A tagger that takes the branches of files, with everything between them and the outputs, for export.

The network is the dense form of `subquad.hep.models.dense`, O(P²) per jet.

Axes: B jets, P particles of a padded batch, L particles that the network takes, H features, C classes, T targets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.errors import SubquadError, require
from subquad.hep.data.card import Card
from subquad.hep.data.layout import ANGLES_FROM_MOMENTA, InputGroup
from subquad.hep.data.padded_features import angles_from_momenta, jet_features, momentum_features, particle_features
from subquad.hep.data.tensor_expressions import TensorColumns
from subquad.hep.data.tensor_functions import hypot
from subquad.hep.models.dense import DenseTagger, input_names
from subquad.hep.models.trained import TrainedTagger

__all__ = ["MASK", "BranchTagger", "branches_read", "padded_branches"]

MASK = "particle_mask"
"""Name of the input that is 1 for particles and 0 for padding."""


class BranchTagger(nn.Module):
    """A tagger with the branches of files as inputs: [B, P] for each branch of particles and [B] for each of jets.

    It computes what reading the files computes: features, selection of at most L particles, and standardization. Jets
    in JetClass's branches may have their particles in any order, and those of highest pT are taken. With a data card,
    the first ones are taken, and the card's `selection` of jets is not applied.

    Args:
        tagger: The fitted tagger.

    Raises:
        SubquadError: The card reads a column that depends on the name of the file.
    """

    def __init__(self, tagger: TrainedTagger) -> None:
        super().__init__()
        self.layout, self.names = tagger.layout, input_names(tagger)
        self.dense = DenseTagger(
            tagger.net, targets=tagger.targets, uses_features_as_points=tagger.settings.graph == "features"
        )

    def forward(
        self, branches: Mapping[str, Tensor]
    ) -> Float[Tensor, "B C"] | tuple[Float[Tensor, "B C"], Float[Tensor, "B T"]]:
        """Return the probabilities of the classes, and with regression targets their predictions.

        `branches` also holds the mask, under the name `MASK`.
        """
        mask = branches[MASK] != 0
        card = self.layout.card
        inputs = self._of_jetclass(branches, mask) if card is None else self._of_card(card, branches, mask)
        return self.dense(**{name: inputs[name]() for name in self.names})

    def _of_jetclass(self, branches: Mapping[str, Tensor], mask: Bool[Tensor, "B P"]) -> dict[str, Callable[[], Any]]:
        layout = self.layout
        pt = hypot(branches["part_px"], branches["part_py"])
        count: Any = torch.sym_min(mask.shape[1], layout.max_particles)
        order = torch.where(mask, pt, -1.0).topk(count, dim=1).indices
        kept = mask.gather(1, order)

        def hardest(x: Float[Tensor, "B P H"]) -> Float[Tensor, "B H L"]:
            x = x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
            return torch.where(kept[..., None], x, 0.0).mT

        def stacked(group: InputGroup) -> Float[Tensor, "B H L"]:
            return hardest(torch.stack([branches[f"part_{name}"] for name in group.names], -1))

        return {
            "pf_points": lambda: stacked(layout.points),
            "pf_features": lambda: hardest(particle_features(branches, layout.features.names)),
            "pf_vectors": lambda: stacked(_given(layout.vectors)),
            "pf_mask": kept[:, None].float,
            "jet_features": lambda: self._standardized(jet_features(branches, mask, layout.jet_features)),
        }

    def _of_card(
        self, card: Card, branches: Mapping[str, Tensor], mask: Bool[Tensor, "B P"]
    ) -> dict[str, Callable[[], Any]]:
        layout = self.layout
        columns = TensorColumns(card.new_variables, _Renamed(card, branches), mask)
        count: Any = torch.sym_min(mask.shape[1], layout.max_particles)

        def first(name: str) -> Float[Tensor, "B L"]:
            value = columns[name]
            if not isinstance(value, Tensor) or value.ndim != 2:
                raise SubquadError(f"{card.name}: inputs: {name} has one number per jet; it must have one per particle")
            value = value.float().narrow(1, 0, count)
            # as when files are read
            return torch.where(torch.isnan(value), 0.0, value)

        kept = mask.narrow(1, 0, count)
        for name in card.masks():
            kept = kept & (first(name) != 0)

        def table(names: Sequence[str]) -> Float[Tensor, "B L H"]:
            if tuple(names) == ANGLES_FROM_MOMENTA:
                return angles_from_momenta(momenta(), kept)
            return torch.where(kept[..., None], torch.stack([first(name) for name in names], -1), 0.0)

        def momenta() -> Float[Tensor, "B L 4"]:
            return table(_given(layout.vectors).names)

        def of_group(group: InputGroup) -> Float[Tensor, "B H L"]:
            x = table(group.names)
            x = x if group.standardizer is None else group.standardizer(x)
            return torch.where(kept[..., None], x, 0.0).mT

        def of_jets() -> Tensor:
            if layout.has_jetclass_features:
                return jet_features(columns, mask, layout.jet_features)
            if layout.vectors is not None:
                return momentum_features(momenta(), kept)
            size = kept.double().sum(1)
            x = table(layout.features.names)
            # the logarithm of 0 must not make the mean infinite
            total = torch.where(x.abs() == torch.inf, 0.0, x).double().sum(1)
            return torch.cat([size[:, None], total / size.clamp(min=1)[:, None]], 1).float()

        return {
            "pf_points": lambda: of_group(layout.points),
            "pf_features": lambda: of_group(layout.features),
            "pf_vectors": lambda: of_group(_given(layout.vectors)),
            "pf_mask": kept[:, None].float,
            "jet_features": lambda: self._standardized(of_jets()),
        }

    def _standardized(self, x: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        standardizer = self.layout.jet_standardizer
        assert standardizer is not None
        return standardizer(x)


def _given(group: InputGroup | None) -> InputGroup:
    assert group is not None
    return group


class _Renamed(Mapping[str, Tensor]):
    """Branches by the names of a card's columns."""

    def __init__(self, card: Card, branches: Mapping[str, Tensor]) -> None:
        self._card, self._branches = card, branches

    def __getitem__(self, name: str) -> Tensor:
        if name in self._card.file_magic:
            raise SubquadError(
                f"{self._card.name}: file_magic: {name} depends on the name of the file, which is no input of the "
                "exported network; export with --inputs weaver"
            )
        return self._branches[self._card.branch(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._branches)

    def __len__(self) -> int:
        return len(self._branches)


class _Recorded(Mapping[str, Tensor]):
    """Notes which of its entries are read."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self._given, self.read = given, dict[str, None]()

    def __getitem__(self, name: str) -> Tensor:
        self.read[name] = None
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def branches_read(module: BranchTagger, given: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the inputs that the module reads, branches of particles first and the mask last.

    Args:
        module: The tagger.
        given: Some jets, with all branches of their file.
    """
    recorded = _Recorded(given)
    with torch.no_grad():
        module(recorded)
    read = [name for name in recorded.read if name != MASK]
    return [*sorted(read, key=lambda name: -given[name].ndim), MASK]


def padded_branches(columns: Mapping[str, Any], *, particles: int = 0) -> dict[str, Tensor]:
    """Return [J, P] float32 for each branch of particles, [J] for each of jets, and the mask.

    Args:
        columns: Awkward arrays of some jets.
        particles: Smallest P; it is at least the largest number of particles of the jets.
    """
    ak = require("awkward", extra="hep")
    lists = {name: column for name, column in columns.items() if column.ndim == 2}
    lengths = ak.to_numpy(ak.num(next(iter(lists.values())), axis=1)).astype(np.int64)
    places = max(particles, int(lengths.max(initial=1)))
    is_particle = np.arange(places) < lengths[:, None]
    found = {MASK: torch.from_numpy(is_particle.astype(np.float32))}
    for name, column in columns.items():
        if name not in lists:
            found[name] = torch.from_numpy(ak.to_numpy(column).astype(np.float32))
            continue
        values = np.zeros(is_particle.shape, np.float32)
        values[is_particle] = ak.to_numpy(ak.flatten(column, axis=1))
        found[name] = torch.from_numpy(values)
    return found
