"""`gensci data pair` writes pairs and the pool beside a prepared table."""

import pytest

from gensci.commands.pair import POOL, load_pool, pair
from gensci.core.errors import UsageError
from gensci.data import templates
from gensci.data.template_pairs import TemplatePairs
from gensci.data.templates import TemplatePool
from tests.data.crystals_by_hand import rocksalt, salts, table


@pytest.fixture
def folders(tmp_path):
    salts().save(tmp_path / "train")
    table(rocksalt("KBr", 19, 35, 6.6), rocksalt("RbI", 37, 53, 7.3)).save(tmp_path / "more")
    return tmp_path / "train", tmp_path / "more"


def test_templates_come_from_all_tables(folders, capsys):
    train, more = folders
    assert pair(str(more), f"{train},{more}", num_pairs=1) == 0
    pairs = TemplatePairs.load(more)
    assert len(pairs) == 2 and all(pairs.row(i).template_id != salts().ids[3] for i in (0, 1))
    assert TemplatePool.load(more / POOL).ids == (*salts().ids, "KBr", "RbI")
    assert "2 pairs" in capsys.readouterr().out


def test_the_pool_is_built_once(folders, monkeypatch):
    train, _ = folders
    first = load_pool(train, (str(train),))
    monkeypatch.setattr(templates.TemplatePool, "from_table", None)  # a second fit would fail
    again = load_pool(train, (str(train),))
    from_file = load_pool(train, (str(train / POOL),))
    for other in (again, from_file):
        assert other.ids == first.ids
        assert (other.elements.embedding == first.elements.embedding).all()


def test_wrong_arguments_are_refused(folders, tmp_path):
    train, _ = folders
    with pytest.raises(UsageError, match="num_pairs is 0"):
        pair(str(train), num_pairs=0)
    with pytest.raises(UsageError, match="no prepared structures"):
        pair(str(tmp_path / "absent"))
    assert not (train / POOL).exists()
