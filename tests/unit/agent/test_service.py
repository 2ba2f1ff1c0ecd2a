"""What the agent's systemd unit must not forbid."""

from pathlib import Path

UNIT = Path(__file__).parents[3] / "systemd" / "kvmove-agent.service"


def test_the_agent_may_send_and_hear_frames_on_bridges() -> None:
    """Without it every check would say that it could not find out whether bridges are one network."""
    (families,) = [line for line in UNIT.read_text().splitlines() if line.startswith("RestrictAddressFamilies=")]
    assert "AF_PACKET" in families.split("=")[1].split()
