# SPDX-License-Identifier: Apache-2.0
"""Finds the watermark in generated token ids, with the program that docs/compatibility.md publishes."""

import json
import math
import pathlib
import re

from checks import PAGE, check


def run(tg, model):
    published, vocab = {}, json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]
    exec(re.search(r"```python\n(def philox.*?)```", PAGE.read_text(), re.S)[1], published)
    found = {}
    for marked in (True, False):
        pairs, seed = [], 0
        while len(pairs) < 600:
            seed += 1
            details = tg.generate("Tell me a story", max_new_tokens=80, do_sample=True, temperature=2.0, seed=seed, watermark=marked,
                                  decoder_input_details=True).details
            ids = [details.prefill[-1].id, *(t.id for t in details.tokens)]
            pairs += zip(ids, ids[1:])
        green = sum(published["place"](before, token, vocab) < vocab // 2 for before, token in pairs)
        found[marked] = (green - len(pairs) / 2) / math.sqrt(len(pairs) / 4)
    check("text_generation: a watermark is found where it was asked for", found[True] > 4 > abs(found[False]), found)
