import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subquad.bio.commands.guides import guides
from subquad.bio.data.dataset import InputSchema, PartnerAlignment
from subquad.bio.guide_search.settings import GuideSettings, Window
from subquad.bio.guide_search.sites import (
    as_codes,
    count_similar,
    find_sites,
    letters,
    longest_stem,
    pack,
    windows_of,
)
from subquad.bio.guide_search.table import COLUMNS, find_guides
from subquad.bio.models.members import Members
from subquad.bio.settings import AMBIGUITY
from subquad.cli import main
from subquad.errors import SubquadError

DATA = Path(os.environ.get("SUBQUAD_DATA", "no data")) / "bio" / "crispr"
PAMS = {"cas9": "NGG", "sacas9": "NNGRRT", "cas12a": "TTTV", "cas13a": "", "cas13d": ""}


class Counter:
    """A model whose two ensemble members predict the number of A less and plus one."""

    task_type, alphabet, wild_type, names, classes = "regression", "ACGT", None, ["activity"], []

    def __init__(self, length, alphabet="dna", **schema):
        self.schema = InputSchema(alphabet=alphabet, is_aligned=length is not None, length=length, **schema)
        self.config, self.asked = {}, []

    def members_of_sequences(self, sequences, *, to_first=False):
        self.asked += sequences
        one = np.array([[text.count("A")] for text in sequences], dtype=float)
        return Members.of_equals(np.stack([one - 1, one + 1]))


def back(sequence):
    return sequence.upper()[::-1].translate(str.maketrans("ACGT", "TGCA"))


def fasta(path, **genes):
    path.write_text("".join(f">{name} a title\n{text[:31]}\n{text[31:]}\n" for name, text in genes.items()))
    return path


def random_gene(length, seed=0):
    return "".join("ACGT"[k] for k in np.random.default_rng(seed).integers(0, 4, length))


def fits(pam, text):
    return len(pam) == len(text) and all(letter in AMBIGUITY[code] for code, letter in zip(pam, text, strict=True))


def test_guides_are_found_on_both_strands():
    guide = "ATCATCATCATCATCATCAT"
    forward = find_guides("C" + guide + "TGG" + "AA")
    assert forward.to_dict("records") == [{"strand": "+", "start": 2, "end": 21, "guide": guide, "pam": "TGG"}]
    reverse = find_guides("AA" + back(guide + "TGG") + "CAT")
    assert reverse.to_dict("records") == [{"strand": "-", "start": 6, "end": 25, "guide": guide, "pam": "TGG"}]


def test_the_pam_of_cas12a_stands_before_the_guide():
    guide = "GACGACGACGACGACGACGACGA"
    found = find_guides("G" + "TTTA" + guide, "cas12a")
    assert found.to_dict("records") == [{"strand": "+", "start": 6, "end": 28, "guide": guide, "pam": "TTTA"}]
    assert find_guides("G" + "TTTT" + guide, "cas12a").empty


def test_guides_of_rna_are_reverse_complements_of_the_transcript():
    target = random_gene(28)
    found = find_guides("A" + target.replace("T", "U"), "cas13a")
    assert found["guide"].tolist() == [back("A" + target[:27]), back(target)]
    assert found[["strand", "start", "end"]].to_numpy().tolist() == [["-", 1, 28], ["-", 2, 29]]
    assert find_guides("A" + target + "G", "cas13a", pam="H")["start"].tolist() == [
        start for start in (1, 2) if ("A" + target + "G")[start + 27] != "G"
    ]


def test_ambiguous_letters_are_skipped_and_soft_masked_ones_are_not():
    guide = "ATCATCATCATCATCATCAT"
    assert len(find_guides((guide + "TGG").lower())) == 1
    assert find_guides(guide[:7] + "N" + guide[8:] + "TGG").empty
    assert find_guides(guide + "NGG").empty
    assert find_guides("").empty


