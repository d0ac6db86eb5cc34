"""What tracks spare: prompts that rows share are read once, states that none asks for never."""

import torch
from structure_cases import crystal, crystal_network

from gensci.nn.structure_decoding import Track, _distinct, draw_slots, open_slots


def batch_of(network, rows):
    structures = [crystal([22, 8, 8], 1), crystal([11, 17, 17], 2)]
    batch = network.collate(structures, torch.Generator().manual_seed(0))
    return batch.rows(torch.tensor(rows))


def test_rows_with_one_prompt_are_found():
    network = crystal_network(drop_source=0.0)
    batch = batch_of(network, [1, 0, 1, 1, 0])
    kinds, row = _distinct(batch, batch.places[1])
    assert len(kinds) == 2
    assert (batch.ids[kinds][row] == batch.ids).all()
    kinds, row = _distinct(batch_of(network, [1, 1]), batch.places[1])
    assert kinds.tolist() == [0] and row.tolist() == [0, 0]


def test_shared_prompts_give_every_row_its_state():
    network = crystal_network(drop_source=0.0)
    batch = batch_of(network, [1, 0, 1, 1, 0])
    wanted = network(batch)
    seen = []

    def solve(denoiser):
        seen.append((track.place, track.hidden.clone()))
        return batch.value[track.open, track.place]

    with torch.no_grad():
        track = Track(network, batch, ~open_slots(batch))
        drawn = draw_slots(track, solve)
    torch.testing.assert_close(drawn.value, batch.value)
    assert len(seen) == int(open_slots(batch)[0].sum())
    for place, hidden in seen:
        torch.testing.assert_close(hidden, wanted[:, place - 1], atol=2e-4, rtol=1e-3)
