"""Apply a pair: it becomes protected, and says so wherever a person looks."""

from hack.bench.world import World


def test_a_pair_becomes_protected_and_says_so(world: World, name: str) -> None:
    world.apply(world.pair(name))
    world.kubectl("wait", "--for=condition=Ready", f"gsp/{name}", "--timeout=120s")

    status = world.status(name)
    assert (status["active"], status["phase"], status["epoch"]) == ("GPU", "Protected", 1)
    assert status["sync"]["files"] >= 4
    assert world.side(name) == "gpu"

    lines = world.kubectl("get", "gsp", name).splitlines()
    assert lines[0].split() == ["NAME", "PHASE", "ACTIVE", "GPU", "STANDBY", "SYNCED", "EPOCH", "AGE"]
    assert lines[1].split()[:5] == [name, "Protected", "GPU", "True", "True"]
    wide = world.kubectl("get", "gsp", name, "-o", "wide").splitlines()[0].split()
    assert wide[-4:] == ["READY", "MACHINE", "$/H", "LAST-FAILOVER"]
    replacements = world.kubectl("get", "gpr").splitlines()
    assert replacements[0].split() == ["NAME", "PHASE", "OFFER", "PRICE", "PROGRESS", "AGE"]
    assert "Ready" in replacements[1]

    told = world.kubectl("describe", "gsp", name)
    for event in ("Replacing", "GpuReady", "Protected"):
        assert event in told

    # What is written on the GPU is on the standby a period later.
    world.on_machine(world.machine(name), "echo precious > /workspace/notes.txt")
    world.wait(
        "the copy holds it",
        lambda: world.on_standby(name, "cat /standby/tree/notes.txt 2>/dev/null || true").strip() == "precious",
        20,
    )
    secret = world.api_key
    everything = world.kubectl("get", "gsp,gpr,configmaps,events,pods", "-o", "yaml") + world.operator_log(-1)
    assert secret not in everything
    assert "PRIVATE KEY" not in everything


def test_a_manual_failover_on_a_healthy_gpu_loses_nothing(world: World, name: str) -> None:
    world.protected(name, recovery={"failback": "Manual"}, sync={"periodSeconds": 600})
    number = world.machine(name)
    world.on_machine(number, "echo last-words > /workspace/late.txt")
    world.annotate(name, "failover=")
    world.until(name, "on the standby", lambda s: s.get("active") == "Standby" and not s.get("move"))
    assert world.on_standby(name, "cat /standby/tree/late.txt").strip() == "last-words"
    world.wait("the standby answers", lambda: world.side(name) == "cpu", 15)

    world.on_standby(name, "echo more > /workspace/from-standby.txt", container="workload")
    world.annotate(name, "failback=")
    world.until(name, "back on the GPU", lambda s: s.get("phase") == "Protected" and s.get("active") == "GPU", 60)
    assert world.machine(name) == number
    assert world.on_machine(number, "cat /workspace/from-standby.txt").strip() == "more"
    assert world.side(name) == "gpu"
