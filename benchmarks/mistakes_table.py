"""Mistakes that are likely on the first days with this project, as commands, and what each message must contain.

A command is refused with exit status 2 and one message that names the value, the rule and the repair. `{port}` is one
that is in use, and the folder `locked` belongs to a process that runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A command, what its message must contain, and what is wrong with the machine."""

    command: str
    says: tuple[str, ...]
    without: tuple[str, ...] = ()
    """Packages that are not installed."""
    full_disk: bool = False
    """No file or folder can be written below the folder `full`."""
    silent_hub: bool = False
    """The Hub accepts connections and never answers."""


def _of(program: str, *mistakes: tuple[str, ...]) -> list[Mistake]:
    return [Mistake(f"{program} {words}".strip(), says) for words, *says in mistakes]  # type: ignore[arg-type]


TRAIN = "igsearch train ig_grpo"
OWN = f"{TRAIN} --env.questions questions.jsonl --env.corpus"
ASKS = "igsearch evaluate --policy search-question --corpus corpus.jsonl --questions"
COMPARES = "python examples/compare_algorithms.py"
REAL = "python examples/train_real.py"

WORDS = [
    *_of(
        "igsearch",
        ("tarin", "tarin: no such command", "did you mean train?"),
        ("train --steps 3", "the algorithm comes first"),
        ("train ig-grpo", "ig-grpo: no such algorithm", "did you mean ig_grpo?"),
        ("train nowhere.py", "nowhere.py: no such file", "ig_grpo"),
    ),
    *_of(
        TRAIN,
        ("--stesp 3", "--stesp: no such option", "did you mean --steps?"),
        ("--rollout.groupsize 4", "--rollout.groupsize", "did you mean --rollout.group-size?"),
        ("--lr 1e-5", "--lr: no such option", "did you mean --optimizer.lr?"),
        ("--model gpt2", "--model", "did you mean --policy.path?"),
        ("--output x", "--output", "did you mean --run-dir?"),
        ("--num-epochs 3", "--num-epochs", "did you mean --steps?"),
        ("--resume-from-checkpoint x", "--resume-from-checkpoint: no such option", "the same command", "resumes"),
        ("--gpus 2", "--gpus: no such option", "torchrun --nproc-per-node"),
        ("steps=3", "steps=3", "two dashes: --steps 3"),
        ("-steps 3", "-steps", "two dashes: --steps"),
        ("3", "3: it belongs to no option", "--help"),
        ("--overwrite True", "--overwrite True: a flag takes no value", "--no-overwrite"),
        ("--steps", "--steps: its value is missing", "--steps NUMBER"),
        ("--steps 1e3", "--steps 1e3: must be a whole number", "write 1000"),
        ("--optimizer.lr abc", "--optimizer.lr abc: must be a number"),
        ("--env.top-k 0", "env.top_k=0: must be at least 1"),
        ("--threads 100000", "threads=100000: must be from 1 to 1024"),
        ("--loss.clip-ratio-low 5", "loss.clip_ratio_low=5.0: must be from 0 to 1"),
        ("--policy.dtype bf16", "policy.dtype='bf16'", "did you mean 'bfloat16'?"),
        ("--config nowhere.yaml", "--config nowhere.yaml: no such file", "smollm2-135m"),
        ("--config smollm2", "--config smollm2: no such file", "did you mean smollm2-135m?"),
        ("--config unknown-key.yaml", "unknown-key.yaml", "'stpes'", "did you mean 'steps'?"),
        ("--config other-section.yaml", "'learning_rate'", "did you mean 'lr' in the section 'optimizer'?"),
        ("--config invalid.yaml", "invalid.yaml: not YAML", "line 2", "correct the file"),
        ("--config wrong-value.yaml", "wrong-value.yaml: optimizer.lr fast: must be a number"),
        ("--config list.yaml", "list.yaml: a list", "key: value"),
        ("--config presets.yaml --preset large", "'large'", "must be one of 'small'"),
        ("--preset hour", "--preset hour", "give its --config too"),
    ),
    *_of(
        "igsearch",
        ("evaluate run", "run: it belongs to no option", "--help"),
        ("evaluate --resume", "--resume: no such option", "the same command"),
        ("compare before.json", "AFTER: missing", "igsearch compare BEFORE AFTER"),
        ("export run", "--output: missing", "igsearch export RUN --output OUTPUT"),
        ("report", "no run", "give a run folder"),
        ("index --corpus corpus.jsonl", "--output: missing", "--corpus CORPUS --output OUTPUT"),
        ("index --courpus corpus.jsonl", "--courpus", "did you mean --corpus?"),
        ("serve", "--corpus: missing", "igsearch serve --corpus CORPUS"),
        ("serve --corpus corpus.jsonl --port http", "--port http: must be a whole number"),
    ),
]

