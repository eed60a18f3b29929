"""Does each probe find what was planted, and only that?

`python -m tests.probes.certify [--csv FILE] [PROBE ...]` prints the table. Teacher, students and controls are the small
networks of `planted`. A student of the teacher is its teacher on a share of the images, else a network of its own; the
networks of one seed share their filters. Every network is asked once by the real probe, on each of several sets of
images; a cast is then drawn: a set of images, and so many seeds. False alarms are claims about students that never met
the teacher: a second independent network, and one that took over as much of a foreign network, each seed of another."""
import argparse, time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from kd_knowledge.core import quiet
from kd_knowledge.models import anatomy
from kd_knowledge.probes import Cast, estimate, PROBES, wins
from tests.probes.planted import both, Either, Hesitant, Lot, Same, Sharp, SIZE, Unfair, World

SHARE, SEEDS, IMAGES = .3, 6, 300  # what is planted, and what a cast has
