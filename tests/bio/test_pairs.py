"""Pairs of two chains: how they are read, their features, networks, splits, and the commands that read them."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from subquad.bio.analysis.settings import ScanSettings
from subquad.bio.commands.design import design
from subquad.bio.commands.epistasis import epistasis
from subquad.bio.commands.fit import fit
from subquad.bio.commands.predict import predict
from subquad.bio.commands.scan import scan
from subquad.bio.data.dataset import ANY, PAD, Dataset, Inputs, InputSchema, Target
from subquad.bio.data.partner_sequences import joint_alphabet
from subquad.bio.data.table import inputs_of, read_like, read_table
from subquad.bio.design_search.settings import DesignSettings
from subquad.bio.features.pairs import PairFeatures, features_for, features_from_dict
from subquad.bio.features.sequences import SequenceFeatures
from subquad.bio.models.baselines import Baseline, fit_baseline, fit_boosting
from subquad.bio.models.batches import net_inputs
from subquad.bio.models.estimators import LyraRegressor, LyraTagger
from subquad.bio.models.fit import fit_network
from subquad.bio.models.fitted import BioModel
from subquad.bio.models.lyra import BioNet, NetSpec
from subquad.bio.models.training_data import prepare
from subquad.bio.settings import ALPHABETS, FitSettings
from subquad.bio.splits.split import make_split
from subquad.errors import SubquadError

AMINO = ALPHABETS["protein"]
HEAVY, LIGHT = "EVQLVESGGGLVQ", "DIQMTQSPSSL"


def said(call, *args, **options):
    with pytest.raises(SubquadError) as caught:
        call(*args, **options)
    return str(caught.value)


def mutated(wild, rows, random):
    texts = []
    for _ in range(rows):
        letters = list(wild)
        for place in random.choice([2, 3, 5], 2, replace=False):
            letters[place] = random.choice(list("ADKLW"))
        texts.append("".join(letters))
    return texts


def antibodies(rows=127, seed=0):
    """Return heavy and light chains; the value is a product of a residue of each."""
    random = np.random.default_rng(seed)
    heavy, light = mutated(HEAVY, rows, random), mutated(LIGHT, rows, random)
    size = {letter: k - 2.0 for k, letter in enumerate("ADKLW")}
    y = [size.get(h[2], 0) * size.get(v[3], 0) + size.get(h[5], 0) for h, v in zip(heavy, light, strict=True)]
    return pd.DataFrame({"vh": heavy, "vl": light, "kd": y})


def receptors(rows=61, seed=1):
    random = np.random.default_rng(seed)
    epitopes = ["".join(random.choice(list(AMINO), random.integers(8, 12))) for _ in range(11)]
    cdr3 = ["CASS" + "".join(random.choice(list(AMINO), random.integers(4, 9))) + "F" for _ in range(rows)]
    chosen = random.choice(epitopes, rows)
    return pd.DataFrame({"cdr3": cdr3, "epitope": chosen, "y": random.normal(size=rows)})


def aptamers(rows=43, seed=2):
    random = np.random.default_rng(seed)
    rna = ["".join(random.choice(list("ACGU"), random.integers(20, 24))) for _ in range(rows)]
    return pd.DataFrame({"rna": rna, "protein": mutated(LIGHT, rows, random), "y": random.normal(size=rows)})


PAIRS = {
    "antibodies": (antibodies, {"sequence": "vh", "partner": "vl", "target": ("kd",)}),
    "receptors": (receptors, {"sequence": "cdr3", "partner": "epitope", "target": ("y",)}),
    "aptamers": (aptamers, {"sequence": "rna", "partner": "protein", "target": ("y",)}),
}


def written(folder, frame, name="pairs.csv"):
    frame.to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture(params=PAIRS)
def table(request, tmp_path):
    make, columns = PAIRS[request.param]
    return read_table(written(tmp_path, make()), FitSettings(**columns))


def dataset_of(table):
    count = len(table.inputs)
    rows = np.random.default_rng(0).permutation(count)
    cut = count // 5
    return table.with_split({"train": rows[2 * cut :], "validation": rows[:cut], "test": rows[cut : 2 * cut]})


def test_two_chains_are_read_with_their_own_alphabets_and_lengths(tmp_path):
    table = read_table(written(tmp_path, antibodies()), FitSettings(**PAIRS["antibodies"][1]))
    first, second = table.inputs.chains
    assert (first.codes.shape[1], second.codes.shape[1]) == (13, 11)
    assert table.inputs.are_aligned
    assert table.schema.alignment is None
    assert table.sequences[4] == f"{table.frame['vl'][4]}|{table.frame['vh'][4]}"
    remark = "pairs of two chains, read one after the other: the first with 13 letters each, protein; the partner with"
    assert f"{remark} 11 letters each, protein" in table.remarks
    table = read_table(written(tmp_path, aptamers()), FitSettings(**PAIRS["aptamers"][1]))
    assert (table.schema.alphabet, table.schema.partner_chain.alphabet) == ("rna", "protein")
    assert [chain.is_aligned for chain in table.inputs.chains] == [False, True]
    assert InputSchema.from_dict(json.loads(json.dumps(table.schema.as_dict()))) == table.schema


def test_chains_of_proteins_share_the_larger_alphabet():
    assert joint_alphabet("protein", "protein") == "protein"
    assert joint_alphabet("protein", "protein_stop") == "protein_stop"
    assert joint_alphabet("protein_stop", "protein_gap") == "protein_gap"
    assert joint_alphabet("dna", "rna_gap") == "dna_gap"
    assert joint_alphabet("rna", "protein") is None


def test_guides_stay_aligned_unless_chains_are_requested_and_unrelated_dna_is_two_chains(tmp_path):
    random = np.random.default_rng(3)
    contexts = ["".join(random.choice(list("ACGT"), 30)) for _ in range(41)]
    guides = [context[5:25] for context in contexts]
    others = ["".join(random.choice(list("ACGT"), 20)) for _ in contexts]
    frame = pd.DataFrame({"context": contexts, "guide": guides, "other": others, "y": random.normal(size=41)})
    path = written(tmp_path, frame)
    options = {"sequence": "context", "target": ("y",)}
    guided = read_table(path, FitSettings(partner="guide", **options))
    assert guided.schema.alignment is not None
    assert guided.inputs.partner_chain is None
    for settings in (
        FitSettings(partner="other", **options),
        FitSettings(partner="guide", pairing="chains", **options),
    ):
        table = read_table(path, settings)
        assert table.schema.alignment is None
        assert table.inputs.partner_chain is not None
    proteins = written(tmp_path, antibodies(), "proteins.csv")
    message = said(read_table, proteins, FitSettings(pairing="aligned", **PAIRS["antibodies"][1]))
    assert "aligned pairs are DNA or RNA, but these are protein and protein" in message


def test_missing_partner_sequences_are_an_error_that_names_the_rows(tmp_path):
    frame = antibodies()
    frame.loc[[3, 8], "vl"] = ["", "NaN"]
    path = written(tmp_path, frame)
    assert said(read_table, path, FitSettings(**PAIRS["antibodies"][1])).splitlines() == [
        f"{path}: 2 rows have no partner sequence in column 'vl'",
        "  row 4: ''",
        "  row 9: 'NaN'",
    ]


def test_another_table_of_pairs_is_read_in_the_same_way_and_wrong_lengths_are_an_error(tmp_path, table):
    frame = pd.DataFrame(table.frame[[table.schema.sequence, table.schema.partner]])
    other = read_like(written(tmp_path, frame.head(1), "one.csv"), table.schema)
    np.testing.assert_array_equal(other.inputs.all_codes, inputs_of(table.schema, table.sequences[:1]).all_codes)
    first = other.inputs.chains[0]
    np.testing.assert_array_equal(first.codes[0], table.inputs.codes[0][: first.codes.shape[1]])
    if table.schema.partner_chain.length is not None:
        frame.loc[0, table.schema.partner] = "ACD"
        message = said(read_like, written(tmp_path, frame, "bad.csv"), table.schema)
        name = table.schema.partner
        assert f"row 1: 3 letters, but the model was trained on {name} sequences of 11" in message


def test_values_along_the_sequence_of_pairs_are_refused(tmp_path):
    frame = antibodies()
    frame["kd"] = ["01" * 6 + "1"] * 60 + ["10" * 6 + "0"] * 67
    settings = FitSettings(task_type="residue_binary", **PAIRS["antibodies"][1])
    message = said(read_table, written(tmp_path, frame), settings)
    assert "two chains need one value per row" in message


def test_features_of_a_pair_are_those_of_its_chains_side_by_side(table):
    features = features_for(table.inputs)
    assert isinstance(features, PairFeatures)
    single = [SequenceFeatures.for_inputs(chain) for chain in table.inputs.chains]
    expected = np.hstack([own.matrix(chain).toarray() for own, chain in zip(single, table.inputs.chains, strict=True)])
    np.testing.assert_array_equal(features.matrix(table.inputs).toarray(), expected)
    letters = table.schema.letters, table.schema.partner_chain.letters
    names = features.names(letters)
    assert len(names) == features.count == len(features.is_unit) == len(features.blocks)
    assert any(name.startswith("partner ") for name in names)
    again = features_from_dict(json.loads(json.dumps(features.as_dict())))
    assert again.as_dict() == features.as_dict()
    np.testing.assert_array_equal(again.matrix(table.inputs).toarray(), expected)


def test_letters_at_positions_tell_the_alphabets_of_the_chains_apart():
    rna = Inputs(
        codes=np.array([[0, 1], [2, ANY]], dtype=np.int8), letters=4, covariates=np.zeros((2, 0)), is_aligned=True
    )
    protein = Inputs(
        codes=np.array([[0, 5], [ANY, 19]], dtype=np.int8), letters=20, covariates=np.zeros((2, 0)), is_aligned=True
    )
    pair = replace(rna, partner_chain=protein)
    features = features_for(pair)
    assert features.letters == (4, 20)
    assert features.channels(pair)[0].tolist() == [[0, 1, 4, 9], [2, ANY, 24, 23]]


def test_the_partner_chain_follows_the_first_one_without_padding_between_them():
    first = Inputs(
        codes=np.array([[0, 1, PAD, PAD], [2, 3, 4, 5]], dtype=np.int8),
        letters=20,
        covariates=np.zeros((2, 0)),
        is_aligned=False,
    )
    second = replace(first, codes=np.array([[6, ANY, 8], [9, PAD, PAD]], dtype=np.int8))
    pair = replace(first, partner_chain=second)
    assert pair.lengths.tolist() == [5, 5]
    device = torch.device("cpu")
    codes, partner, *_ = net_inputs(pair, np.array([0, 1]), None, None, task_type="regression", device=device)
    assert codes.tolist() == [[0, 1, PAD, PAD, PAD], [2, 3, 4, 5, PAD]]
    assert partner.tolist() == [[PAD, PAD, 6, ANY, 8], [PAD, PAD, PAD, PAD, 9]]


def random_pair(lengths, letters, random, *, rows=3):
    codes = random.integers(0, letters, (rows, max(lengths))).astype(np.int8)
    codes[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = PAD
    return Inputs(codes=codes, letters=letters, covariates=np.zeros((rows, 0)), is_aligned=False)


@pytest.mark.parametrize("letters", [20, 4])
def test_padding_of_either_chain_does_not_change_the_output_and_each_chain_does(letters):
    random = np.random.default_rng(5)
    first, second = random_pair([7, 4, 6], 20, random), random_pair([3, 5, 2], letters, random)
    spec = NetSpec(task_type="regression", letters=20, outputs=1, kind="lyra-paper", partner_letters=letters)
    torch.manual_seed(0)
    net = BioNet(spec).eval()

    def output(first, second, row):
        pair = replace(first, partner_chain=second).take(np.array([row]))
        codes, partner, *_ = net_inputs(
            pair, np.arange(1), None, None, task_type="regression", device=torch.device("cpu")
        )
        with torch.no_grad():
            return net(codes, partner)[0].double()

    def wide(chain):
        return replace(chain, codes=np.pad(chain.codes, ((0, 0), (0, 5)), constant_values=PAD))

    whole = replace(first, partner_chain=second)
    codes, partner, *_ = net_inputs(whole, np.arange(3), None, None, task_type="regression", device=torch.device("cpu"))
    with torch.no_grad():
        together = net(codes, partner).double()
    for row in range(3):
        alone = output(first, second, row)
        torch.testing.assert_close(output(wide(first), wide(second), row), alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)
    changed = replace(second, codes=np.where(second.codes == PAD, PAD, (second.codes + 1) % letters).astype(np.int8))
    assert (output(first, changed, 1) - output(first, second, 1)).abs() > 1e-4


def test_the_same_letters_in_one_chain_or_in_two_are_different_inputs():
    codes = torch.from_numpy(np.random.default_rng(6).integers(0, 20, (3, 10)))
    net = BioNet(NetSpec(task_type="regression", letters=20, outputs=1, kind="lyra-paper", partner_letters=20)).eval()
    is_first = torch.arange(10) < 5
    with torch.no_grad():
        two = net(torch.where(is_first, codes, PAD), torch.where(is_first, PAD, codes))
        one = net(codes, torch.full_like(codes, PAD))
    assert (two - one).abs().max() > 1e-4


@pytest.mark.long
def test_lyra_learns_a_product_of_both_chains_that_ridge_cannot(tmp_path):
    random = np.random.default_rng(7)
    letters = random.choice(list("DW"), (301, 2))
    frame = pd.DataFrame({"vh": [HEAVY[:4] + a + HEAVY[5:] for a in letters[:, 0]]})
    frame["vl"] = [LIGHT[:7] + b + LIGHT[8:] for b in letters[:, 1]]
    frame["kd"] = np.where(letters[:, 0] == letters[:, 1], 1.0, -1.0) + 0.1 * random.normal(size=301)
    data = dataset_of(read_table(written(tmp_path, frame), FitSettings(**PAIRS["antibodies"][1])))
    settings = FitSettings(epochs=30, batch_size=16, ensemble_size=1)
    test, truth = data.part("test")
    fitted = fit_network("lyra-alone", prepare(data), settings, seed=0)
    ridge = fit_baseline("ridge", data)
    error = [np.mean((model.predict(test) - truth.y) ** 2) for model in (fitted, ridge)]
    assert error[0] < 0.1
    assert error[1] > 0.8


@pytest.mark.parametrize("name", ["ridge", "boosting", "gp"])
def test_baselines_of_pairs_are_saved_and_predict_the_same(tmp_path, table, name):
    data = dataset_of(table)
    fitted = fit_baseline(name, data, iterations=11)
    fitted.save(tmp_path / "own.safetensors")
    again = Baseline.load(tmp_path / "own.safetensors")
    np.testing.assert_allclose(again.predict(table.inputs), fitted.predict(table.inputs), rtol=0, atol=1e-6)


def test_trees_read_the_letters_of_both_chains_as_categories_if_features_are_too_many(tmp_path):
    table = read_table(written(tmp_path, antibodies()), FitSettings(**PAIRS["antibodies"][1]))
    data = dataset_of(table)
    fitted = fit_boosting(data, iterations=11, seconds=1e-6)
    assert fitted.model.view == "letters"
    assert fitted.features.varying.tolist() == [2, 3, 5, 15, 16, 18]
    assert np.isfinite(fitted.predict(table.inputs)).all()


def test_whole_partners_or_whole_sequences_are_held_out(table):
    for split_by, part in (("partner", 0), ("sequence", 2)):
        split = make_split(table, FitSettings(split_by=split_by, partner="p", keep_duplicates=True), seed=0)
        texts = np.array([text.rpartition("|")[part] for text in table.sequences])
        held_out = [set(texts[split.parts[name]]) for name in ("train", "validation", "test")]
        assert all(held_out)
        for own, others in combinations(held_out, 2):
            assert not own & others


def test_a_pair_leaks_only_if_both_chains_are_equal(tmp_path):
    frame = receptors(rows=60)
    frame["split"] = ["train"] * 40 + ["validation"] * 8 + ["test"] * 12
    # equal pair; equal first chain; equal partner; one deletion in the partner
    frame.loc[48, ["cdr3", "epitope"]] = frame.loc[0, ["cdr3", "epitope"]]
    frame.loc[49, ["cdr3", "epitope"]] = [frame["cdr3"][1], "WWWWCCCC"]
    frame.loc[50, ["cdr3", "epitope"]] = ["CCHHWWMMCC", frame["epitope"][2]]
    frame.loc[51, ["cdr3", "epitope"]] = [frame["cdr3"][3], frame["epitope"][3][1:]]
    table = read_table(written(tmp_path, frame), FitSettings(**PAIRS["receptors"][1]))
    leakage = make_split(table, FitSettings(leak_distance=1), seed=0).leakage
    assert (leakage.exact, leakage.near_duplicates, leakage.removed) == (1, 1, 2)
    assert leakage.definition == "up to 1 substitution, or one insertion or deletion"
    assert leakage.known_sequences == 1
    known = set(frame["epitope"][:48])
    assert leakage.known_partners == frame["epitope"][[49, 50, *range(52, 60)]].isin(known).sum() < 10
    assert leakage.homologs is None


def test_near_duplicates_of_a_library_of_first_chains_stay_in_the_test_set(tmp_path):
    table = read_table(written(tmp_path, antibodies()), FitSettings(**PAIRS["antibodies"][1]))
    leakage = make_split(table, FitSettings(), seed=0).leakage
    assert leakage.kept_because == "the table is a library of variants, which are near-duplicates of each other"
    assert leakage.near_duplicates > 0
    table = read_table(written(tmp_path, receptors()), FitSettings(**PAIRS["receptors"][1]))
    assert make_split(table, FitSettings(), seed=0).leakage.kept_because == ""


def test_a_split_by_partner_needs_pairs(tmp_path):
    frame = antibodies().drop(columns="vl")
    table = read_table(written(tmp_path, frame), FitSettings(target=("kd",), sequence="vh"))
    message = said(make_split, table, FitSettings(split_by="partner"), seed=0)
    assert "a split by partner needs pairs of sequences" in message


def test_estimators_read_pairs_of_proteins_and_taggers_refuse_them(tmp_path):
    frame = antibodies()
    model = LyraRegressor(ensemble_size=1, epochs=1.0, random_state=0).fit(frame[["vl", "vh"]], frame["kd"])
    predicted = model.predict(frame[["vl", "vh"]][:5])
    model.save(tmp_path / "model")
    again = LyraRegressor.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict(frame[["vl", "vh"]][:5]), predicted, rtol=0, atol=1e-6)
    assert (model._schema.sequence, model._schema.partner) == ("vh", "vl")
    labels = ["0101010101011"] * len(frame)
    assert "two chains need one value per row" in said(LyraTagger().fit, frame[["vl", "vh"]], labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    path = written(folder, antibodies())
    settings = FitSettings(
        **PAIRS["antibodies"][1], models=("ridge", "lyra"), ensemble_size=1, epochs=2.0, split_by="partner"
    )
    fit(path, settings, out=folder / "run", quiet=True)
    return folder


def test_a_fit_of_pairs_reports_them_and_predicts_again(run):
    metrics = json.loads((run / "run" / "metrics.json").read_text())
    assert metrics["audit"]["partners"]["length"]["max"] == 11
    assert metrics["leakage"]["known_partners"] == 0
    page = (run / "run" / "report.html").read_text()
    assert "Each row is a pair of chains" in page
    assert "whole partner sequences of" in page
    frame = predict(run / "run", run / "pairs.csv", out=run / "predictions.csv", quiet=True)
    test = pd.read_csv(run / "run" / "test.csv")
    np.testing.assert_allclose(frame["prediction"][test["row"] - 1], test["ensemble"], rtol=0, atol=1e-4)
    missing = antibodies().drop(columns="vl")
    message = said(predict, run / "run", written(run, missing, "missing.csv"), out=run / "other.csv", quiet=True)
    assert "no column 'vl'" in message
    assert "the model reads pairs" in message


@pytest.mark.long
def test_a_scan_mutates_the_first_chain_beside_a_fixed_partner(run):
    frame = scan(run / "run", ScanSettings(sequence=HEAVY, partner=LIGHT), out=run / "scan", quiet=True)
    assert set(frame["position"]) == {3, 4, 6}
    model = BioModel.load(run / "run")
    pairs = [f"{LIGHT}|{HEAVY[:2]}{frame['to'][0]}{HEAVY[3:]}", f"{LIGHT}|{HEAVY}"]
    predicted = model.predict_sequences(pairs)[:, 0]
    assert frame["prediction"][0] == pytest.approx(predicted[0], abs=1e-5)
    assert frame["difference"][0] == pytest.approx(predicted[0] - predicted[1], abs=1e-5)
    for settings, message in (
        (ScanSettings(sequence=HEAVY), "the model reads pairs with a partner 'vl'"),
        (ScanSettings(sequence=HEAVY, partner="DIQ"), "--partner has 3 letters, but the model reads aligned"),
        (ScanSettings(sequence=HEAVY, partner="DIQMTQSPSSB"), "'B' at position 11"),
        (ScanSettings(sequence=f"{LIGHT}|{HEAVY}", partner=LIGHT), "--sequence has"),
    ):
        assert message in said(scan, run / "run", settings, out=run / "refused", quiet=True)
    assert not (run / "refused").exists()


@pytest.mark.long
def test_a_scan_of_a_first_chain_that_never_varied_is_refused(tmp_path):
    frame = antibodies().drop_duplicates("vl")
    frame["vh"] = HEAVY
    settings = FitSettings(**PAIRS["antibodies"][1], models=("ridge", "lyra"), ensemble_size=1, epochs=1.0)
    fit(written(tmp_path, frame), replace(settings, leak_distance=0), out=tmp_path / "run", quiet=True)
    own = ScanSettings(sequence=HEAVY, partner=LIGHT)
    message = said(scan, tmp_path / "run", own, out=tmp_path / "scan", quiet=True)
    assert "no position of the sequence varied in training" in message


def test_designs_are_first_chains_for_a_fixed_partner_and_epistasis_is_refused(run):
    measured = antibodies()
    partner = measured["vl"][0]
    own = DesignSettings(
        start=HEAVY, partner=partner, table=str(run / "pairs.csv"), number=7, max_mutations=2, controls=1
    )
    frame = design(run / "run", own, out=run / "designs", quiet=True)
    assert frame["sequence"].str.len().eq(13).all()
    assert not set(frame["sequence"]) & set(measured["vh"][measured["vl"] == partner])
    assert json.loads((run / "designs" / "design.json").read_text())["partner"] == partner
    assert "the model reads pairs of sequences" in said(epistasis, run / "run", out=run / "epistasis", quiet=True)


def test_single_sequences_have_no_partner_flag(tmp_path):
    data = Dataset(
        inputs=random_pair([5] * 31, 20, np.random.default_rng(0), rows=31),
        target=Target(task_type="regression", y=np.arange(31.0)[:, None]),
        split={"train": np.arange(21), "validation": np.arange(21, 31), "test": np.arange(0)},
    )
    texts = ["".join(AMINO[k] for k in row) for row in data.inputs.codes]
    model = LyraRegressor(ensemble_size=1, epochs=1.0, random_state=0).fit(texts, np.arange(31.0))
    model.save(tmp_path / "model")
    settings = ScanSettings(sequence=texts[0], partner="ACD")
    message = said(scan, tmp_path / "model", settings, out=tmp_path / "scan", quiet=True)
    assert message == "--partner: ACD, but the model reads single sequences"