@pytest.mark.parametrize("nuclease", PAMS)
@given(sequence=st.text(alphabet="ACGTNacgtGG", max_size=211))
def test_every_guide_is_a_slice_of_its_strand_and_none_is_missed(nuclease, sequence):
    found, pam, upper = find_guides(sequence, nuclease), PAMS[nuclease], sequence.upper()
    spacer = GuideSettings(nuclease=nuclease).window().spacer
    is_rna, first = nuclease.startswith("cas13"), nuclease == "cas12a"
    for row in found.to_dict("records"):
        assert row["end"] - row["start"] + 1 == spacer == len(row["guide"])
        own = row["guide"] if row["strand"] == "+" else back(row["guide"])
        assert upper[row["start"] - 1 : row["end"]] == own
        whole = row["pam"] + row["guide"] if first else row["guide"] + row["pam"]
        if not is_rna:
            strand = upper if row["strand"] == "+" else back(upper)
            begin = row["start"] - 1 if row["strand"] == "+" else len(upper) - row["end"]
            begin -= len(pam) if first else 0
            assert strand[begin : begin + len(whole)] == whole
            assert fits(pam, row["pam"])
    size, count = spacer + len(pam), 0
    for strand in (upper,) if is_rna else (upper, back(upper)):
        for begin in range(len(strand) - size + 1):
            site = strand[begin : begin + size]
            own = site[: len(pam)] if first else site[spacer:]
            count += set(site) <= set("ACGT") and fits(pam, own)
    assert len(found) == count


def test_windows_reach_past_the_ends_and_turn_with_the_strand():
    sequence = "AC" + "ATCATCATCATCATCATCAT" + "TGGC"
    sites = find_sites(as_codes(sequence), GuideSettings(), 20)
    assert letters(windows_of(as_codes(sequence), sites, Window(4, 6, 20))).tolist() == ["--" + sequence + "--"]
    turned = back(sequence)
    sites = find_sites(as_codes(turned), GuideSettings(), 20)
    assert letters(windows_of(as_codes(turned), sites, Window(2, 4, 20))).tolist() == [sequence]


@given(texts=st.lists(st.text(alphabet="AC", min_size=17, max_size=17), max_size=23), mismatches=st.integers(0, 5))
def test_similar_sites_are_counted_as_by_comparing_all_pairs(texts, mismatches):
    codes = np.array([[("ACGT").index(x) for x in text] for text in texts], dtype=np.uint8).reshape(-1, 17)
    equal, near = count_similar(pack(codes), 17, mismatches)
    differ = (codes[:, None] != codes[None]).sum(-1)
    assert equal.tolist() == ((differ == 0).sum(1) - 1).tolist()
    assert near.tolist() == ((differ <= mismatches).sum(1) - 1).tolist()


def test_the_longest_stem_leaves_a_loop_of_three():
    texts = ["GGGGCAAAGCCCCAAAAAAA", "AAAAAAAAAAAAAAAAAAAA", "GGGCCCAAAAAAAAAAAAAA"]
    assert longest_stem(np.stack([as_codes(text) for text in texts])).tolist() == [5, 0, 1]


def test_a_model_scores_whole_windows_and_ranks_each_gene(tmp_path, capsys):
    genes = {
        "one": random_gene(307),
        "two": random_gene(211, seed=1),
        "three": "ACGT",
        "four": "ATCATCATCATCATCATCATTGG",
    }
    model = Counter(30)
    best = guides(fasta(tmp_path / "g.fa", **genes), out=tmp_path / "g.csv", model=model, page=tmp_path / "g.html")
    said = capsys.readouterr().err
    assert "in the sense of the guide: 4 letters before and 6 after the guide (inferred from its length" in said
    table = pd.read_csv(tmp_path / "g.csv")
    assert tuple(table.columns) == COLUMNS == tuple(best.columns)
    scored = table[table["score"].notna()]
    assert sorted(model.asked) == sorted(scored["context"])
    assert (scored["score"] == scored["context"].str.count("A")).all()
    assert np.allclose(scored["score_std"], 2**0.5, atol=1e-5)
    for _, own in scored.groupby("gene"):
        assert (own.sort_values("rank")["score"].diff().dropna() <= 0).all()
        assert sorted(own["rank"]) == list(range(1, len(own) + 1))
    for row in scored.to_dict("records"):
        gene = genes[row["gene"]] if row["strand"] == "+" else back(genes[row["gene"]])
        assert row["context"] in gene
        assert row["context"][4:27] == row["guide"] + row["pam"]
    unscored = table[table["score"].isna()]
    assert len(unscored)
    assert unscored["remark"].str.startswith("not scored: context beyond the end of the sequence").all()
    assert best.groupby("gene").size().max() == 10
    html = (tmp_path / "g.html").read_text()
    assert "No target site." in html
    assert html.count("<figure") == 3


def test_low_scores_rank_first_where_they_are_best(tmp_path):
    path = fasta(tmp_path / "g.fa", one=random_gene(307))
    settings = GuideSettings(direction="minimize", best=3)
    best = guides(path, settings, out=tmp_path / "g.tsv.gz", model=Counter(23), quiet=True)
    table = pd.read_csv(tmp_path / "g.tsv.gz", sep="\t")
    assert best["score"].tolist() == sorted(table["score"])[:3]


