"""Damage is found: whatever happens to a snapshot or a page, the outcome is an error that says which file, or the same results."""

import json
import random
import shutil
from collections import Counter

import pytest
import torch

from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.page_files import DamagedPage
from harness.cache.stores import GpuStore
from harness.rollout import Snapshot, rollout
from harness.system.files import summed
from tests.accidents import VALUES, edited, hurt
from tests.conftest import make_policy

CLEAN = (ValueError, OSError, FloatingPointError)


@pytest.fixture
def go(backbone, trajectory):
    def run(**snapshot):
        return rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:3], snapshot=Snapshot(**snapshot))

    return run


def test_300_accidents_of_a_snapshot(go, trajectory, tmp_path):
    whole = go()
    go(save=tmp_path / "good", chunks=len(whole.stats) - 1)
    outcomes, draw = Counter[str](), random.Random(0)
    for i in range(320):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "m")
        folder = tmp_path / "m" / trajectory.name
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        file = draw.choice([folder / "session.json", folder / "tensors.safetensors", draw.choice(files)])
        how = "edit" if i % 4 == 0 else "gone" if i % 40 == 1 else "bytes"
        if how == "edit":  # well-formed JSON
            (folder / "session.json").write_text(json.dumps(edited(json.loads((folder / "session.json").read_text()), draw)))
        elif how == "gone":
            file.unlink()
        else:
            file.write_bytes(hurt(file.read_bytes(), draw))
        try:
            out = go(load=tmp_path / "m")
        except CLEAN as error:
            outcomes[f"{how}: named"] += 1
            assert "snapshot" in str(error) or "page" in str(error), (i, how, error)
        else:
            outcomes[f"{how}: equal"] += 1
            assert torch.equal(out.latents, whole.latents) and torch.equal(out.frames, whole.frames), (i, file)
    assert sum(outcomes.values()) == 320 and outcomes["bytes: named"] > 150 and outcomes["edit: named"] > 20, outcomes


def test_parts_of_another_kind_are_refused_whatever_the_checksum_says(go, trajectory, tmp_path):
    go(save=tmp_path, chunks=4)
    file = tmp_path / trajectory.name / "session.json"
    record = json.loads(file.read_text())
    del record["sum"]
    for name, part in record["state"].items():
        for value in VALUES:
            if value == part or name == "coming" and value is None or name in ("seed", "done") and isinstance(value, int) and value > 10**9:
                continue
            file.write_text(json.dumps(summed(record | {"state": record["state"] | {name: value}})))
            if name in ("seed", "noise") and type(value) is type(part):
                continue  # another one, and as good
            with pytest.raises(ValueError, match="is damaged or of another version"):
                go(load=tmp_path)
        file.write_text(json.dumps(summed(record | {"state": {k: v for k, v in record["state"].items() if k != name}})))
        with pytest.raises(ValueError, match="is damaged or of another version"):
            go(load=tmp_path)


def test_an_older_snapshot_without_checksums_is_still_read(go, trajectory, tmp_path):
    whole = go()
    go(save=tmp_path, chunks=4)
    file = tmp_path / trajectory.name / "session.json"
    record = json.loads(file.read_text())
    older = {k: v for k, v in record.items() if k not in ("sum", "tensors")} | {"schema": 2, "stored": [int(f) for f in record["stored"]]}
    file.write_text(json.dumps(older))
    assert torch.equal(go(load=tmp_path).latents, whole.latents)
    older["state"]["done"] = 3
    file.write_text(json.dumps(older))
    with pytest.raises(ValueError, match="is damaged or of another version .*latents is no tensor of 9 x any x any, as 3 chunks have it"):
        go(load=tmp_path)


def test_60_accidents_of_a_page(tmp_path):
    draw, outcomes = random.Random(1), Counter[str]()
    k, v = torch.randn(2, 3, 1, 6, 2, 32, generator=torch.Generator().manual_seed(0))
    page = Page(k, v, torch.rand(3, 6, 3))
    for _ in range(60):
        store = DiskStore(folder=str(tmp_path / "bank"))
        store.reset(torch.device("cpu"))
        store.put(0, page)
        file = store._path(0)
        before = file.read_bytes()
        file.write_bytes(hurt(before, draw))
        try:
            got = store.get(0)
        except DamagedPage as error:
            outcomes["named"] += 1
            assert "0000000.safetensors is damaged or gone" in str(error)
        else:
            assert file.read_bytes() == before and torch.equal(got.k, page.k)
            outcomes["equal"] += 1
        store.close()
    assert outcomes["named"] >= 50, outcomes


def test_a_fork_knows_the_checksums_too(tmp_path):
    store = DiskStore(folder=str(tmp_path / "bank"))
    store.reset(torch.device("cpu"))
    page = Page(*torch.randn(2, 3, 1, 6, 2, 32), torch.rand(3, 6, 3))
    store.put(0, page)
    twin = store.fork()
    file = twin._path(0)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.unlink()
    file.write_bytes(changed)
    with pytest.raises(DamagedPage, match="its checksum is"):
        twin.get(0)
    assert torch.equal(store.get(0).k, page.k)
    twin.close()
    store.close()
