"""What a cluster has, and may come to have."""

from pathlib import Path

from raygen.cluster import read_launched

LAUNCHED = """
max_workers: 5
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}, max_workers: 0}
  readers: {resources: {CPU: 16}, min_workers: 0, max_workers: 4}
  trainers: {resources: {CPU: 8, GPU: 2}, min_workers: 0, max_workers: 3}
"""


def test_what_the_launcher_may_add(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(LAUNCHED)
    trainers, readers = {"CPU": 8, "GPU": 2}, {"CPU": 16}
    assert read_launched(str(file)) == [trainers] * 3 + [readers] * 2
    assert read_launched(str(tmp_path / "none.yaml")) == []
