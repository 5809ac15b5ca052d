"""Which prefixes an encoder uses, and where they are from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encoder_models import save
from sentence_transformers import SentenceTransformer

from retrievers.index.encoder import SentenceEncoder
from retrievers.index.prefixes import choose_prefixes, own_prompts, prefixes_of

SEARCH = "Represent this sentence for searching relevant passages: "
WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
NOMIC = ("search_query: ", "search_document: ")
V5 = {"sentence_transformers": "5.1.0"}


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("intfloat/e5-base-v2", ("query: ", "passage: ")),
        ("intfloat/e5-large", ("query: ", "passage: ")),
        ("intfloat/e5-small-unsupervised", ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large", ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large-instruct", (f"{WEB}\nQuery: ", "")),
        ("intfloat/e5-mistral-7b-instruct", (f"{WEB}\nQuery: ", "")),
        ("BAAI/bge-base-en-v1.5", (SEARCH, "")),
        ("BAAI/bge-small-en", (SEARCH, "")),
        ("BAAI/bge-large-zh-v1.5", ("为这个句子生成表示以用于检索相关文章：", "")),
        ("BAAI/bge-m3", ("", "")),
        ("thenlper/gte-base", ("", "")),
        ("Alibaba-NLP/gte-large-en-v1.5", ("", "")),
        ("nomic-ai/nomic-embed-text-v1", NOMIC),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("nomic-ai/nomic-embed-text-v2-moe", NOMIC),
        ("nomic-ai/modernbert-embed-base", NOMIC),
        ("lightonai/modernbert-embed-large", NOMIC),
        ("Snowflake/snowflake-arctic-embed-m", (SEARCH, "")),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", (SEARCH, "")),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", ("query: ", "")),
        ("mixedbread-ai/mxbai-embed-large-v1", (SEARCH, "")),
        ("google/embeddinggemma-300m", ("task: search result | query: ", "title: none | text: ")),
        ("Qwen/Qwen3-Embedding-0.6B", (f"{WEB}\nQuery:", "")),
        ("sentence-transformers/all-MiniLM-L6-v2", ("", "")),
        # folders, by their last part
        ("/models/e5-small", ("query: ", "passage: ")),
        ("/models/e5-base-v2/", ("query: ", "passage: ")),
        ("./bge-small-en-v1.5", (SEARCH, "")),
        ("/modelscope/BAAI/bge-small-en-v1___5", (SEARCH, "")),
        ("e5-base-v2", ("query: ", "passage: ")),
        ("/cache/hub/models--intfloat--e5-base-v2/snapshots/f52bf8ec8c71", ("query: ", "passage: ")),
        ("/cache/hub/models--BAAI--bge-base-zh/snapshots/0e5f", ("为这个句子生成表示以用于检索相关文章：", "")),
        # names that only contain that of a family
        ("/runs/stage5-minilm", ("", "")),
        ("/runs/e5-base-v2-finetuned", ("", "")),
        ("/runs/my-bge-model", ("", "")),
        ("someone/targeted5", ("", "")),
        ("someone/e5-base-v2", ("", "")),
        ("/cache/hub/models--someone--minilm/snapshots/e5", ("", "")),
    ],
)
def test_prefixes_by_exact_name(name: str, prefixes: tuple[str, str]) -> None:
    assert prefixes_of(name) == prefixes


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({}, {}),
        ({"prompts": {}}, {}),
        ({"prompts": None}, {}),
        ({"prompts": {"query": "", "document": ""}, "__version__": V5}, {}),
        ({"prompts": {"query": "", "document": "", "s2p_query": "Q: "}, "__version__": V5}, {"s2p_query": "Q: "}),
        ({"prompts": {"query": "Q: ", "document": ""}, "__version__": V5}, {"query": "Q: ", "document": ""}),
        ({"prompts": {"query": "", "document": ""}}, {"query": "", "document": ""}),
        (
            {"prompts": {"query": "", "document": ""}, "__version__": {"sentence_transformers": "3.4.1"}},
            {"query": "", "document": ""},
        ),
        ({"prompts": {"query": "", "passage": ""}, "__version__": V5}, {"query": "", "passage": ""}),
    ],
)
def test_what_the_library_writes_by_itself_is_no_choice(config: dict[str, Any], own: dict[str, str]) -> None:
    assert own_prompts(config) == own


@pytest.mark.parametrize(
    ("prompts", "query", "passage"),
    [
        ({"query": "Q: ", "document": "D: "}, "Q: ", "D: "),
        ({"query": "Q: ", "passage": "P: "}, "Q: ", "P: "),
        ({"query": "", "passage": ""}, "", ""),
        ({"s2p_query": "S: ", "s2s_query": "no"}, "S: ", "passage: "),
        ({"retrieval.query": "R: ", "retrieval.passage": "T: "}, "R: ", "T: "),
        ({"Retrieval-query": "R: ", "Retrieval-document": "T: "}, "R: ", "T: "),
        ({"search_query": "R: ", "search_document": "T: ", "clustering": "no"}, "R: ", "T: "),
        ({"web_search_query": "W: "}, "W: ", "passage: "),
        ({"query": "first", "search_query": "second"}, "first", "passage: "),
        ({"classification": "no"}, "query: ", "passage: "),
    ],
)
def test_the_model_s_own_prompts_come_before_its_name(prompts: dict[str, str], query: str, passage: str) -> None:
    chosen = choose_prefixes("intfloat/e5-base-v2", None, None, {"prompts": prompts})
    assert (chosen.query.text, chosen.passage.text) == (query, passage)
    given = choose_prefixes("intfloat/e5-base-v2", "", "x", {"prompts": prompts})
    assert (given.query.text, given.passage.text) == ("", "x")


def test_the_source_of_each_prefix_is_said(tmp_path: Path) -> None:
    chosen = choose_prefixes("intfloat/e5-base-v2", "", None, {})
    assert str(chosen) == (
        "prefix of queries: none (given); of passages: 'passage: ' (the model card of intfloat/e5-base-v2)"
    )
    assert "the model's prompt 's2p_query'" in str(choose_prefixes("x/y", None, None, {"prompts": {"s2p_query": "a"}}))
    assert "its name is not a known one" in str(choose_prefixes(str(tmp_path), None, None, {}))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", "---\nlanguage: en\nbase_model: intfloat/e5-base-v2\n---\n# Model\n"),
        ("README.md", "---\nbase_model:\n- intfloat/e5-base-v2\ntags: []\n---\n"),
        ("config.json", json.dumps({"_name_or_path": "intfloat/e5-base-v2"})),
        ("adapter_config.json", json.dumps({"base_model_name_or_path": "intfloat/e5-base-v2"})),
    ],
)
def test_a_model_trained_from_a_known_one_names_it_and_gets_no_prefix(file: str, content: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    chosen = choose_prefixes(str(tmp_path), None, None, {})
    assert (chosen.query.text, chosen.passage.text) == ("", "")
    assert "made from intfloat/e5-base-v2, which uses 'query: ' and 'passage: '" in str(chosen)
    assert choose_prefixes(str(tmp_path), "query: ", "passage: ", {}).hint == ""


@pytest.mark.parametrize(
    ("prompts", "query"),
    [({}, "query: "), ({"query": "Q: "}, "Q: "), ({"search_query": ""}, ""), ({"s2p_query": "S: "}, "S: ")],
)
def test_a_saved_model_uses_them(
    prompts: dict[str, str], query: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(save("static", tmp_path, prompts=prompts)).rename(tmp_path / "e5-base-v2")
    with caplog.at_level("INFO", logger="retrievers"):
        encoder = SentenceEncoder(str(folder), device="cpu")
    assert encoder.query_prefix == query
    assert f"e5-base-v2: {encoder.prefixes}" in caplog.text
    plain = SentenceEncoder(str(folder), device="cpu", query_prefix="", passage_prefix="")
    assert (plain.query_prefix, plain.passage_prefix) == ("", "")
    prefixed, by_hand = encoder.encode_queries(["river"]), plain.encode_queries([f"{query}river"])
    assert prefixed == pytest.approx(by_hand, abs=1e-6)


def test_a_link_into_the_cache_is_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--intfloat--e5-base-v2" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "encoder").symlink_to(snapshot)
    assert prefixes_of(str(tmp_path / "encoder")) == ("query: ", "passage: ")


@pytest.mark.parametrize(
    ("name", "prompts", "query", "passage"),
    [
        ("all-MiniLM-L6-v2", {}, "", ""),  # sentence-transformers knows the owner of a bare name
        ("Qwen/Qwen3-Embedding-0.6B", {"query": "Own: "}, "Own: ", ""),
        ("intfloat/e5-base-v2", {}, "query: ", "passage: "),
    ],
)
def test_a_model_of_the_hub_needs_no_second_download(
    name: str,
    prompts: dict[str, str],
    query: str,
    passage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = save("static", tmp_path, prompts=prompts)
    monkeypatch.setattr(
        "sentence_transformers.SentenceTransformer",
        lambda asked, **settings: SentenceTransformer(folder, **settings),
    )
    encoder = SentenceEncoder(name, device="cpu")
    assert (encoder.query_prefix, encoder.passage_prefix) == (query, passage)
