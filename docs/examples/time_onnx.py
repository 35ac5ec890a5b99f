"""Times an ONNX file where this runs, and prints the milliseconds of each run as one line of JSON.

    python time_onnx.py FILE [--threads 1] [--runs 50] [--batch 1]

Needs onnxruntime and numpy, nothing else: copy it to a board and name it in a description such as
board-ssh.yaml.
"""

import argparse
import json
import time

import numpy as np
import onnxruntime

WARMING = 5  # runs that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description="Times an ONNX file.")
    parser.add_argument("file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    session = onnxruntime.InferenceSession(given.file, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    shape = [given.batch, *image.shape[1:]]
    feed = {image.name: np.random.default_rng(0).standard_normal(shape, np.float32)}
    times = []
    for _ in range(WARMING + given.runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"latencies_ms": times[WARMING:]}))


if __name__ == "__main__":
    main()
