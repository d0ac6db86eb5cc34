"""`gensci doctor`: what is installed, which device is used, what works."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

PACKAGES = (
    "torch", "numpy", "safetensors", "jsonargparse", "openmm", "mdtraj", "pytorch-lightning",
    "normflows", "e3nn", "matplotlib", "rdkit", "pymatgen", "ase", "smact", "chgnet", "arviz",
    "corner", "h5py", "lalsuite", "dask", "triton",
)  # fmt: skip


def doctor() -> int:
    """Print versions, the device, the compiled kernels and the state of every checkpoint.

    The exit status is 1 where something that is needed for sampling peptides does not work.
    """
    import torch

    from gensci.commands.device import choose_device, describe_device

    print(f"gensci            {importlib.metadata.version('gensci')}")
    print(f"python            {platform.python_version()} on {platform.platform()}")
    for name, version in package_versions().items():
        print(f"{name:<18}{version}")
    print(f"device            {describe_device(choose_device('auto'))}")
    print(f"threads           {torch.get_num_threads()} of {_cores()} cores")
    print(f"compiler          {shutil.which('cc') or 'none found (energies by torch, slower)'}")
    _show_kernels()
    print(f"posteriors        {_posteriors()}")
    problems = [*_check_checkpoints(), *_check_peptides()]
    for problem in problems:
        print(f"problem           {problem}")
    if not problems:
        print("all well")
    return 1 if problems else 0


def package_versions() -> dict[str, str]:
    """Installed versions; absent ones say so."""
    return {name: _version(name) or "not installed" for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show_kernels() -> None:
    from gensci.nn import native_edm_head, native_inverse, native_placing
    from gensci.sims import forcefield
    from gensci.sims.forcefield.gpu import gpu_status

    print(f"force field       {forcefield.kernel_status()}")
    print(f"on a GPU          {gpu_status()}")
    print(f"flow inverse      {native_inverse.kernel_status()}")
    print(f"internal flow     {native_placing.kernel_status()}")
    print(f"diffusion head    {native_edm_head.kernel_status()}")


def _check_checkpoints() -> list[str]:
    """Load every checkpoint that is found, which verifies hash, shapes and settings."""
    import gensci.commands.prepare
    import gensci.nn.conditional_flow
    import gensci.nn.proposal_network  # noqa: F401  (these register families and classes)
    from gensci.core.errors import CheckpointError
    from gensci.core.registry import SYSTEMS
    from gensci.models.checkpoint import list_checkpoints, load_network

    problems = []
    for name, folder in list_checkpoints().items():
        try:
            load_network(folder)
        except CheckpointError as error:
            problems.append(f"checkpoint {name}: {error}")
        except ModuleNotFoundError as error:
            print(f"checkpoint        {name} needs {error.name} (pip install 'gensci[posterior]')")
        else:
            print(f"checkpoint        {name} verified ({folder})")
    found = list_checkpoints()
    defaults = dict.fromkeys(SYSTEMS.metadata(name).get("checkpoint") for name in SYSTEMS)
    problems += [
        f"the default checkpoint {default} is missing; install gensci again, or name another "
        "by --checkpoint (`gensci train` and `gensci convert` make some)"
        for default in defaults
        if default and default not in found
    ]
    return problems


def _posteriors() -> str:
    """Whether `gensci infer` has what it needs."""
    needed = ("normflows", "arviz", "h5py", "scipy", "corner", "matplotlib")
    missing = [name for name in needed if _version(name) is None]
    if missing:
        return f"need {', '.join(missing)}: pip install 'gensci[posterior]'"
    return "gensci infer: simulators and LISA binaries"


def _check_peptides() -> list[str]:
    missing = [name for name in ("openmm", "mdtraj") if _version(name) is None]
    if not missing:
        return []
    return [f"{' and '.join(missing)} not installed; pip install 'gensci[peptides]'"]
