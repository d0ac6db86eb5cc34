import copy
import math

import pytest
import torch
from named_peptides import named_peptide

from gensci.core import compiler
from gensci.core.registry import MODELS
from gensci.nn import native_inverse, tarflow
from gensci.nn.inverse import make_inverse
from gensci.nn.tarflow import TarFlowPeptide

VARIANTS = {name: {"variant": name} for name in tarflow.VARIANTS} | {
    "no adaptive norm": {"adaptive_norm": False}
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def network(variant="prose", dtype=torch.float64, **settings):
    """A tiny network whose every weight matters."""
    torch.manual_seed(3)
    size = {"channels": 8, "num_blocks": 3, "layers_per_block": 2, "head_dim": 4, "expansion": 2}
    model = TarFlowPeptide(**{**size, **VARIANTS[variant], **settings}).to(dtype)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(torch.randn_like(value) * (0.05 if "leave" in name else 0.2))
    return model


def condition(sequence="G", atoms=None):
    """Condition of a peptide, or of its first atoms (in an order that is still a permutation)."""
    cond = TarFlowPeptide.encode(named_peptide(sequence))
    if atoms is not None:
        ranks = cond["permutations"][:, :].clone()
        kept = [column[column < atoms] for column in ranks.T]
        cond = {k: v[:atoms] for k, v in cond.items()} | {"permutations": torch.stack(kept, 1)}
    return cond


def positions(n, cond, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(n, len(cond["mask"]), 3, generator=generator, dtype=torch.float64)


@each_variant
def test_log_det_is_that_of_autograd(variant):
    model, cond = network(variant), condition(atoms=6)
    for x in positions(2, cond):
        jacobian = torch.autograd.functional.jacobian(
            lambda flat: model(flat.view(1, -1, 3), cond)[0].flatten(), x.flatten()
        )
        _, log_det = model(x.unsqueeze(0), cond)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_det[0], expected, atol=1e-10, rtol=0)


@each_variant
def test_inverse_undoes_the_map(variant):
    model, cond = network(variant), condition("AG")
    x = positions(3, cond) / 0.35
    z, log_det = model(x, cond)
    back, log_det_back = model.inverse(z, cond)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det_back, log_det, atol=1e-10, rtol=0)
    assert (z - x).abs().max() > 0.05  # and the map is not the identity


@each_variant
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_samples_carry_their_own_log_prob(variant, dtype, tolerance):
    model, cond = network(variant, dtype), condition("AG")
    x, log_q = model.sample_and_log_prob(5, cond, torch.Generator().manual_seed(1))
    assert x.shape == (5, len(cond["mask"]), 3)
    assert x.dtype == log_q.dtype == dtype
    torch.testing.assert_close(model.log_prob(x, cond), log_q, atol=tolerance, rtol=0)


def test_samples_depend_on_the_seed_and_not_on_the_batch_size():
    model, cond = network(), condition("G")

    def draw(seed, batch_size):
        return model.sample_and_log_prob(7, cond, torch.Generator().manual_seed(seed), batch_size)

    whole, parts, other = draw(1, 100), draw(1, 3), draw(2, 100)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    assert (whole[0] - other[0]).abs().min() > 1e-6


@each_variant
def test_padding_changes_nothing(variant):
    model = network(variant)
    conditions = [condition(sequence) for sequence in ("G", "A", "GF")]
    rows = [positions(1, cond, seed)[0] for seed, cond in enumerate(conditions)]
    batch = model.collate(conditions, 45)
    x = torch.full((3, 45, 3), float("nan"), dtype=torch.float64)
    for row, value in enumerate(rows):
        x[row, : len(value)] = value
    alone = [model.log_prob(v[None], c)[0] for v, c in zip(rows, conditions, strict=True)]
    together = model.log_prob(x, batch)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-10, rtol=0)


def test_one_condition_for_all_equals_one_for_each():
    model, cond = network(), condition("AG")
    x = positions(3, cond)
    expected = model.log_prob(x, model.collate([cond] * 3))
    torch.testing.assert_close(model.log_prob(x, cond), expected, atol=1e-11, rtol=0)


@each_variant
def test_every_parameter_gets_a_gradient(variant):
    model, cond = network(variant), condition("AG")
    model.log_prob(positions(2, cond), cond).sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        if not name.endswith("k_norm.bias"):  # the same for all keys: the softmax cancels it
            assert value.grad.abs().max() > 1e-9, name


def test_density_integrates_to_one():
    model, cond = network(), condition(atoms=2)
    generator = torch.Generator().manual_seed(5)
    width = 0.5  # nm; wider than the density, so that the ratio has a small variance
    x = width * torch.randn(40_000, 2, 3, generator=generator, dtype=torch.float64)
    log_g = -0.5 * (x / width).square().sum((1, 2)) - 6 * math.log(width * math.sqrt(2 * math.pi))
    with torch.no_grad():
        ratio = (model.log_prob(x, cond) - log_g).exp()
    error = float(ratio.std() / len(ratio) ** 0.5)
    assert error < 0.02
    assert float(ratio.mean()) == pytest.approx(1.0, abs=4 * error)


def test_a_new_network_is_almost_the_prior():
    torch.manual_seed(0)
    model = TarFlowPeptide(channels=8, num_blocks=2, layers_per_block=1, head_dim=4, sigma_data=0.5)
    model = model.double()
    for block in model.blocks:
        torch.nn.init.zeros_(block.leave.bias)
    cond = condition("G")
    x = positions(4, cond)
    prior = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum((1, 2))
    torch.testing.assert_close(model.log_prob(x, cond), prior)


