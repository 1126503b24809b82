import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subquad.bio.analysis.audit import count_unseen
from subquad.bio.data.dataset import PARTS, Inputs, InputSchema, Target
from subquad.bio.data.table import Table
from subquad.bio.settings import FitSettings
from subquad.bio.splits import leakage
from subquad.bio.splits.clusters import cluster
from subquad.bio.splits.holdout import Mutations, hold_out_random
from subquad.bio.splits.near_duplicates import (
    are_reverse_complements,
    equal_sequences,
    within_one_indel,
    within_substitutions,
)
from subquad.bio.splits.split import make_split
from subquad.bio.splits.split_column import find_split
from subquad.errors import SubquadError

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def inputs(sequences):
    length = max(map(len, sequences))
    codes = np.full((len(sequences), length), -1, dtype=np.int8)
    for row, sequence in enumerate(sequences):
        codes[row, : len(sequence)] = [LETTERS.index(letter) for letter in sequence]
    return Inputs(codes=codes, letters=20, covariates=np.zeros((len(codes), 0)), is_aligned=(codes >= 0).all())


def table(sequences, *, y=None, classes=(), mutants=None, groups=None, **columns):
    y = np.arange(len(sequences), dtype=float)[:, None] if y is None else np.asarray(y)
    target = Target(task_type="binary" if classes else "regression", y=y, classes=classes)
    known = ~np.isnan(y).any(1) if y.ndim == 2 else np.ones(len(y), dtype=bool)
    return Table(
        path=Path("assay.csv"),
        frame=pd.DataFrame({"sequence": sequences, **columns}, dtype=str),
        inputs=inputs(sequences),
        target=target,
        sequences=list(sequences),
        mutants=mutants,
        wild_type=None,
        weight=None,
        groups=None if groups is None else np.asarray(groups, dtype=object),
        has_target=known,
        schema=InputSchema(alphabet="protein", is_aligned=False, length=None),
        remarks=[],
    )


def random_sequences(rows, length=17, seed=0):
    codes = np.random.default_rng(seed).integers(0, 20, (rows, length))
    return ["".join(LETTERS[k] for k in row) for row in codes]


def variants(rows=499, length=31, most=3, seed=0):
    """Variants of a protein of alanines with 0 to `most` mutations."""
    random, sequences, mutants = np.random.default_rng(seed), [], []
    for row in range(rows):
        places = np.sort(random.choice(length, row % (most + 1), replace=False))
        letters = ["A"] * length
        for place in places:
            letters[place] = LETTERS[random.integers(1, 20)]
        sequences.append("".join(letters))
        mutants.append(":".join(f"A{place + 1}{letters[place]}" for place in places))
    return table(sequences, mutants=mutants)


def positions(own, rows):
    return {int(change[1:-1]) for row in rows for change in own.mutants[row].split(":") if change}


def check(split, rows):
    """No row is in two parts, all parts have rows, and rows rise."""
    together = np.concatenate(list(split.parts.values()))
    assert list(split.parts) == list(PARTS)
    assert len(np.unique(together)) == len(together) <= rows
    assert all(len(part) and (np.diff(part) > 0).all() for part in split.parts.values())


def test_random_rows_keep_equal_sequences_together_and_the_proportions_of_the_classes():
    sequences = random_sequences(307)
    sequences += sequences[:101]
    y = np.tile([0, 0, 0, 1], 102)
    y[307:] = y[:101]
    own = table(sequences, y=y, classes=("no", "yes"))
    split = make_split(own, FitSettings(), seed=3)
    check(split, 408)
    assert split.leakage.exact == split.leakage.validation_exact == split.leakage.unused == 0
    assert split.leakage.replicated == 101
    assert len(split.parts["test"]) == pytest.approx(0.15 * 408, abs=15)
    assert y[split.parts["test"]].mean() == pytest.approx(y.mean(), abs=0.06)
    assert make_split(own, FitSettings(), seed=3).parts["test"].tolist() == split.parts["test"].tolist()
    assert make_split(own, FitSettings(), seed=5).parts["test"].tolist() != split.parts["test"].tolist()
    assert split.how.startswith("random rows, equal sequences together; ")
    assert f"{len(split.parts['test'])} test" in split.how


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("fractions", [(0.15, 0.1), (0.5, 0.3)])
def test_a_class_of_three_rows_has_one_in_each_part(seed, fractions):
    y = np.zeros(31, dtype=int)
    y[[3, 11, 29]] = 1
    settings = FitSettings(test_fraction=fractions[0], validation_fraction=fractions[1])
    split = make_split(table(random_sequences(31), y=y, classes=("no", "yes")), settings, seed=seed)
    check(split, 31)
    assert [y[rows].sum() for rows in split.parts.values()] == [1, 1, 1]
    assert split.leakage.unused == 0


