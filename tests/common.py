"What several test files use: a check of an error's line, a network that breaks, marks for what a machine may lack."
import shutil
from pathlib import Path

import pytest
from torch import nn

from kd_knowledge.core import KDError

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FASHION = Path('/usr/share/datasets/fashion-mnist')  # where Debian's package puts Fashion-MNIST

# A reason that ends with `brings it` names a thing that can be had: `.ci/run` brings it, and skips nothing.
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='no browser: apt-get install chromium brings it')
needs_fashion = pytest.mark.skipif(not any(FASHION.glob('t10k-images-idx3-ubyte*')),
                                   reason='no Fashion-MNIST: apt-get install dataset-fashion-mnist brings it')


def says(function, *texts):
    "The one-line message of the `KDError` that `function` raises, which holds `texts`."
    with pytest.raises(KDError) as error: function()
    line = str(error.value)
    assert '\n' not in line and len(line) < 600
    for text in texts: assert text in line, line


class Fails(nn.Module):
    "A network that raises at its n-th forward."
    def __init__(self, net, error, at):
        super().__init__()
        self.net, self.error, self.at, self.recipe = net, error, at, dict(n_classes=4)

    def forward(self, x):
        self.at -= 1
        if self.at == 0: raise self.error
        return self.net(x)