def test_augmentation_moves_rigidly_and_draws_the_centroid():
    model, cond = network(), condition("A")
    padded = model.collate([cond], 17)
    atoms = len(cond["mask"])
    x = torch.zeros(4000, 17, 3, dtype=torch.float64)
    x[:, :atoms] = positions(1, cond) + 5.0
    moved = model.augment(x, torch.Generator().manual_seed(2), padded["mask"])
    assert not moved[:, atoms:].any()
    centroid = moved[:, :atoms].mean(1)
    torch.testing.assert_close(
        torch.cdist(moved[:, :atoms], moved[:, :atoms]),
        torch.cdist(x[:, :atoms], x[:, :atoms]),
        atol=1e-6,
        rtol=0,
    )
    spread = model.sigma_data / atoms**0.5
    assert float(centroid.std()) == pytest.approx(spread, rel=0.03)
    assert float(centroid.mean()) == pytest.approx(0.0, abs=4 * spread / 12000**0.5)
    direction = torch.nn.functional.normalize(moved[:, 0] - centroid, dim=-1)
    torch.testing.assert_close(
        direction.T @ direction / len(direction), torch.eye(3).double() / 3, atol=0.03, rtol=0
    )


def test_variants_are_what_their_names_say():
    def settings(variant, **more):
        return network(variant, num_blocks=1, **more).settings

    prose = settings("prose")
    changed = {
        "no-look-ahead": {"lookahead_conditioning": False},
        "no-transition": {"transition": False},
    }
    for variant, change in changed.items():
        assert settings(variant) == prose | change
    orders = settings("no-backbone-first")["permutations"]
    assert [name for name in prose["permutations"] if "backbone" not in name] == orders
    plain = settings("tarflow")
    assert plain["permutations"] == ["residue-by-residue", "residue-by-residue_flip"]
    assert not any(plain[k] for k in ("lookahead_conditioning", "adaptive_norm", "transition"))
    assert settings("tarflow", transition=True)["transition"]  # what is said goes first
    with pytest.raises(ValueError, match="no variant 'plain' of Prose: choose from prose, no-look"):
        TarFlowPeptide(variant="plain")


def test_registry_builds_it_from_its_settings():
    model = network("tarflow")
    twin = MODELS.get("TarFlow_Peptide")(**model.settings).double()
    twin.load_state_dict(model.state_dict())
    cond = condition("G")
    x = positions(2, cond)
    assert torch.equal(twin.log_prob(x, cond), model.log_prob(x, cond))


def test_misuse_is_named():
    model, cond = network(), condition("G")
    padded = {key: value[0] for key, value in model.collate([cond], 12).items()}
    with pytest.raises(ValueError, match="one system without padding"):
        model.inverse(torch.zeros(1, 12, 3).double(), padded)
    with pytest.raises(ValueError, match="choose from backbone-first"):
        TarFlowPeptide(channels=8, head_dim=4, permutations=["sideways"])


@pytest.fixture
def kernel():
    found = native_inverse.library()
    if isinstance(found, str):
        pytest.skip(f"no C kernel: {found}")


@each_variant
@torch.no_grad()
def test_the_kernel_equals_torch(kernel, variant):
    model, cond = network(variant, torch.float32), condition("GF")
    z = torch.randn(70, len(cond["mask"]), 3, generator=torch.Generator().manual_seed(4))
    fast, slow = make_inverse(model, cond), make_inverse(model, cond, native=False)
    assert isinstance(fast, native_inverse.NativeInverse)
    exact = make_inverse(copy.deepcopy(model).double(), cond)
    for found, torchs, wanted in zip(fast(z), slow(z), exact(z.double()), strict=True):
        error = (found - wanted).abs().max()
        assert error < 5e-5
        assert error < 5 * (torchs - wanted).abs().max()  # as exact as torch, give or take


def test_the_kernel_gives_a_sample_the_same_bits_in_any_company(kernel):
    torch.set_num_threads(2)
    model, cond = network(dtype=torch.float32), condition("G")
    z = torch.randn(130, 10, 3, generator=torch.Generator().manual_seed(4))
    x, log_det = make_inverse(model, cond)(z)
    for rows in (slice(0, 1), slice(60, 130), slice(129, 130)):
        part, change = make_inverse(model, cond)(z[rows])
        assert torch.equal(part, x[rows])
        assert torch.equal(change, log_det[rows])


@pytest.fixture
def fresh_build():
    """Nothing built is remembered, neither before nor after the test."""
    native_inverse.library.cache_clear()
    yield
    native_inverse.library.cache_clear()


@torch.no_grad()
def test_the_kernel_works_untuned_and_where_it_cannot_be_kept(
    kernel, fresh_build, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(compiler, "TUNINGS", (("-march=no-such-processor",), ()))
    model, cond = network(dtype=torch.float32), condition("G")
    z = torch.randn(70, 10, 3, generator=torch.Generator().manual_seed(4))
    fast, slow = make_inverse(model, cond), make_inverse(model, cond, native=False)
    assert isinstance(fast, native_inverse.NativeInverse)
    for found, torchs in zip(fast(z), slow(z), strict=True):
        torch.testing.assert_close(found, torchs, rtol=0, atol=5e-5)


def test_without_a_compiler_torch_inverts_and_says_so(fresh_build, monkeypatch):
    monkeypatch.setenv("CC", "false")
    model = network(dtype=torch.float32)
    assert native_inverse.kernel_status() == "torch: false failed: no message"
    assert not native_inverse.fits(model)
    x, _ = model.sample_and_log_prob(3, condition("G"), torch.Generator().manual_seed(0))
    assert x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_samples_are_no_rows(dtype):
    x, log_q = network(dtype=dtype).sample_and_log_prob(0, condition("G"), torch.Generator())
    assert x.shape == (0, 10, 3)
    assert log_q.shape == (0,)