def test_a_rare_class_moves_no_row_of_a_split_that_a_column_gave():
    y, words = np.zeros(31, dtype=int), ["train"] * 23 + ["test"] * 8
    y[:2] = 1
    own = table(random_sequences(31), y=y, classes=("no", "yes"), split=words)
    hold = hold_out_random(equal_sequences(own.inputs), y)
    for seed in range(7):
        drawn, _ = hold(np.arange(23), fraction=0.1, fold=None, random=np.random.default_rng(seed))
        assert make_split(own, FitSettings(), seed=seed).parts["validation"].tolist() == drawn.tolist()


def test_rows_without_a_measurement_are_in_no_part():
    y = np.arange(101.0)[:, None]
    y[::7] = np.nan
    split = make_split(table(random_sequences(101), y=y), FitSettings(), seed=0)
    check(split, 86)
    assert not np.isin(np.arange(0, 101, 7), np.concatenate(list(split.parts.values()))).any()


@pytest.mark.long
@pytest.mark.parametrize("way", ["random", "group", "homology", "mutations", "position", "modulo", "contiguous"])
def test_the_folds_of_a_cross_validation_test_each_row_at_most_once(way):
    own = variants(most=1 if way in ("modulo", "contiguous", "position") else 3)
    if way in ("group", "homology"):
        kinds = random_sequences(11, length=43)
        rng = np.random.default_rng(1)
        sequences = []
        for k in range(211):
            letters = list(kinds[k % 11])
            letters[rng.integers(43)] = LETTERS[rng.integers(20)]
            sequences.append("".join(letters))
        own = table(sequences, groups=[f"gene {k % 11}" for k in range(211)])
    settings = FitSettings(split_by=way, group="gene" if way == "group" else None)
    splits = [make_split(own, replace(settings, folds=3, fold=fold), seed=7) for fold in range(3)]
    assert len(splits) == 3
    for fold, split in enumerate(splits):
        check(split, len(own.sequences))
        assert f"fold {fold} of 3" in split.how
    tested = np.concatenate([split.parts["test"] for split in splits])
    assert len(np.unique(tested)) == len(tested)
    if way in ("random", "group", "homology"):
        assert len(tested) == len(own.sequences)