def test_guides_and_targets_of_cas13a_go_to_the_model_as_the_target_reads(tmp_path):
    gene = random_gene(53)
    model = Counter(48, partner="guide", alignment=PartnerAlignment(offset=10, most_common=10, is_reversed=False))
    settings = GuideSettings(nuclease="cas13a")
    guides(fasta(tmp_path / "g.fa", one=gene), settings, out=tmp_path / "g.csv", model=model, quiet=True)
    assert model.asked == [f"{gene[k + 10 : k + 38]}|{gene[k : k + 48]}" for k in range(6)]
    turned = Counter(48, partner="guide", alignment=PartnerAlignment(offset=10, most_common=10, is_reversed=True))
    guides(tmp_path / "g.fa", settings, out=tmp_path / "turned.csv", model=turned, quiet=True)
    assert turned.asked[0] == f"{back(gene[10:38])}|{gene[:48]}"
    shifted = Counter(48, partner="guide", alignment=PartnerAlignment(offset=7, most_common=7, is_reversed=False))
    with pytest.raises(SubquadError, match="guides of the model start 7 letters into their context, not 10"):
        guides(tmp_path / "g.fa", settings, out=tmp_path / "shifted.csv", model=shifted, quiet=True)


def test_windows_of_cas13d_read_as_the_guide_does(tmp_path):
    gene = random_gene(37)
    model = Counter(33)
    settings = GuideSettings(nuclease="cas13d")
    guides(fasta(tmp_path / "g.fa", one=gene), settings, out=tmp_path / "g.csv", model=model, quiet=True)
    assert model.asked == [back(gene[k : k + 33]) for k in range(5)]
    assert set(pd.read_csv(tmp_path / "g.csv")["guide"].str.len()) == {23}


def test_a_model_of_rna_is_asked_in_its_letters(tmp_path):
    model = Counter(23, alphabet="rna")
    model.alphabet = "ACGU"
    guides(fasta(tmp_path / "g.fa", one=random_gene(97)), out=tmp_path / "g.csv", model=model, quiet=True)
    assert model.asked
    assert not any("T" in text for text in model.asked)


def test_guides_without_a_model_have_remarks_and_no_scores(tmp_path):
    guide = "ATCATCATTTTCATCATCAT"
    gene = "ACGTA" + guide + "TGGACGT" + guide.lower() + "tggACGTACGT"
    best = guides(fasta(tmp_path / "g.fa", one=gene), out=tmp_path / "g.csv", quiet=True)
    assert best["score"].isna().all()
    table = pd.read_csv(tmp_path / "g.csv")
    same = table[table["guide"] == guide]
    assert same["identical_sites"].tolist() == [1, 1]
    assert same["soft_masked"].tolist() == [False, True]
    assert same["has_poly_t"].all()
    assert same["gc"].tolist() == [0.25, 0.25]
    assert same["remark"].tolist() == ["TTTT terminates U6 transcription; identical site elsewhere in the file"] * 2


@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        ({"length": 31}, {}, "reads sequences of 31 letters, but contexts of cas9 have 30 (4+20+6), 23 (0+20+3)"),
        ({"length": 34}, {}, "or another --nuclease (34 letters match cas12a)"),
        ({"length": None}, {}, "reads sequences of several lengths; name the context"),
        ({"length": 30}, {"context": (4, 7), "spacer": 20}, "have 31 letters, but the model reads sequences of 30"),
        ({"length": 30, "covariates": {"ESM": 0.0}}, {}, "the model also reads ESM"),
    ],
)
def test_a_model_that_reads_no_window_is_refused(tmp_path, schema, settings, message):
    path = fasta(tmp_path / "g.fa", one=random_gene(97))
    with pytest.raises(SubquadError) as error:
        guides(path, GuideSettings(**settings), out=tmp_path / "out.csv", model=Counter(**schema), quiet=True)
    assert message in str(error.value)
    assert not (tmp_path / "out.csv").exists()


