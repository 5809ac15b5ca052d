"""`ChatHarness`: sends the conversation to the model, without tools and without a process of its own."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import httpx
from verifiers.v1.clients import ModelContext
from verifiers.v1.configs.harness import HarnessConfig
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.errors import HarnessError
from verifiers.v1.harness import Harness
from verifiers.v1.runtimes import ProgramResult, Runtime
from verifiers.v1.task import TaskData
from verifiers.v1.trace import Trace

from integrations.verifiers.names import PACKAGE


class ChatHarnessConfig(HarnessConfig):  # type: ignore[misc] # untyped base class
    """The harness has no options but a deadline."""

    id: str = PACKAGE
    timeout: float = 1800.0
    """Seconds until a turn of the model fails."""


class ChatHarness(Harness[ChatHarnessConfig]):  # type: ignore[misc] # untyped base class
    """One request a turn. verifiers' `null` harness does the same, and starts a Python process for every turn."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: ModelContext,
        trace: Trace,
        runtime: Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: TaskData,
    ) -> ProgramResult:
        """Send the conversation; the answer is recorded in the trace by verifiers."""
        system, prompt = self.resolve_prompt(data)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or []]
        # To the interception server of this process, so neither proxies nor credentials of the environment apply.
        async with httpx.AsyncClient(verify=_certificates(), trust_env=False) as client:
            reply = await client.post(
                f"{endpoint}/chat/completions",
                json={"model": ctx.model, "messages": messages},
                headers={"Authorization": f"Bearer {secret}"},
                timeout=httpx.Timeout(self.config.timeout, connect=10.0),
            )
        if reply.status_code != 200 and trace.stop_condition is None:  # a limit of the agent refuses further turns
            raise HarnessError(f"the model answered with status {reply.status_code}: {reply.text[:500]}")
        return ProgramResult(exit_code=0, stdout="", stderr="")


@cache
def _certificates() -> ssl.SSLContext:
    """Loading them takes longer than a request."""
    return ssl.create_default_context()