@pytest.mark.parametrize("fold", [None, 1])
def test_groups_stay_together(fold):
    groups = np.random.default_rng(0).integers(0, 13, 211).astype(str)
    own = table(random_sequences(211), groups=groups)
    split = make_split(own, FitSettings(split_by="group", group="gene", fold=fold), seed=1)
    check(split, 211)
    parts = [set(groups[rows]) for rows in split.parts.values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert "whole groups of 'gene' (13)" in split.how


@pytest.mark.slow
@pytest.mark.long
def test_clusters_of_similar_proteins_stay_together():
    rng = np.random.default_rng(0)
    kinds, sequences, family = random_sequences(17, length=53), [], []
    for k in range(163):
        letters = list(kinds[k % 17])
        for place in rng.choice(53, 7, replace=False):
            letters[place] = LETTERS[rng.integers(20)]
        sequences.append("".join(letters)[: 47 + k % 7])
        family.append(k % 17)
    family = np.array(family)
    split = make_split(table(sequences), FitSettings(split_by="homology", identity=0.6), seed=0)
    check(split, 163)
    parts = [set(family[rows]) for rows in split.parts.values()]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert "MMseqs2 clusters at 60% identity (17)" in split.how


def test_short_peptides_and_guides_are_compared_letter_by_letter():
    labels, words = cluster(["ACDEFGHI", "ACDEFGHK", "CDEFGHI", "WWWWYYYY", "WWWWYYY", "MMMM"], 0.7)
    assert [len(set(labels[:3])), len(set(labels[3:5])), len(set(labels))] == [1, 1, 3]
    assert words == "clusters of 6 short sequences compared without gaps at 70% identity"
    guides = ["ACGTACGTACGTACGTACGTAGG", "ACGTACGTACGTACGTACGTTGG", "TTTTTTCCCCCCGGGGGGAATGG"]
    labels, _ = cluster(guides, 0.9, is_nucleotide=True)
    assert labels[0] == labels[1] != labels[2]


def mutated(rng, sequence, letters, most):
    """Return it with up to so many letters replaced, cut at one of its ends, or longer there."""
    changed = list(sequence)
    for place in rng.choice(len(changed), rng.integers(most + 1), replace=False):
        changed[place] = letters[rng.integers(len(letters))]
    changed = "".join(changed)
    end = "".join(rng.choice(list(letters), 3))
    return [changed, changed[3:], changed[:-2], end + changed, changed + end][rng.integers(5)]


def shared(one, other):
    """Return the share of the longer's letters that both have in common, wherever one lies on the other."""
    most = 0
    for shift in range(-len(other) + 1, len(one)):
        start, back = max(shift, 0), max(-shift, 0)
        most = max(most, sum(a == b for a, b in zip(one[start:], other[back:], strict=False)))
    return most / max(len(one), len(other))


@pytest.mark.long
@pytest.mark.parametrize(
    ("letters", "lengths", "identity", "border"), [(LETTERS, (9, 19), 0.6, 14), ("ACGT", (31, 47), 0.8, 40)]
)
def test_a_short_sequence_shares_too_few_letters_with_all_of_other_clusters(letters, lengths, identity, border):
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(13):
        sequences.append("".join(rng.choice(list(letters), rng.integers(*lengths))))
        sequences += [mutated(rng, sequences[-1], letters, 4) for _ in range(11)]
    labels, _ = cluster(sequences, identity, is_nucleotide=letters == "ACGT")
    assert len(np.unique(labels)) > 5
    is_short = np.array([len(sequence) < border for sequence in sequences])
    assert 20 < is_short.sum() < 140
    pairs = [(a, b) for a in range(len(sequences)) for b in range(a) if is_short[a] or is_short[b]]
    across = [shared(sequences[a], sequences[b]) for a, b in pairs if labels[a] != labels[b]]
    assert max(across) < identity
    # and a short one is joined to a long one where it is most of it
    assert any(labels[a] == labels[b] and is_short[a] != is_short[b] for a, b in pairs)


def test_a_chain_of_short_sequences_is_one_cluster_from_end_to_end():
    chain = ["ACDEFGHI", "ACDEFGWW", "ACDEYYWW", "ACKKYYWW", "LLKKYYWW"]
    assert shared(chain[0], chain[-1]) == 0
    assert len(set(cluster([*chain, "MMMMMMMM"], 0.75)[0])) == 2


def test_a_cluster_with_most_rows_is_described():
    own = table([*(["ACDEFGHI"[:k] + "W" * (8 - k) for k in range(9)]), "MMMMMMMM", "PPPPPPPP", "TTTTTTTT"])
    assert (
        "at 50% identity (4, the largest with 75% of the rows); "
        in make_split(own, FitSettings(split_by="homology"), seed=0).how
    )


@pytest.mark.slow
def test_short_sequences_are_clustered_across_blocks():
    kinds = random_sequences(331, length=11)
    labels, _ = cluster([*kinds, *kinds, *(task_type[:-1] + "A" for task_type in kinds)], 0.85)
    assert (labels[:331] == labels[331:662]).all()
    assert (labels[:331] == labels[662:]).all()
    assert len(np.unique(labels)) == 331


@pytest.mark.slow
def test_long_nucleotides_are_clustered_by_mmseqs():
    rng = np.random.default_rng(0)
    kinds = ["".join(rng.choice(list("ACGU"), 97)) for _ in range(5)]
    sequences = []
    for k in range(29):
        letters = list(kinds[k % 5])
        for place in rng.choice(97, 5, replace=False):
            letters[place] = rng.choice(list("ACGU"))
        sequences.append("".join(letters))
    labels, words = cluster(sequences, 0.8, is_nucleotide=True)
    assert len(np.unique(labels)) == 5
    assert all(len(set(labels[k::5])) == 1 for k in range(5))
    assert words == "MMseqs2 clusters at 80% identity"


def test_variants_with_more_mutations_are_the_test():
    own = variants()
    count = np.array([len(mutant.split(":")) if mutant else 0 for mutant in own.mutants])
    split = make_split(own, FitSettings(split_by="mutations"), seed=0)
    check(split, 499)
    assert count[split.parts["test"]].min() == 3
    assert count[split.parts["train"]].max() == 2
    # and of the others the most mutated are chosen on
    assert count[split.parts["validation"]].min() == 2
    assert "trained on variants with up to 2 mutations, tested on 3 or more" in split.how


def test_replicates_of_the_most_mutated_variants_stay_together():
    own = variants(rows=120)
    sequences, mutants = (list(np.repeat(values, 3)) for values in (own.sequences, own.mutants))
    split = make_split(table(sequences, mutants=mutants), FitSettings(split_by="mutations"), seed=0)
    assert split.leakage.validation_exact == 0
    check(split, 360)


@pytest.mark.parametrize("most", [1, 2])
def test_held_out_positions_are_mutated_in_one_part_only(most):
    own = variants(most=most, rows=997)
    split = make_split(own, FitSettings(split_by="position"), seed=0)
    check(split, 997)
    found = [positions(own, rows) for rows in split.parts.values()]
    assert all(not a & b for a, b in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2])))
    assert (split.leakage.unused > 0) == (most == 2)
    assert len(split.parts["test"]) / (997 - split.leakage.unused) == pytest.approx(0.15, abs=0.08)


