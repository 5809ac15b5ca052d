"""An exported policy: a folder that transformers, vLLM and the Hugging Face Hub accept, with a model card."""
