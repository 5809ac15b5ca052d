"""Folders of small sentence-transformers models with random weights, one of each shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.base.modules import Transformer as TransformerModule
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, StaticEmbedding, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

TEXT = "the a capital of france is paris berlin lies on seine river city country query passage : . , spree germany"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WIDTH = 16


def tokenizer() -> Tokenizer:
    """Words of `TEXT`."""
    made = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *TEXT.split()])}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = Lowercase(), Whitespace()  # type: ignore[assignment]
    return made


def fast_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """The same for transformers."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer(), **names, eos_token="[SEP]", **settings)


def transformer(folder: Path, *, seed: int = 0, scale: float = 1.0, **settings: Any) -> TransformerModule:
    """A BERT of one layer; `scale` multiplies its embeddings' norm weights, so that float16 overflows."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer().get_vocab()),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    bert = BertModel(config)
    last: Any = bert.encoder.layer[0].output.LayerNorm
    last.weight.data *= scale
    bert.save_pretrained(folder)
    fast_tokenizer(**settings).save_pretrained(folder)
    return TransformerModule(str(folder))


def static(seed: int = 0) -> StaticEmbedding:
    """Static embeddings."""
    torch.manual_seed(seed)
    return StaticEmbedding(tokenizer(), embedding_dim=WIDTH)


def _bert(folder: Path) -> list[Any]:
    return [transformer(folder, model_max_length=32), Pooling(WIDTH, "mean")]


def _clip(folder: Path) -> list[Any]:
    part = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {
        **part,
        "vocab_size": len(tokenizer().get_vocab()),
        "max_position_embeddings": 24,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    vision = {**part, "image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
    fast_tokenizer(model_max_length=24).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8).save_pretrained(folder)
    return [TransformerModule(str(folder))]


def _words() -> WordEmbeddings:
    torch.manual_seed(0)
    words = TEXT.split()
    return WordEmbeddings(WhitespaceTokenizer(words, stop_words=set()), torch.randn(len(words), WIDTH))


SHAPES: dict[str, Callable[[Path], list[Any]]] = {
    "transformer": _bert,
    "transformer without a limit": lambda folder: [transformer(folder), Pooling(WIDTH, "cls"), Normalize()],
    "dense and normalize": lambda folder: [*_bert(folder), Dense(WIDTH, 8), Normalize()],
    "static": lambda folder: [static()],
    "static, normalize": lambda folder: [static(), Normalize()],
    "bag of words": lambda folder: [BoW(TEXT.split())],
    "word embeddings": lambda folder: [_words(), Pooling(WIDTH, "mean")],
    "clip": _clip,
    "router of static and transformer": lambda folder: [
        Router.for_query_document([static()], _bert(folder)),
        Normalize(),
    ],
    "router by passage": lambda folder: [
        Router({"query": [static()], "passage": [static(1)]}, allow_empty_key=False),
    ],
    "router by modality": lambda folder: [
        Router({"text": [static()]}, route_mappings={(None, "text"): "text"}, allow_empty_key=False)
    ],
}


def save(shape: str, folder: Path, **settings: Any) -> str:
    """The folder of a model of a shape. `settings`: of SentenceTransformer, such as prompts."""
    SentenceTransformer(modules=SHAPES[shape](folder / "parts"), device="cpu", **settings).save(
        str(folder / "model"), create_model_card=False
    )
    return str(folder / "model")
