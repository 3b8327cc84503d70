"""Pictures of runs and models: pages of HTML that open without a network, PNG and SVG. Needs gollm[report].

Numbers and drawings are in files of their own: what is drawn can be had, and tested, without drawing it.

run_curves.py      the numbers of a training report     report.py   its charts     live.py   its server
attention.py       attention weights and rollout        heads.py
prompt_layers.py   what each layer makes of a prompt    inspection.py
token_map.py       embeddings in two dimensions         map.py
output.py          pages, PNG and SVG                   theme.py    colours        tokens.py tokens in print
"""
