"""Load a file in mistral.rs and ask it something.

python in_mistralrs.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from mistralrs import ChatCompletionRequest, Runner, Which


def main() -> None:
    path = Path(sys.argv[1])
    runner = Runner(which=Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=path.name))
    question = {"role": "user", "content": "What is the capital of France?"}
    request = ChatCompletionRequest(model="default", messages=[question], max_tokens=24, temperature=0.0)
    answer = runner.send_chat_completion_request(request).choices[0].message.content
    assert "Paris" in answer, answer
    print(repr(answer))


if __name__ == "__main__":
    main()
