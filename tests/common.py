"What several test files use: a check of an error's one line, and a network that breaks."
import pytest
from torch import nn

from kd_knowledge.core import KDError


def says(function, *texts):
    "The one-line message of the `KDError` that `function` raises, which holds `texts`."
    with pytest.raises(KDError) as error: function()
    line = str(error.value)
    assert '\n' not in line and len(line) < 600
    for text in texts: assert text in line, line


class Fails(nn.Module):
    "A network that raises at its n-th forward."
    def __init__(self, net, error, at): super().__init__(); self.net, self.error, self.at, self.recipe = net, error, at, dict(n_classes=4)
    def forward(self, x):
        self.at -= 1
        if self.at == 0: raise self.error
        return self.net(x)