def test_modulo_and_contiguous_positions_are_those_of_proteingym():
    own = variants(most=1, rows=997)
    modulo = make_split(own, FitSettings(split_by="modulo", fold=2, folds=5), seed=0)
    assert {place % 5 for place in positions(own, modulo.parts["test"])} == {2}
    assert 2 not in {place % 5 for part in ("train", "validation") for place in positions(own, modulo.parts[part])}
    block = make_split(own, FitSettings(split_by="contiguous", fold=1, folds=5), seed=0)
    tested = sorted(positions(own, block.parts["test"]))
    # 31 positions in five stretches: 7 and four times 6
    assert tested == list(range(8, 14))
    chosen = sorted(positions(own, block.parts["validation"]))
    left = [place for place in range(1, 32) if place not in tested]
    gaps = sum(b != a + 1 for a, b in itertools.pairwise(left.index(place) for place in chosen))
    assert gaps <= 1
    assert "contiguous positions as in ProteinGym" in block.how
    both = make_split(variants(most=2, rows=997), FitSettings(split_by="modulo"), seed=0)
    assert both.leakage.unused > 0
    assert "fold 0 of 5" in both.how


def test_a_split_column_is_used_and_its_marked_duplicates_are_not():
    sequences = random_sequences(23)
    sequences[20] = sequences[1]
    words = ["train"] * 11 + ["Validation"] * 3 + ["test"] * 7 + ["test_duplicate", "unused"]
    own = table(sequences, split=words)
    assert find_split(own.frame) == "split"
    split = make_split(own, FitSettings(), seed=0)
    assert split.parts["train"].tolist() == list(range(11))
    assert split.parts["test"].tolist() == list(range(14, 20))
    assert split.leakage.as_dict() == {
        "exact": 1,
        "near_duplicates": 0,
        "definition": "up to 1 substitution",
        "kept_because": "the split comes from a column",
        "compared": 14,
        "not_compared": 0,
        "removed": 1,
        "validation_exact": 0,
        "replicated": 1,
        "conflicts": 1,
        "homologs": None,
        "homology": "",
        "known_sequences": 0,
        "known_partners": 0,
        "marked": 1,
        "unused": 3,
    }
    assert "1 test rows removed that are in training or validation; " in split.how
    kept = make_split(own, FitSettings(keep_duplicates=True), seed=0)
    assert kept.parts["test"].tolist() == list(range(14, 21))
    assert (kept.leakage.exact, kept.leakage.removed) == (1, 0)
    # asked for another way, the column counts no more
    assert make_split(own, FitSettings(fold=0, folds=3), seed=0).how.startswith("random rows")


