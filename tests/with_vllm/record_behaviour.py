"""python record_behaviour.py RESULT MODEL: what `fake_vllm.py` must be like, from the vLLM that is installed.

To record again: RESULT tests/golden/vllm/engine.json, MODEL igsearch_env/world/policy (`vllm_interpreter.py` has the
variables).
"""

import json
import os
import sys
from dataclasses import fields
from pathlib import Path

import borrowed_packages  # noqa: F401 # before others

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import vllm
from transformers import AutoTokenizer
from vllm.engine.arg_utils import EngineArgs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms.interface import Platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.core_client import InprocClient
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm_behaviour import behaviour, signatures

result, model = sys.argv[1:]
classes = {
    "LLM": vllm.LLM,
    "LLMEngine": LLMEngine,
    "EngineCore": InprocClient,
    "Worker": GPUModelRunner,  # the worker passes its arguments on
    "Platform": Platform,
}
tokenizer = AutoTokenizer.from_pretrained(model)
prompts = [
    tokenizer.encode(text, add_special_tokens=False)
    for text in ("Where was Zose Drartov born?\n", "Who wrote it?\n", "In which country was the author of it born?\n")
]
sampling = vllm.SamplingParams()
recorded = {
    "version": vllm.__version__,
    "signatures": signatures(classes),
    "engine arguments": sorted(field.name for field in fields(EngineArgs)),
    "sampling": {name: getattr(sampling, name) for name in sorted(sampling.__struct_fields__)},
    "output kinds": {kind.name: kind.value for kind in RequestOutputKind},
    "outputs": {
        "CompletionOutput": [field.name for field in fields(CompletionOutput)],
        "RequestOutput": sorted(vars(RequestOutput("0", None, [1], None, [], True))),
    },
    "prompts": prompts,
    "behaviour": behaviour(model, prompts),
}
plain = json.loads(json.dumps(recorded, default=lambda value: getattr(value, "name", str(value))))
Path(result).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")
