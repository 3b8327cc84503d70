"""Benchmarks that anyone can run: gollm, a peer, and the machine's own limit take turns, and what counts are ratios.

    gollm bench matmul training          gollm bench inference MODEL          pytest bench

worker.py       a process that makes one thing and, in its turn, does it again and again
turns.py        starts those processes, gives them turns, and keeps what they say
with_gollm.py   what gollm does in its turn, and what the machine can do; with_numpy.py, with_torch.py and
                with_llama_cpp.py: the peers
cases.py        what is measured, by group
inference.py    the same of one model's prefill and decoding, and its table
report.py       times into rates, shares of the limit, ratios, geometric means

Peers are never imported here, only in processes of their own: two pools of threads in one process spin against each
other, and a process' peak memory is then that of one contestant.
"""