def test_without_validation_rows_some_are_drawn_from_training():
    sequences = random_sequences(101)
    words = ["train"] * 83 + ["test"] * 18
    split = make_split(table(sequences, split=words), FitSettings(), seed=0)
    assert len(split.parts["validation"]) == pytest.approx(8, abs=1)
    assert split.parts["validation"].max() < 83
    groups = [str(k % 8) for k in range(83)] + ["other"] * 18
    split = make_split(table(sequences, split=words, groups=groups), FitSettings(), seed=0)
    assert "validation groups drawn from training" in split.how
    own = np.array(groups)
    assert not set(own[split.parts["validation"]]) & set(own[split.parts["train"]])


def test_a_column_of_fold_numbers_gives_a_cross_validation():
    own = table(random_sequences(101), fold_random_5=[str(k % 5) for k in range(101)])
    settings = [FitSettings(split="fold_random_5", folds=5, fold=fold) for fold in range(5)]
    tested = [make_split(own, each, seed=0).parts["test"] for each in settings]
    assert [rows[0] for rows in tested] == [0, 1, 2, 3, 4]
    assert sum(map(len, tested)) == 101
    with pytest.raises(SubquadError, match="column 'fold_random_5' has 5 folds with measured rows, no fold 6"):
        make_split(own, FitSettings(split="fold_random_5", fold=6, folds=7), seed=0)


def test_few_training_rows_are_part_of_more_and_the_test_stays():
    own = table(random_sequences(503))
    few, more, all_rows = (make_split(own, FitSettings(train_rows=count), seed=2) for count in (24, 96, 1000))
    assert (len(few.parts["train"]), len(more.parts["train"])) == (24, 96)
    assert set(few.parts["train"]) < set(more.parts["train"]) < set(all_rows.parts["train"])
    assert (len(few.parts["validation"]), len(more.parts["validation"])) == (10, 24)
    assert set(few.parts["validation"]) < set(more.parts["validation"])
    assert few.parts["test"].tolist() == more.parts["test"].tolist() == all_rows.parts["test"].tolist()
    assert "24 of 3" in few.how
    assert "fewer than the 1,000 of --train-rows" in all_rows.how


@pytest.mark.parametrize("within", [1, 2, 3])
def test_substitution_distance_follows_the_definition(within):
    rng = np.random.default_rng(within)
    codes = rng.integers(0, 3, (211, 7)).astype(np.int8)
    codes[::3, 6:] = -1
    own = Inputs(codes=codes, letters=4, covariates=np.zeros((211, 0)), is_aligned=False)
    rows, others = np.arange(101), np.arange(101, 107)
    distance = (codes[rows][:, None] != codes[others][None]).sum(2)
    same_length = (codes[rows][:, None, 6] < 0) == (codes[others][None, :, 6] < 0)
    want = ((distance <= within) & same_length).any(1)
    assert 0 < want.sum() < 101
    assert within_substitutions(own, rows, others, within).tolist() == want.tolist()


def test_equal_sequences_also_have_equal_partners():
    codes = np.array([[0, 1], [0, 1], [0, 1], [0, -1]], dtype=np.int8)
    own = Inputs(codes=codes, letters=4, covariates=np.zeros((4, 0)), is_aligned=False)
    assert len(np.unique(equal_sequences(own))) == 2
    partner = np.array([[2, 2], [2, 2], [2, 3], [2, 2]], dtype=np.int8)
    both = equal_sequences(
        Inputs(codes=codes, letters=4, partner=partner, covariates=np.zeros((4, 0)), is_aligned=False)
    )
    assert both[0] == both[1] != both[2]
    none = Inputs(codes=codes[:, :0], letters=4, covariates=np.ones((4, 1)), is_aligned=True)
    assert len(np.unique(equal_sequences(none))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(211, 100_003), (100_003, 211)])
