"""From configuration to the sensors of the box itself."""

from __future__ import annotations

from pathlib import Path

from firmware_configs.host import HostProfile
from firmware_configs.loader import ProfileError, Profiles
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor
from gateway.sensors.host import HostSensor, had
from gateway.sensors.host_clock import ClockFacts
from gateway.sensors.host_facts import InterfaceFacts, LinuxFacts
from protos.config import GatewayConfig
from protos.config import HostSensor as SensorOptions


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One driver per [[sensor]]. What the box has is looked at here. Raises Misconfigured."""
    wanted = [options for options in config.sensor if isinstance(options, SensorOptions)]
    made = [_sensor(options, config, clock, profiles, data_dir) for options in wanted]
    return Built(sensors=tuple(BuiltSensor(one.id, one) for one in made))


def _sensor(
    options: SensorOptions, config: GatewayConfig, clock: Clock, profiles: Profiles, data_dir: Path | None
) -> HostSensor:
    profile = profile_of(options.id, options.profile, profiles, ("linux", "interface"))
    if profile.teller == "interface":
        if not options.interface:
            raise Misconfigured(f"sensor {options.id}: interface is needed: which network interface, e.g. wwan0")
        facts = InterfaceFacts(options.interface)
        told = facts.read()
        up = bool(told.get("carrier"))  # one that is down or away has yet to show what it can tell
        here, absent = had(profile, told) if up else (list(profile.value), [])
        return HostSensor(
            sensor=options.id, values=here, absent=absent, read=facts.read, every_s=options.every_s, clock=clock
        )
    disk = Path(options.disk) if options.disk else data_dir or Path("/")
    linux = LinuxFacts(disk=disk, fail_input=config.power.fail_input, clock=ClockFacts())
    here, absent = had(profile, linux.read())
    if not here:
        raise Misconfigured(f"sensor {options.id}: this box tells nothing of {profile.name}")
    return HostSensor(
        sensor=options.id, values=here, absent=absent, read=linux.read, every_s=options.every_s, clock=clock
    )


def profile_of(sensor: str, name: str, profiles: Profiles, tellers: tuple[str, ...]) -> HostProfile:
    """Raises Misconfigured."""
    try:
        profile = profiles.host(name)
    except ProfileError as error:
        raise Misconfigured(f"sensor {sensor}: profile {error}") from error
    if profile.teller not in tellers:
        raise Misconfigured(f"sensor {sensor}: {name} is what {profile.teller} tells, not {' or '.join(tellers)}")
    return profile