def test_a_context_may_be_given_for_a_model_of_any_length(tmp_path):
    model = Counter(None)
    path = fasta(tmp_path / "g.fa", one=random_gene(97))
    guides(path, GuideSettings(context=(1, 5)), out=tmp_path / "g.csv", model=model, quiet=True)
    assert {len(text) for text in model.asked} == {26}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"nuclease": "cas8"}, "--nuclease must be one of cas9, sacas9, cas12a, cas13a, cas13d, got 'cas8'"),
        ({"pam": "NGE"}, "--pam must consist of the letters ACGTNRYSWKMBDHV, got 'NGE'"),
        ({"spacer": 40}, "--spacer must be at least 15 and at most 32, got 40"),
        ({"context": (-1, 6)}, "--context must be at least 0, got -1"),
        ({"mismatches": 9}, "--mismatches must be at least 0 and at most 5, got 9"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(SubquadError) as error:
        GuideSettings(**setting)
    assert str(error.value) == message


def test_files_that_are_no_fasta_of_nucleotides_are_refused(tmp_path):
    def said(name, text):
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(SubquadError) as error:
            guides(path, out=tmp_path / "out.csv", quiet=True)
        return str(error.value).removeprefix(str(path))

    assert said("a.fa", b"") == ": has no sequence; a FASTA file starts with > and a name"
    assert said("b.fa", b"gene,ACGT").startswith(": ")
    assert said("c.fa.gz", b">a\nACGT").startswith(": cannot be read as FASTA (")
    assert said("d.fa", b">a\nACGT\n>b\nACGE\nLG\n>c\nac-t").splitlines() == [
        ": not all sequences are nucleotides:",
        "  b: 'E' at position 4 is not a nucleotide",
        "  c: '-' at position 3 is not a nucleotide",
    ]
    with pytest.raises(SubquadError, match=r"nowhere\.fa: no such file"):
        guides(tmp_path / "nowhere.fa", out=tmp_path / "out.csv", quiet=True)
    assert not (tmp_path / "out.csv").exists()


def test_a_page_has_the_name_of_one(tmp_path):
    path, out = fasta(tmp_path / "g.fa", one=random_gene(97)), tmp_path / "g.csv"
    with pytest.raises(SubquadError, match=r"page\.csv: must end in \.html"):
        guides(path, out=out, page=tmp_path / "page.csv", quiet=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SubquadError, match=r"notes\.txt: must end in \.html"):
        guides(path, out=out, page=tmp_path / "notes.txt", force=True, quiet=True)
    assert not out.exists()


def test_the_command_lists_guides_of_a_gzipped_file(tmp_path, capsys):
    path = tmp_path / "g.fa.gz"
    path.write_bytes(gzip.compress(f">one\n{random_gene(211)}\n".encode()))
    assert main(["bio", "guides", str(path), "--out", str(tmp_path / "g.csv"), "--nuclease", "cas12a"]) == 0
    shown = capsys.readouterr()
    assert "Cas12a: guides of 23 letters, PAM TTTV" in shown.err
    assert f"Wrote {tmp_path / 'g.csv'}." in " ".join(shown.out.split())
    assert main(["bio", "guides", str(path), "--out", str(tmp_path / "g.csv")]) == 2
    assert "overwrite it with --force" in capsys.readouterr().err


def test_chunks_change_nothing(monkeypatch):
    gene = random_gene(1009)
    whole = find_guides(gene)
    monkeypatch.setattr("subquad.bio.guide_search.sites.CHUNK", 101)
    pd.testing.assert_frame_equal(find_guides(gene), whole)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="SUBQUAD_DATA has no guides")
@pytest.mark.parametrize(
    ("file", "nuclease", "pam"),
    [
        ("azimuth_fc_res", "cas9", None),
        ("fmc_WT", "cas9", None),
        ("cas12a_ht1", "cas12a", "TTTN"),
        ("crisprhal_TevSaCas9", "sacas9", "NNGRRN"),
    ],
)
def test_the_windows_of_measured_guides_are_found_in_genes_made_of_them(tmp_path, file, nuclease, pam):
    rows = pd.read_csv(DATA / f"{file}.csv.gz", nrows=997)
    genes = {f"g{k}": "".join(rows["sequence"][k : k + 97]) for k in range(0, len(rows), 97)}
    settings = GuideSettings(nuclease=nuclease, pam=pam)
    model = Counter(len(rows["sequence"][0]))
    guides(fasta(tmp_path / "g.fa", **genes), settings, out=tmp_path / "g.csv", model=model, quiet=True)
    found = set(pd.read_csv(tmp_path / "g.csv")["context"])
    assert np.mean([text in found for text in rows["sequence"]]) > 0.99


def test_genes_without_a_guide_are_an_error_and_nothing_is_written(tmp_path):
    genes = fasta(tmp_path / "genes.fa", short="ACGT")
    with pytest.raises(SubquadError, match="no guide of 20 letters for SpCas9"):
        guides(genes, out=tmp_path / "guides.csv", quiet=True)
    assert not (tmp_path / "guides.csv").exists()