def test_equal_sequences_are_found_with_little_memory_beside_the_codes(shape):
    codes = np.zeros(shape, dtype=np.int8)
    codes[1::2, -1], codes[::3, 0] = 3, -1
    own = Inputs(codes=codes, letters=4, covariates=np.zeros((shape[0], 0)), is_aligned=False)
    tracemalloc.start()
    number = equal_sequences(own)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    task_type = np.arange(shape[0]) % 6
    assert len(np.unique(number)) == 4
    assert len(set(zip(number, (task_type % 2) + 2 * (task_type % 3 == 0), strict=True))) == 4
    # 21 million codes; with eight bytes of each it would be 169 MB
    assert most < 60_000_000


def test_hashes_do_not_depend_on_the_block_size():
    codes = np.random.default_rng(0).integers(-2, 20, (4099, 521)).astype(np.int8)
    terms = np.random.default_rng(0).integers(0, 2**64, (521, 130), dtype=np.uint64)
    # the order of the numbers says which rows a split draws
    expected = np.unique(terms[np.arange(521), codes.astype(np.int64) + 2].sum(1), return_inverse=True)[1]
    own = Inputs(codes=codes, letters=20, covariates=np.zeros((4099, 0)), is_aligned=True)
    np.testing.assert_array_equal(equal_sequences(own), expected)


def test_near_duplicates_are_removed_from_the_test_set_if_asked_for():
    sequences = ["A" * 12, "A" * 11 + "C", "CDEFGHIKLMNP", "ACACACACACAC", "WWWWWWWWWWWW", "YWWWWWWWWWWW", "M" * 12]
    words = ["train", "test", "test", "validation", "train", "test", "test"]
    split = make_split(table(sequences, split=words), FitSettings(leak_distance=1), seed=0)
    assert split.parts["test"].tolist() == [2, 6]
    assert (split.leakage.exact, split.leakage.near_duplicates, split.leakage.removed) == (0, 2, 2)


def with_copies(count, length=17):
    """Return random proteins, and each once more with another letter."""
    sequences = random_sequences(count, length)
    return sequences + [("W" if one[7] != "W" else "Y").join([one[:7], one[8:]]) for one in sequences]


@pytest.mark.parametrize(
    ("more", "is_kept"),
    [({}, False), ({"leak_distance": 2}, False), ({"leak_distance": 0}, True), ({"keep_duplicates": True}, True)],
)
def test_near_duplicates_are_removed_from_random_test_sets_by_default(more, is_kept):
    own = table(with_copies(101))
    split = make_split(own, FitSettings(**more), seed=0)
    check(split, 202)
    copies = [(row + 101) % 202 for row in range(202)]
    seen = set(split.parts["train"]) | set(split.parts["validation"])
    assert split.leakage.near_duplicates > 10
    assert any(copies[row] in seen for row in split.parts["test"]) == is_kept
    assert split.leakage.removed == (0 if is_kept else split.leakage.near_duplicates)
    assert bool(split.leakage.kept_because) == is_kept
    assert ("test rows removed that are in training or validation, or near-duplicates" in split.how) != is_kept


def test_keep_duplicates_with_a_leak_distance_still_removes_near_duplicates():
    words = ["train"] * 7 + ["validation"] * 2 + ["test"] * 5
    near = with_copies(1)[1]
    sequences = [*random_sequences(9), random_sequences(9)[0], near, *random_sequences(3, seed=1)]
    split = make_split(table(sequences, split=words), FitSettings(keep_duplicates=True, leak_distance=1), seed=0)
    assert (split.leakage.exact, split.leakage.near_duplicates, split.leakage.removed) == (1, 1, 1)
    assert split.parts["test"].tolist() == [9, 11, 12, 13]


