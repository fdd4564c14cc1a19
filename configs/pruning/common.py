"""The keys that every config of ``experiments.prune`` has."""

from ml_collections import ConfigDict, config_dict

from configs import common


def pruning() -> ConfigDict:
    """Returns the default config: SGD with momentum, cosine schedule, BiP at a tenth."""
    config = common.supervised()
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    # Not of this main.
    for key in ("steps", "groups", "eval_every", "loss", "accumulate", "micro_batches"):
        del config[key]
    del config.data.stream, config.data.length
    config.prune = {
        # dense, bip, imp, imp_rewind_lr2, imp_finetune_lr2, imp_reinit, omp, gmp, granet, random,
        # snip, grasp, zo_grasp, synflow, hydra.
        "method": "bip",
        "density": 0.1,  # Share of the prunable weights that is kept.
        "structure": "weight",  # Of BiP: weight, filter, channel or N:M.
        "rewind_epochs": 2.0,  # What IMP and OMP rewind to.
        "through": (),  # Densities that IMP's rounds hit on their way.
        # Of random: global or erk. Of IMP and OMP: global, or lottery: each layer alike, but the
        # last one at half the rate.
        "allocator": "global",
        "mask_learning_rate": 10.0,  # BiP's beta; 0.1 and 0.01 of it after 50 and 75 %.
        "inverse_gamma": 1e-4,  # BiP's 1/gamma; 0 drops the implicit term.
        "second_order": True,
        # Of BiP: True for what the authors' program computes; unaliased or implicit for a part.
        "authors": config_dict.placeholder(object),
        "hydra_learning_rate": 0.1,  # Of the scores of hydra and jackpot.
        "split_by_seed": True,  # Another split of training and test data for each seed.
    }
    return config


def sparse() -> ConfigDict:
    """Returns the config of sparse training and calibrated pruning: RigL at a tenth.

    Methods that train once from the start: static, rigl, set, granet_sparse, itop, momentum; with
    ``structure`` N:M ste, sr_ste, mdgf_linear, mdgf_exponential, sdgf; a pool of shared numbers, as
    many as ``density`` says: rps, roast, hashednet. Rounds of a trained model: global, lamp,
    uniform_plus, sap. Scores of a trained model: jackpot. Without training, from some examples:
    wanda, gblm, sparsegpt, dsnot, flap, and magnitudes cut to levels that are searched: rd_dp,
    evopress. All methods of ``pruning()`` too.
    """
    config = pruning()
    config.prune.method = "rigl"
    # Of dynamic masks and static: erk or uniform (global is erk). Of sap: global, layer or neuron.
    config.prune.allocator = "global"
    # How long the method trains, in times of dense training; None: 1, of those that look at some
    # examples 0.
    config.prune.length = config_dict.placeholder(int)
    # What a pruned trained model retrains: all, bias (and norms), lora (and low-rank adapters).
    config.prune.retrain = "all"
    config.prune.rank = 4  # Of the adapters.
    config.prune.rounds = 1  # Of global, lamp, uniform_plus and sap.
    config.prune.min_keep = 0  # Of global: weights that each layer keeps at least.
    config.prune.initial_density = 0.5  # Of granet_sparse.
    config.prune.every_epochs = 0.5  # Between exchanges.
    config.prune.fraction = config_dict.placeholder(float)  # That is exchanged; None: its own.
    config.prune.calibration = 256  # Examples that calibrated methods look at.
    return config
