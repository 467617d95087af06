"""Ranks on this machine, over gloo: processes that live as long as a test module."""

import multiprocessing
import pickle
import traceback
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist


class Ranks:
    """Processes of one group. Called with a function, each runs it, and all results come back."""

    def __init__(self, size, folder):
        context = multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for rank in range(size):
            own, other = context.Pipe()
            process = context.Process(
                target=_serve, args=(other, rank, size, str(folder / "store")), daemon=True
            )
            process.start()
            other.close()
            self.connections.append(own)
            self.processes.append(process)

    def outcomes(self, function, *arguments):
        """Run a function of a module on every rank: its result, or its error as a string."""
        for own in self.connections:
            own.send((function, arguments))
        return [own.recv() for own in self.connections]

    def __call__(self, function, *arguments):
        """Run a function on every rank; errors are raised here."""
        found = self.outcomes(function, *arguments)
        for is_error, value, trace in found:
            assert not is_error, f"{value}\n{trace}"
        return [value for _, value, _ in found]

    def close(self):
        for own in self.connections:
            own.close()
        for process in self.processes:
            process.join(5)
            process.kill()


def _serve(connection, rank, size, store):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (False, function(*arguments), "")
            pickle.dumps(answer)
        except Exception as error:
            answer = (True, f"{type(error).__name__}: {error}", traceback.format_exc())
        connection.send(answer)