def test_near_duplicates_in_a_given_split_are_counted_and_stay():
    own = table(with_copies(31), split=["train"] * 31 + ["test"] * 31)
    split, asked = (make_split(own, FitSettings(leak_distance=distance), seed=3) for distance in (None, 0))
    assert split.leakage.near_duplicates == 31
    assert split.leakage.kept_because == "the split comes from a column"
    assert {part: rows.tolist() for part, rows in split.parts.items()} == {
        part: rows.tolist() for part, rows in asked.parts.items()
    }
    assert split.how == asked.how


def test_near_duplicates_in_a_library_of_variants_stay():
    split = make_split(variants(), FitSettings(), seed=0)
    assert split.leakage.near_duplicates > split.leakage.removed == split.leakage.exact
    cube = ["".join(letters) for letters in itertools.product("ACDE", repeat=4)]
    split = make_split(table(cube), FitSettings(), seed=0)
    assert split.leakage.near_duplicates == len(split.parts["test"]) > 20
    assert split.leakage.kept_because.startswith("the table is a library of variants")


def test_one_insertion_or_deletion_follows_the_definition():
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(["A", "C"], rng.integers(1, 8))) for _ in range(157)]
    rows, others = np.arange(101), np.arange(101, 109)

    def shorter(text):
        return {text[:k] + text[k + 1 :] for k in range(len(text))}

    pairs = [[(sequences[a], sequences[b]) for b in others] for a in rows]
    want = [any(one in shorter(other) or other in shorter(one) for one, other in own) for own in pairs]
    assert 0 < sum(want) < 101
    assert within_one_indel(inputs(sequences), rows, others).tolist() == want


def test_reverse_complements_follow_the_definition():
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), rng.integers(3, 6))) for _ in range(211)]
    codes = np.full((211, 5), -1, dtype=np.int8)
    for row, sequence in enumerate(sequences):
        codes[row, : len(sequence)] = ["ACGT".index(letter) for letter in sequence]
    own = Inputs(codes=codes, letters=4, covariates=np.zeros((211, 0)), is_aligned=False)
    other = {"A": "T", "C": "G", "G": "C", "T": "A"}
    known = set(sequences[101:])
    want = ["".join(other[letter] for letter in reversed(one)) in known for one in sequences[:101]]
    assert 0 < sum(want) < 101
    assert are_reverse_complements(own, np.arange(101), np.arange(101, 211)).tolist() == want
    dna = replace(table(["A" * 5] * 211, split=["train"] * 101 + ["test"] * 110), inputs=own)
    dna = replace(dna, schema=replace(dna.schema, alphabet="dna"))
    how = "up to 1 substitution, or one insertion or deletion, or its reverse complement"
    assert make_split(dna, FitSettings(), seed=0).leakage.definition == how


def test_rows_beyond_the_limit_are_sampled_and_counted(monkeypatch):
    own = table(with_copies(31), split=["train"] * 31 + ["test"] * 31)
    monkeypatch.setattr(leakage, "MAX_LETTERS", 17 * (31 + 11))
    found = make_split(own, FitSettings(), seed=0).leakage
    assert (found.compared, found.not_compared) == (11, 20)
    assert found.near_duplicates == 11


def test_mutations_are_read_from_canonical_variants():
    own = Mutations.of(["", "A24G", "A24G:K130*"])
    assert own.count.tolist() == [0, 1, 2]
    assert own.position.tolist() == [24, 24, 130]
    assert [part.tolist() for part in own.inside(np.array([24]))] == [[False, True, False], [True, False, False]]


