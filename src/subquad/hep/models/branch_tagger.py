"""A tagger that takes the branches of files, with everything between them and the outputs, for export.

The network is the dense form of `subquad.hep.models.dense`, O(P²) per jet.

Axes: B jets, P particles of a padded batch, L particles that the network takes, H features, C classes, T targets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from subquad.hep.data.card import Card
from subquad.hep.data.input_collections import InputCollection, Variable
from subquad.hep.data.layout import InputGroup
from subquad.hep.data.padded_features import angles_from_momenta, jet_features, momentum_features, particle_features
from subquad.hep.data.tensor_expressions import TensorColumns, hypot
from subquad.hep.models.branch_inputs import MASK, columns_of_branches
from subquad.hep.models.dense import DenseTagger, input_names
from subquad.hep.models.trained import TrainedTagger

Given = TypeVar("Given")


class BranchTagger(nn.Module):
    """A tagger with the branches of files as inputs: [B, P] for each branch of particles and [B] for each of jets.

    It computes what reading the files computes: features, selection of at most L particles, and standardization. Jets
    in JetClass's branches may have their particles in any order, and those of highest pT are taken. With a data card,
    the first ones of each collection are taken, and the card's `selection` of jets is not applied.

    Args:
        tagger: The fitted tagger.
        masks: Name of the mask of each branch with several numbers per jet.

    Raises:
        SubquadError: The card reads a column that depends on the name of the file.
    """

    def __init__(self, tagger: TrainedTagger, masks: Mapping[str, str]) -> None:
        super().__init__()
        self.masks = masks
        self.layout, self.names = tagger.layout, input_names(tagger)
        self.dense = DenseTagger(
            tagger.net, targets=tagger.targets, uses_features_as_points=tagger.settings.graph == "features"
        )

    def forward(
        self, branches: Mapping[str, Tensor]
    ) -> Float[Tensor, "B C"] | tuple[Float[Tensor, "B C"], Float[Tensor, "B T"]]:
        """Return the probabilities of the classes, and with regression targets their predictions.

        `branches` also holds the masks.
        """
        card = self.layout.card
        inputs = self._of_jetclass(branches, branches[MASK] != 0) if card is None else self._of_card(card, branches)
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

    def _of_card(self, card: Card, branches: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
        layout = self.layout
        columns = columns_of_branches(card, branches, self.masks)
        collections = [_Entries(collection, columns) for collection in card.inputs]
        kept = torch.cat([one.kept for one in collections], 1)

        def table(role: Literal["points", "vectors"]) -> Float[Tensor, "B L H"]:
            return torch.cat([one.table(getattr(one.collection, role)) for one in collections], 1)

        def momenta() -> Float[Tensor, "B L 4"]:
            # of the first collection, as when files are read
            return collections[0].table(card.vectors)

        def of_group(group: InputGroup, x: Float[Tensor, "B L H"]) -> Float[Tensor, "B H L"]:
            x = x if group.standardizer is None else group.standardizer(x)
            is_own = _has_feature(collections) if group is layout.features else kept[..., None]
            return torch.where(is_own, x, 0.0).mT

        def points() -> Float[Tensor, "B H L"]:
            x = table("points") if card.points else angles_from_momenta(momenta(), kept)
            return of_group(layout.points, x)

        def of_jets() -> Tensor:
            if layout.has_jetclass_features:
                numbers: Any = _Values(columns)
                return jet_features(numbers, _given(columns["part_px"].mask), layout.jet_features)
            if layout.vectors is not None:
                return momentum_features(momenta(), collections[0].kept)
            x = _features(collections)
            is_own = _has_feature(collections).expand(x.shape)
            # the logarithm of 0 must not make the mean infinite
            total = torch.where(is_own & (x.abs() != torch.inf), x, 0.0).double().sum(1)
            counts, size = is_own.double().sum(1), kept.double().sum(1, keepdim=True)
            if len(collections) > 1:
                # those that say which collection an entry belongs to stand for its fraction of all entries
                counts = torch.cat([counts[:, : -len(collections)], size.expand(-1, len(collections))], 1)
            return torch.cat([size, total / counts.clamp(min=1)], 1).float()

        return {
            "pf_points": points,
            "pf_features": lambda: of_group(layout.features, _features(collections)),
            "pf_vectors": lambda: of_group(_given(layout.vectors), table("vectors")),
            "pf_mask": kept[:, None].float,
            "jet_features": lambda: self._standardized(of_jets()),
        }

    def _standardized(self, x: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
        standardizer = self.layout.jet_standardizer
        assert standardizer is not None
        return standardizer(x)


def _given(value: Given | None) -> Given:
    assert value is not None
    return value


class _Values(TensorColumns):
    """The numbers of columns without their masks."""

    def __init__(self, columns: TensorColumns) -> None:
        self._columns = columns

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name].values


class _Entries:
    """The first entries of one collection of padded jets, as many as the card says."""

    def __init__(self, collection: InputCollection, columns: TensorColumns) -> None:
        self.collection, self._columns = collection, columns
        mask = _given(columns[collection.columns[0]].mask)
        self._count: Any = torch.sym_min(mask.shape[1], collection.length)
        self.kept = mask.narrow(1, 0, self._count)
        if collection.mask is not None:
            self.kept = self.kept & (self._column(collection.mask) != 0)

    def _column(self, name: str) -> Float[Tensor, "B L"]:
        value = self._columns[name].values.float().narrow(1, 0, self._count)
        # as when files are read
        return torch.where(torch.isnan(value), 0.0, value)

    def table(self, variables: Sequence[Variable]) -> Float[Tensor, "B L H"]:
        """Return the values of some variables; padding is 0."""
        x = torch.stack([self._column(variable.name) for variable in variables], -1)
        return torch.where(self.kept[..., None], x, 0.0)


def _features(collections: Sequence[_Entries]) -> Float[Tensor, "B L H"]:
    """Return the features of all collections, of several also those that say which entries belong to each."""
    if len(collections) == 1:
        return collections[0].table(collections[0].collection.features)
    sizes, found = [len(one.collection.features) for one in collections], []
    for i, one in enumerate(collections):
        own, is_member = one.table(one.collection.features), one.kept[..., None].float()
        blocks = [own if i == j else own.new_zeros(*own.shape[:2], size) for j, size in enumerate(sizes)]
        members = [is_member if i == j else 0 * is_member for j in range(len(collections))]
        found.append(torch.cat([*blocks, *members], -1))
    return torch.cat(found, 1)


def _has_feature(collections: Sequence[_Entries]) -> Bool[Tensor, "B L H"]:
    """Return where an entry has a feature: real entries have those of their own collection. H may be 1 for all."""
    if len(collections) == 1:
        return collections[0].kept[..., None]
    owners = [i for i, one in enumerate(collections) for _ in one.collection.features] + [*range(len(collections))]
    found = [one.kept[..., None] & torch.tensor([owner == i for owner in owners]) for i, one in enumerate(collections)]
    return torch.cat(found, 1)