INPUTS = [
    *_of(
        TRAIN,
        ("--policy.path no-tokenizer", "'no-tokenizer': no tokenizer", "save_pretrained"),
        ("--policy.path no-weights", "'no-weights': no weights", "save_pretrained"),
        ("--policy.path damaged-model", "damaged-model/config.json", "restore the file"),
        ("--policy.path notes.txt", "'notes.txt': a file", "give a folder"),
        ("--policy.path empty", "'empty': no config.json", "give a folder"),
        ("--policy.path run", "'run': no config.json", "folder of a run"),
        ("--policy.path ./nowhere", "'./nowhere': no such folder", "give a folder"),
        ("--policy.path gpt2", "'gpt2': no such folder, and the Hub does not answer", "hf download gpt2"),
        ("--policy.path nowhere.gguf", "'nowhere.gguf': there is no such file", "hf:OWNER/REPOSITORY/FILE.gguf"),
        ("--policy.path text.gguf", "'text.gguf': not a GGUF file"),
        ("--policy.device gpu", "policy.device='gpu'", "set it to cuda"),
        ("--rollout.engine vllm", "vllm is not installed", "pip install 'igsearch[vllm]'"),
        ("--rollout.engine vllm_server", "rollout.server_url=''", "needs an address"),
        ("--env.prompt nosuch", "prompt='nosuch': neither a name", "{question}"),
        ("--env.questions questions.jsonl", "no corpus is given", "give --env.corpus"),
        ("--env.corpus corpus.jsonl", "--env.corpus corpus.jsonl", "give --env.questions"),
        ("--env.corpus corpus.jsonl --env.questions nowhere.jsonl", "nowhere.jsonl: no such file", "env.questions"),
        (
            "--env.corpus corpus.jsonl --env.questions questions.jsonl --information-gain.source support",
            "source='support': question",
            "has no supporting_titles",
            "or another source",
        ),
        ("--env.corpus corpus.jsonl --env.questions empty.jsonl", "empty.jsonl: contains no questions"),
        ("--env.corpus corpus.jsonl --env.questions broken.jsonl", "broken.jsonl, line 5: not a JSON object"),
        ("--env.corpus corpus.jsonl --env.questions no-answers.jsonl", "line 1: no field with answers", "add one of"),
        ("--env.corpus corpus.jsonl --env.questions train-only.jsonl:dev", "no rows of split 'dev'", "name a split"),
    ),
    *_of(
        OWN,
        ("nowhere.jsonl", "env.corpus: nowhere.jsonl: no such file", "pass one"),
        ("empty", "env.corpus: empty: a folder without an index", "igsearch index"),
        ("empty.jsonl", "empty.jsonl: contains no passages"),
        ("picture.png", "picture.png: no known format", "pass JSON lines"),
    ),
    Mistake(f"{TRAIN} --policy.path model.gguf", ("model.gguf", "pip install 'igsearch[gguf]'"), ("gguf",)),
    Mistake(f"{ASKS} questions.parquet", ("questions.parquet", "pip install 'igsearch[benchmarks]'"), ("pyarrow",)),
    *_of(
        "igsearch evaluate",
        ("--policy serch-question", "'serch-question': no such policy", "did you mean 'search-question'?"),
        ("--policy no-tokenizer", "policy='no-tokenizer': no tokenizer"),
        ("--policy search-question --max-new-tokens 32", "with max_new_tokens: a scripted policy", "omit"),
        ("--policy search-question --rollout.engine vllm", "with rollout.engine: a scripted policy", "omit"),
        ("--answers nowhere.json", "nowhere.json: no such file"),
        ("--answers no-result.json", "no-result.json", "add a field prediction"),
        ("--answers no-result.json --policy bundled", "with policy: recorded answers", "omit"),
        (
            "--policy search-question --questions questions.jsonl --corpus other-corpus.jsonl --retriever index",
            "index: built from another corpus than other-corpus.jsonl",
            "give index as the corpus",
        ),
    ),
    *_of(
        ASKS,
        ("broken.jsonl", "broken.jsonl, line 5"),
        ("train-only.jsonl", "nq has no row of split 'test'", "another split"),
        ("questions.jsonl --where color=red", "where='color=red': no question matches"),
        ("questions.jsonl --top-k 100", "top_k=100 with a corpus of 30 passages", "lower top_k"),
        ("questions.jsonl --retriever bm52", "retriever: bm52: no such file", "'bm25'"),
    ),
    *_of(
        "igsearch",
        ("compare before.json nowhere.json", "nowhere.json: not a result file", "igsearch evaluate"),
        ("compare before.json run", "run: not a result file"),
        ("compare before.json notes.txt", "notes.txt: not a result file"),
        ("compare before.json others.json", "no question in common", "evaluate the same ones"),
        ("report nowhere", "nowhere: no such folder", "--run-dir"),
        ("report empty", "empty holds neither metrics.jsonl nor config.yaml", "--run-dir"),
        ("report damaged-settings", "damaged-settings/config.yaml", "restore it"),
        ("report damaged-test", "damaged-test/test_before.json", "restore it"),
        ("export run --output out", "run has no such policy", "wait for its first checkpoint"),
        ("export empty --output out", "empty: not the folder of a run", "--run-dir"),
        ("export run --output out --dtype fp16", "dtype='fp16'", "must be one of 'float32'"),
        ("play --questions nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("index --corpus nowhere.jsonl --index bm25 --output out", "nowhere.jsonl: no such file"),
        ("index --corpus corpus.jsonl --index bm52 --output out", "bm52"),
        ("serve --corpus nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("warm-start", "warm_start.folder is not set", "--warm-start.folder FOLDER"),
    ),
    *_of(
        COMPARES,
        ("--algorithms nosuch", "--algorithms 'nosuch'", "grpo"),
        ("--seeds a", "--seeds a: must be a whole number"),
        ("--jobs 100000", "--jobs=100000: must be from 1 to"),
        ("--quik", "--quik: no such option", "did you mean --quick?"),
        ("--starts cold=./nowhere", "--starts cold='./nowhere'", "no such folder"),
    ),
    *_of(
        REAL,
        ("--data empty", "--data empty: it has no corpus.jsonl", "build_corpus"),
        ("--preset weekend", "'weekend': must be one of 'minutes'"),
        ("--algorithm nosuch", "nosuch", "ig_grpo"),
    ),
]

OUTPUTS = [
    *_of(
        TRAIN,
        ("--run-dir notes.txt", "--run-dir notes.txt: a file", "give a folder"),
        ("--run-dir notes.txt/run", "notes.txt is not a folder", "give another"),
        ("--run-dir /proc/run", "/proc can't be written to", "give another"),
        ("--run-dir locked", "locked is in use by process", "wait until it has ended"),
        ("--run-dir run --optimizer.lr 1e-5", "run holds a run with optimizer.lr=0.0003", "1e-05", "--overwrite"),
        ("--run-dir damaged-settings", "damaged-settings/config.yaml: not YAML", "restore it"),
        ("--run-dir model --overwrite", "model is not deleted, because it is not a run", "another --run-dir"),
        ("--warm-start.folder run", "run", "give another folder"),
    ),
    *_of("igsearch train grpo", ("--run-dir run", "run holds a run with algorithm='ig_grpo'", "another --run-dir")),
    *_of(
        ASKS,
        ("questions.jsonl --output before.json", "before.json has the result of another evaluation", "--output"),
        ("questions.jsonl --output notes.txt", "notes.txt: not a result file", "give another --output"),
        ("questions.jsonl --output empty", "--output empty: a folder", "empty/out"),
        ("questions.jsonl --output /proc/out.json", "/proc can't be written to", "give another"),
    ),
    *_of(
        "igsearch",
        ("compare before.json after.json --output empty", "--output empty: a folder"),
        ("report run --output notes.txt/x.html", "notes.txt is not a folder", "give another"),
        ("report run --live --port {port}", "--port {port}", "give another one"),
        ("report run --live --port 99999", "99999", "from 0 to 65535"),
        ("report run --output /proc/x.html", "/proc can't be written to", "give another"),
        ("export run --output notes.txt", "notes.txt"),
        ("export run --output /proc/out", "/proc", "give another"),
        ("export run --output out --private", "--private without --push"),
        ("index --corpus corpus.jsonl --index bm25 --output index", "index exists", "choose another folder"),
        ("index --corpus corpus.jsonl --index bm25 --output /proc/out", "/proc", "write elsewhere"),
        ("serve --corpus corpus.jsonl --port {port}", "port {port}", "use another --port"),
    ),
    *_of(
        COMPARES,
        ("--output notes.txt", "--output notes.txt: a file", "give a folder"),
        ("--output /proc/out", "/proc can't be written to", "give another"),
    ),
]

NO_SPACE = "No space left on device"
MACHINE = [
    *(
        Mistake(command, (NO_SPACE, repair), full_disk=True)
        for command, repair in (
            (f"{TRAIN} --run-dir full/run", "give another"),
            (f"{ASKS} questions.jsonl --output full/out.json", "give another"),
            ("igsearch report run --output full/x.html", "give another"),
            ("igsearch index --corpus corpus.jsonl --index bm25 --output full/index", "write elsewhere"),
            (f"{COMPARES} --output full/out", "give another"),
        )
    ),
    Mistake(
        f"{TRAIN} --policy.path some/model", ("some/model", "the Hub does not answer", "hf download"), silent_hub=True
    ),
]

MISTAKES = (*WORDS, *INPUTS, *OUTPUTS, *MACHINE)
