#!/usr/bin/env bash
# torch==2.13.0: torch.nn.utils.prune works by a hook on the pruned module's
# call. MultiheadAttention never calls its `out_proj`, only takes its weight.
# So an attention pruned there
# - is trained for one step, and the second step fails in `backward`;
# - takes a state dict without a missing or unexpected key, and goes on with the
#   weights from before: outputs do not change at all.
# A pruned Linear is trained, and computes with what it has loaded.
#
# output seen:
#   Linear: trained, what was loaded is used: True
#   attention's out_proj: RuntimeError in step 2, what was loaded is used: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON' | tee output
import torch
from torch import nn
from torch.nn.utils import prune

x = torch.ones(2, 5, 8) * torch.arange(8.0)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
        self.pruned = self.inner.out_proj

    def forward(self, x):
        return self.inner(x, x, x)[0]


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.pruned = nn.Linear(8, 8)

    def forward(self, x):
        return self.pruned(x)


def make(kind, seed):
    torch.manual_seed(seed)
    model = kind()
    prune.l1_unstructured(model.pruned, "weight", 0.5)
    return model


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        try:
            model(x).square().mean().backward()
        except RuntimeError as error:
            assert "a second time" in str(error)
            return f"RuntimeError in step {step}"
        optimizer.step()
    return "trained"


for name, kind in (("Linear", Dense), ("attention's out_proj", Attention)):
    model = make(kind, seed=1)
    model(x)
    model.load_state_dict(make(kind, seed=2).state_dict(), strict=True)
    model(x)
    layer = model.pruned
    used = torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
    print(f"{name}: {train(make(kind, seed=0))}, what was loaded is used: {used}")
PYTHON
grep -qx 'Linear: trained, what was loaded is used: True' output
grep -qx "attention's out_proj: RuntimeError in step 2, what was loaded is used: False" output
