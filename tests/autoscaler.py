"""What Ray's autoscaler would start, without starting it."""

from typing import Any


class Autoscaler:
    """Ray's own planning for a configuration in the form of its cluster launcher.

    Attributes: kinds: its kinds of nodes by name, without the head's.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

        self._config = AutoscalingConfig(config, skip_content_hash=True)
        known = self._config.get_node_type_configs()
        self.kinds = {
            name: kind for name, kind in known.items() if name != config["head_node_type"]
        }

    def started(self, resources: dict[str, float], count: int) -> dict[str, int]:
        """The nodes of each kind that would be started for requests of so many resources each."""
        from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
        from ray.autoscaler.v2.utils import ResourceRequestUtil

        wanted = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(resources)] * count)
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=self.kinds,
            max_num_nodes=self._config.get_max_num_nodes(),
            resource_requests=wanted,
        )
        launches = ResourceDemandScheduler().schedule(request).to_launch
        return {launch.instance_type: launch.count for launch in launches}
