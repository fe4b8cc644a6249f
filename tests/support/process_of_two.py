"""One of two processes with two devices each: argv is process index, port, run folder, last step, step of SIGTERM.

They agree on a value first, then train.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax


def main():
    index, port, folder, steps, term = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:6])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=index)

    from jaxmotion.parallel.mesh import MeshSizes, make_mesh
    from jaxmotion.parallel.sharding import broadcast_from_first, process_slice
    from jaxmotion.training import loop
    from tests.support import toy

    def on_sample(params, step):
        if term > 0:
            time.sleep(0.2)  # the news that one process was told to stop takes a moment to reach the other
        if step == term and index == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    edges = broadcast_from_first({"edges": [0.5 + index] * (3 + index)})
    assert edges == {"edges": [0.5, 0.5, 0.5]}, edges
    assert broadcast_from_first(index or None) is None
    mesh = make_mesh(MeshSizes(data=2, fsdp=2))
    index_of_rows, count = process_slice(mesh)
    config = toy.settings(steps=steps, save_every=100, sample_every=1)
    data = toy.loader(rows=8 // count, share=(index_of_rows, count))
    task = toy.Toy(noise=0.0)
    result = loop.run(task, config, mesh, data, folder, meta=toy.meta(config), on_sample=on_sample)
    print(f"result {result.step} {result.stopped} {index_of_rows}/{count} {result.loss:.6f}")
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
