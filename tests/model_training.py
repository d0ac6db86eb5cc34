"""What the tests of training share."""

LIGHTNING = [
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
    "ignore:.*num_workers.*",
    "ignore:.*does not have many workers.*",
    "ignore:.*no last checkpoint available.*",
    "ignore:.*logging interval.*",
    "ignore:.*LeafSpec.*",
    "ignore:.*is not empty.*",
    "ignore:.*Checkpoint directory.*",
    "ignore:.*mid-epoch.*",
    "ignore:.*experimental feature.*",
]
STRUCTURES = ("crystal-csp", "crystal-denovo", "molecule-conformer", "molecule-denovo")