@pytest.mark.long
@pytest.mark.parametrize(
    ("own", "settings"),
    [
        (table(random_sequences(31)), {"split": "fold"}),
        (
            table(random_sequences(3), split=["train", "tset", "test"]),
            {},
        ),
        (table(random_sequences(3), set=["train"] * 3), {}),
        (
            table(random_sequences(31), split=["train"] * 20 + ["test"] * 11),
            {"split": "split", "fold": 1},
        ),
        (
            table(random_sequences(31), groups=["one"] * 31),
            {"split_by": "group", "group": "gene"},
        ),
        (
            table(random_sequences(31), groups=["a", "b", "c"] * 10 + ["c"]),
            {"split_by": "group", "group": "gene", "fold": 0},
        ),
        (
            table([random_sequences(1, 40)[0] + letter for letter in LETTERS]),
            {"split_by": "homology"},
        ),
        (
            table(random_sequences(31)),
            {"split_by": "position"},
        ),
        (
            table(random_sequences(5), mutants=["A1C"] * 5),
            {"split_by": "mutations"},
        ),
        (
            table(random_sequences(5), mutants=["A1C"] * 5),
            {"split_by": "position"},
        ),
        (
            table(random_sequences(5), mutants=["A1C", "A2C", "A3C", "A4C", ""]),
            {"split_by": "contiguous"},
        ),
        (
            table(random_sequences(2)),
            {},
        ),
        (
            table(random_sequences(2) * 20),
            {},
        ),
        (
            table(["ACD", "ACD", "CDE"], split=["train", "test", "validation"]),
            {},
        ),
    ],
)
def test_impossible_splits_are_an_error_that_names_the_table(own, settings):
    with pytest.raises(SubquadError) as caught:
        make_split(own, FitSettings(**settings), seed=1)
    assert "assay.csv" in str(caught.value)


def related(sequence, identity, random):
    """Return the sequence with a fraction of its letters kept, and the others drawn at random."""
    is_kept = random.random(len(sequence)) < identity
    others = random_sequences(1, len(sequence), seed=int(random.integers(1000)))[0]
    return "".join(a if keep else b for a, b, keep in zip(sequence, others, is_kept, strict=True))


@pytest.mark.long
def test_homologs_of_a_given_split_are_counted_and_said():
    random = np.random.default_rng(0)
    known = [random_sequences(1, 150 + 3 * k, seed=k)[0] for k in range(23)]
    test = [random_sequences(1, 140 + 3 * k, seed=100 + k)[0] for k in range(7)]
    test[:3] = [related(known[k], 0.6, random) for k in range(3)]
    # a third of the protein is not half of it
    test[3] = known[3][:50] + test[3][50:]
    own = table(known + test, split=["train"] * 20 + ["validation"] * 3 + ["test"] * 7)
    split = make_split(own, FitSettings(), seed=0)
    assert split.leakage.homologs == 3
    assert split.leakage.removed == 0
    assert split.leakage.homology == (
        "at least 30 % identity over half of the sequence, E-value at most 0.001; 7 test rows were searched"
    )
    assert "3 test rows have homologs in training or validation" in split.how
    assert "--split-by homology separates them" in split.how
    split = make_split(table(known + test), FitSettings(split_by="homology", identity=0.3), seed=0)
    assert split.leakage.homologs == 0
    # at 90 % the three pairs are clusters of their own, and some fold tests one of a pair
    folds = [FitSettings(split_by="homology", identity=0.9, folds=5, fold=fold) for fold in range(5)]
    made = [make_split(table(known + test), settings, seed=0) for settings in folds]
    split = next(own for own in made if own.leakage.homologs)
    assert "a lower --identity separates more of them" in split.how
    assert "--split-by" not in split.how


def test_homologs_are_not_searched_among_variants_of_one_protein():
    wild = random_sequences(1, 60)[0]
    own = table([wild[:k] + "W" + wild[k + 1 :] for k in range(31)], mutants=[f"A{k + 1}W" for k in range(31)])
    assert make_split(own, FitSettings(), seed=0).leakage.homologs is None


def test_test_rows_whose_substitutions_are_all_new_are_counted():
    codes = np.zeros((7, 4), dtype=np.int8)
    # training: A1C and A2G; test: A2T (new letter), A4C (new position), A1C:A4C (one known), and the reference
    codes[[1, 2, 3, 4, 5, 5], [0, 1, 1, 3, 0, 3]] = [1, 2, 3, 1, 1, 1]
    inputs = Inputs(codes=codes, letters=4, covariates=np.zeros((7, 0)), is_aligned=True)
    assert count_unseen(inputs, np.array([0, 1, 2]), np.array([3, 4, 5, 6])) == 2
    assert count_unseen(replace(inputs, is_aligned=False), np.array([0, 1, 2]), np.array([3, 4, 5, 6])) == 0
    assert not inputs.has_substitutions
    assert replace(inputs, letters=20).has_substitutions
