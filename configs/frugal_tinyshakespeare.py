"""FRUGAL on a LLaMA-style model of 0.6M parameters and the characters of tinyshakespeare.

    python -m experiments.train --config=configs/frugal_tinyshakespeare.py --data_dir=DATA

With ``:smoke`` after the file name: seconds, on this repository's README.
"""

from ml_collections import config_dict

from configs import tinyshakespeare_llama


def get_config(arg: str = ""):
    """Returns the config; ``arg`` as in ``tinyshakespeare_llama.py``."""
    config = tinyshakespeare_llama.get_config(arg)
    config.optimizer.name = "frugal"
    config.optimizer.b2 = None
    config.optimizer.weight_decay = 0.0
    config.optimizer.density = config_dict.placeholder(float)
    config.optimizer.update_gap = config_dict.placeholder(int)
    return config
