"""Compiles the GPU kernels for a device that need not be there, and reads what they take."""

import importlib
import re
import subprocess
from pathlib import Path

INTEGERS = {"n", "groups", "total"}
INDICES = {"blocks", "systems", "starts", "entries"}
FLAGS = ("HAS_TANH", "HAS_NECK", "HAS_CUTOFF", "HAS_BORN", "HAS_SALT", "HAS_SWITCH")


def passes():
    kernels = importlib.import_module("gensci.sims.forcefield.gpu_kernels")
    bonded = importlib.import_module("gensci.sims.forcefield.gpu_bonded")
    names = ("born_pass", "pair_pass", "total_pass", "chain_pass")
    return (bonded.bonded_pass, *(getattr(kernels, name) for name in names))


def compile_pass(kernel, real, tile, switches):
    """The compiled kernel for compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = {"ROWS": tile.atoms, "LANES": tile.conformations, "FORCES": True, **switches}
    names = kernel.arg_names
    constants = {(i,): values[name] for i, name in enumerate(names) if name.isupper()}
    signature = {name: argument_type(name, real) for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    target, options = GPUTarget("cuda", 90, 32), {"num_warps": tile.warps}
    return triton.compile(source, target=target, options=options)


def argument_type(name, real):
    if name.isupper():
        return "constexpr"
    if name in INTEGERS:
        return "i32"
    return "*i32" if name in INDICES else f"*{real}"


def resources(compiled, folder):
    """Registers of a thread, and bytes of its stack, of shared and of local memory."""
    import triton

    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    report = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True).stdout
    names = ("REG", "STACK", "SHARED", "LOCAL")
    return {name: int(re.search(rf"\b{name}:(\d+)", report)[1]) for name in names}
