"""The official Triton client against a server: prints one JSON object of outcomes. Runs where `tritonclient` is.

    python ask_triton.py HOST:PORT
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as triton  # type: ignore[import-not-found]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gave, or the status and text of its error."""
    try:
        return call()
    except triton.InferenceServerException as error:
        return f"{type(error).__name__} {error.status()} {error.message()}"


def infer(client: Any, binary: bool, model: str = "slow_echo", shape: tuple[int, int] = (1, 3), **how: Any) -> Any:
    """One inference; tensors as JSON or as raw bytes after it."""
    data = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    tensor = triton.InferInput("INPUT0", list(shape), "FP32")
    tensor.set_data_from_numpy(data, binary_data=binary)
    wanted = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    result = client.infer(model, [tensor], outputs=wanted, request_id="compared", **how)
    return result.as_numpy("OUTPUT0").tolist()


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1], concurrency=4)
    found = {
        "infer, JSON tensors": outcome(lambda: infer(client, False)),
        "infer, binary tensors": outcome(lambda: infer(client, True)),
        "infer, binary tensors, a big one": outcome(lambda: sum(infer(client, True, shape=(4, 60000))[3]) > 0),
        "infer, a version of the model": outcome(lambda: infer(client, True, model_version="1")),
        "infer, compressed answer wanted": outcome(lambda: infer(client, True, response_compression_algorithm="gzip")),
        "infer, batch too big": outcome(lambda: infer(client, False, shape=(5, 3))),
        "infer, unknown model": outcome(lambda: infer(client, False, model="nope")),
        "ready": outcome(client.is_server_ready),
        "metadata": outcome(lambda: client.get_model_metadata("slow_echo")["name"]),
    }
    several = [client.async_infer("slow_echo", [_input(n)], request_id=str(n)) for n in range(8)]
    found["8 asynchronous at once"] = [r.get_result().as_numpy("OUTPUT0").tolist() for r in several]
    print(json.dumps(found))


def _input(number: int) -> Any:
    tensor = triton.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.full((1, 1), number, np.float32))
    return tensor


if __name__ == "__main__":
    main()
