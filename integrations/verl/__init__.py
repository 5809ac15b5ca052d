"""verl: an agent loop, `igsearch`, and an advantage estimator per algorithm, such as `igsearch_ig_grpo`.

Set VERL_USE_EXTERNAL_MODULES=integrations.verl: then verl imports this in each of its processes, which registers them.
"""

from retrievers.reading import import_optional

import_optional("verl", "verl", "integrations.verl")

from integrations.verl.advantages import ESTIMATORS, register_algorithm, register_estimators  # noqa: E402
from integrations.verl.agent_loop import AGENT_NAME, IGSearchAgentLoop  # noqa: E402

register_estimators()

__all__ = ["AGENT_NAME", "ESTIMATORS", "IGSearchAgentLoop", "register_algorithm"]
